"""Networks: what carries them, what they tell guests, what of OVN their changes make stale."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.network_calls import (
    a_group,
    a_network,
    a_port,
    a_subnet,
    change_network,
    networks_pb,
    ports_pb,
    subnets_pb,
    take_work,
    tombstones,
)
from tests.support.networks import a_port as a_port_row
from unkai.event.v1 import event_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import network_pb2
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.store import networks, ports
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    UnkaiError,
)

FLAT, VLAN = network_pb2.Network.TYPE_FLAT, network_pb2.Network.TYPE_VLAN


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


async def delete(api: Api, network: network_pb2.Network, **more: str) -> None:
    request = networks_pb.DeleteNetworkRequest(network_id=network.id, **more)
    await api.networks.DeleteNetwork(request)


async def get(api: Api, network: network_pb2.Network) -> network_pb2.Network:
    request = networks_pb.GetNetworkRequest(network_id=network.id)
    return (await api.networks.GetNetwork(request)).network


async def test_a_network_is_made_with_what_tunnels_leave_of_the_mtu(api: Api) -> None:
    network = await a_network(api, labels={"for": "tests"})
    assert network.type == network_pb2.Network.TYPE_OVERLAY
    assert (network.mtu, network.dns_domain, network.is_default) == (1442, "internal", False)
    assert network.reconciling
    assert await get(api, network) == network
    assert await take_work(api) == {f"network:{network.id}"}
    assert not (await get(api, network)).reconciling


async def test_a_cloud_without_ovn_refuses_to_make_anything(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a", network=NetworkSettings()) as api:
        errors: list[UnkaiError] = [
            await refused(a_network(api)),
            await refused(a_subnet(api, "net-" + "0" * 26)),
            await refused(a_port(api, "net-" + "0" * 26)),
            await refused(a_group(api)),
        ]
        page = await api.networks.ListNetworks(networks_pb.ListNetworksRequest())
    assert {(type(error), error.reason) for error in errors} == {
        (FailedPrecondition, "NETWORKING_NOT_CONFIGURED")
    }
    assert "network.northbound" in errors[0].fix
    assert not page.networks


async def test_a_physical_network_is_taken_once(api: Api) -> None:
    flat = await a_network(api, "out", type=FLAT, physical_network="public", external=True)
    assert flat.mtu == 1500
    vlan = {"type": VLAN, "physical_network": "public", "vlan_id": 7}
    await a_network(api, "seven", **vlan)
    caught = await refused(a_network(api, "again", **vlan))
    assert (type(caught), caught.reason) == (AlreadyExists, "PHYSICAL_NETWORK_TAKEN")
    caught = await refused(a_network(api, "other", type=FLAT, physical_network="lab"))
    assert (type(caught), caught.reason) == (FailedPrecondition, "UNKNOWN_PHYSICAL_NETWORK")
    assert caught.metadata["known"] == "public"


async def test_a_packet_larger_than_its_carrier_s_is_refused(api: Api) -> None:
    caught = await refused(a_network(api, mtu=1443))
    assert (type(caught), caught.reason) == (InvalidArgument, "INVALID_MTU")
    network = await a_network(api, mtu=1442)
    caught = await refused(change_network(api, network, mtu=1443))
    assert caught.reason == "INVALID_MTU"
    assert (await change_network(api, network, mtu=600)).mtu == 600
    assert (await change_network(api, network, mtu=0)).mtu == 1442


async def test_what_guests_are_told_makes_subnets_stale_and_labels_make_nothing(api: Api) -> None:
    network = await a_network(api)
    subnet = await a_subnet(api, network.id)
    await take_work(api)
    renamed = await change_network(api, network, name="green", labels={"a": "b"})
    assert (renamed.name, renamed.reconciling, await take_work(api)) == ("green", False, set())
    changed = await change_network(api, network, dns_domain="shop.example")
    assert (changed.dns_domain, changed.reconciling) == ("shop.example", True)
    assert await take_work(api) == {f"network:{network.id}", f"subnet:{subnet.id}"}
    assert (await change_network(api, network, "dns_domain")).dns_domain == "internal"


async def test_an_old_etag_is_refused(api: Api) -> None:
    network = await a_network(api)
    await change_network(api, network, name="green")
    stale = await refused(change_network(api, network, "name", name="x", etag=network.etag))
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")
    stale = await refused(delete(api, network, etag=network.etag))
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")


async def test_a_creation_repeated_with_its_request_id_returns_the_first_answer(api: Api) -> None:
    first = await a_network(api, request_id="r1")
    assert await a_network(api, request_id="r1") == first


async def test_a_network_takes_its_subnets_and_free_ports_with_it(api: Api) -> None:
    network = await a_network(api)
    subnet = await a_subnet(api, network.id)
    port = await a_port(api, network.id)
    await take_work(api)
    await delete(api, network)
    gone = {f"network:{network.id}", f"subnet:{subnet.id}", f"port:{port.id}"}
    assert await take_work(api) == gone
    assert await tombstones(api) == gone
    for call in (
        api.networks.GetNetwork(networks_pb.GetNetworkRequest(network_id=network.id)),
        api.subnets.GetSubnet(subnets_pb.GetSubnetRequest(subnet_id=subnet.id)),
        api.ports.GetPort(ports_pb.GetPortRequest(port_id=port.id)),
    ):
        assert type(await refused(call)) is NotFound


@pytest.mark.parametrize("owner", list(PortOwner))
async def test_a_network_with_something_plugged_in_stays(api: Api, owner: PortOwner) -> None:
    network = await a_network(api)

    def plug(conn: Any) -> None:
        row = networks.get(conn, network.id)
        assert row is not None
        ports.insert(conn, a_port_row(row, owner=owner, owner_id="x"))

    await api.uow.write(plug)
    caught = await refused(delete(api, network))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NETWORK_IN_USE")
    assert caught.metadata["ports"] == "1"


async def test_lists_tell_a_project_s_own_and_external_ones_of_all(api: Api) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    await a_network(api, "out", type=FLAT, physical_network="public", external=True)
    await a_network(api, "theirs", project_id=shop.id)
    await a_network(api, "ours")

    async def listed(**conditions: Any) -> list[str]:
        request = networks_pb.ListNetworksRequest(**conditions)
        return [network.name for network in (await api.networks.ListNetworks(request)).networks]

    assert await listed() == ["ours", "out", "theirs"]
    assert await listed(project_id=shop.id) == ["theirs"]
    assert await listed(project_id=shop.id, external=True) == ["out"]
    assert await listed(name="ours") == ["ours"]
    request = networks_pb.ListNetworksRequest(page_size=2)
    first = await api.networks.ListNetworks(request)
    request.page_token = first.next_page_token
    second = await api.networks.ListNetworks(request)
    names = [network.name for page in (first, second) for network in page.networks]
    assert (names, second.next_page_token) == (["ours", "out", "theirs"], "")


async def test_changes_of_a_network_are_events(api: Api) -> None:
    network = await a_network(api)
    await change_network(api, network, name="green")
    await delete(api, network)
    await api.stamp()
    request = event_service_pb2.ListEventsRequest(resource_kinds=["network"])
    page = await api.events.ListEvents(request)
    assert [event.message for event in page.events] == [
        "network green was removed",
        "network green was changed",
        "network blue was made",
    ]


async def test_a_project_s_default_group_goes_with_it_and_its_network_keeps_it(api: Api) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    network = await a_network(api, project_id=shop.id)
    port = await a_port(api, network.id, project_id=shop.id)
    remove = project_service_pb2.DeleteProjectRequest(project_id=shop.id)
    caught = await refused(api.projects.DeleteProject(remove))
    assert (caught.reason, caught.metadata["owns"]) == ("PROJECT_IN_USE", "networks,ports")
    await delete(api, network)
    await api.projects.DeleteProject(remove)
    assert f"security_group:{port.security_group_ids[0]}" in await tombstones(api)

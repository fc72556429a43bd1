"""Floating addresses over gRPC: made, led to a port, moved, taken away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.builders import a_project, an_id
from tests.support.network_api import (
    Wired,
    a_plugged_port,
    a_wired_network,
    an_external_network,
    another_subnet,
    entombed,
    marked,
    read,
    settled,
)
from tests.support.networks import a_load_balancer
from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    router_pb2,
    router_service_pb2,
)
from unkai_scheduler.domain.ports import FixedAddress, PortOwner
from unkai_scheduler.store import addresses, load_balancers, ports, projects
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

pb = floating_ip_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_floating_ip(api: Api, **fields: Any) -> floating_ip_pb2.FloatingIp:
    request = {k: fields.pop(k) for k in ("request_id", "project_id") if k in fields}
    floating = floating_ip_pb2.FloatingIp(**fields)
    asked = pb.CreateFloatingIpRequest(floating_ip=floating, **request)
    return (await api.floating_ips.CreateFloatingIp(asked)).floating_ip


async def change(api: Api, floating: Any, *mask: str, **fields: Any) -> Any:
    asked = pb.UpdateFloatingIpRequest(
        floating_ip=floating_ip_pb2.FloatingIp(id=floating.id, **fields)
    )
    asked.update_mask.paths.extend(mask)
    return (await api.floating_ips.UpdateFloatingIp(asked)).floating_ip


async def a_way_out(api: Api, outside: Wired, *inside: Wired, address: str = "") -> Any:
    """Make a router from networks to an external one."""
    gateway = router_pb2.Router.Gateway(network_id=outside.network.id)
    router = router_pb2.Router(name=f"r-{an_id('router')[-6:]}", gateway=gateway)
    made = await api.routers.CreateRouter(router_service_pb2.CreateRouterRequest(router=router))
    for wired in inside:
        place = router_pb2.Router.Interface(subnet_id=wired.subnet.id, address=address)
        await api.routers.AddRouterInterface(
            router_service_pb2.AddRouterInterfaceRequest(router_id=made.router.id, interface=place)
        )
    return made.router


async def test_an_address_is_one_of_the_only_external_network(api: Api) -> None:
    outside = await an_external_network(api)
    floating = await a_floating_ip(api)
    assert (floating.network_id, floating.address) == (outside.network.id, "203.0.113.2")
    assert floating.name == f"floating-ip-{floating.id[4:]}"
    assert floating.reconciling
    assert await marked(api) == {f"floating_ip:{floating.id}"}
    named = await a_floating_ip(api, name="web", address="203.0.113.77")
    assert (named.name, named.address) == ("web", "203.0.113.77")
    taken = await refused(a_floating_ip(api, address="203.0.113.77"))
    assert (type(taken), taken.reason) == (AlreadyExists, "ADDRESS_IN_USE")


async def test_without_one_external_network_it_must_be_named(api: Api) -> None:
    none = await refused(a_floating_ip(api))
    assert (type(none), none.reason) == (FailedPrecondition, "NO_EXTERNAL_NETWORK")
    one = await an_external_network(api)
    await an_external_network(api, "198.51.100.0/24")
    both = await refused(a_floating_ip(api))
    assert (type(both), both.reason) == (FailedPrecondition, "SEVERAL_EXTERNAL_NETWORKS")
    assert (await a_floating_ip(api, network_id=one.network.id)).address == "203.0.113.2"
    inside = await a_wired_network(api)
    private = await refused(a_floating_ip(api, network_id=inside.network.id))
    assert private.reason == "NETWORK_NOT_EXTERNAL"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("198.51.100.1", "ADDRESS_NOT_IN_SUBNET"),
        ("203.0.113.1", "ADDRESS_IS_GATEWAY"),
        ("2001:db8::9", "IPV4_REQUIRED"),
        ("web", "INVALID_ADDRESS"),
    ],
)
async def test_an_address_is_one_that_the_network_may_give(
    api: Api, address: str, reason: str
) -> None:
    await an_external_network(api)
    caught = await refused(a_floating_ip(api, address=address))
    assert (type(caught), caught.reason) == (InvalidArgument, reason)
    assert caught.metadata["field"] == "floating_ip.address"


async def test_a_network_without_ipv4_or_without_room_gives_none(api: Api) -> None:
    outside = await an_external_network(api, "2001:db8::/64")
    caught = await refused(a_floating_ip(api))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NETWORK_HAS_NO_SUBNET")
    await another_subnet(api, outside.network, "203.0.113.0/30")
    assert (await a_floating_ip(api)).address == "203.0.113.2"
    full = await refused(a_floating_ip(api))
    assert (type(full), full.reason) == (FailedPrecondition, "NO_FREE_ADDRESS")


async def test_a_malformed_one_is_refused_with_all_that_is_wrong(api: Api) -> None:
    caught = await refused(
        a_floating_ip(
            api,
            name="Web",
            labels={"": ""},
            network_id="prt-x",
            port_id="",
            address="x",
            fixed_address="10.0.0.1",
        )
    )
    assert isinstance(caught, InvalidArgument)
    assert [field for field, _ in caught.violations] == [
        "floating_ip.name",
        "floating_ip.labels",
        "floating_ip.network_id",
        "floating_ip.address",
        "floating_ip.fixed_address",
    ]


async def test_it_leads_to_a_port_by_the_router_between(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    router = await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside, owner=PortOwner.INSTANCE, owner_id=an_id("instance"))
    floating = await a_floating_ip(api, port_id=port.id)
    assert (floating.port_id, floating.fixed_address) == (port.id, port.addresses[0].address)
    assert (floating.router_id, floating.instance_id) == (router.id, port.owner_id)
    for wanted in ({"port_id": port.id}, {"instance_id": port.owner_id}, {"name": floating.name}):
        page = await api.floating_ips.ListFloatingIps(pb.ListFloatingIpsRequest(**wanted))
        assert [one.id for one in page.floating_ips] == [floating.id]
    other = pb.ListFloatingIpsRequest(port_id=an_id("port"))
    assert not (await api.floating_ips.ListFloatingIps(other)).floating_ips


async def test_without_a_router_between_it_leads_nowhere(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    port = await a_plugged_port(api, inside)
    caught = await refused(a_floating_ip(api, port_id=port.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NO_ROUTER_TO_NETWORK")
    assert caught.fix == (
        f"give a router a gateway on {outside.network.name} and an interface on "
        f"{inside.subnet.name}"
    )
    missing = await refused(a_floating_ip(api, port_id=an_id("port")))
    assert (type(missing), missing.reason) == (NotFound, "PORT_NOT_FOUND")


async def test_of_several_routers_it_passes_by_the_one_that_guests_send_by(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside, address="10.0.0.9")
    main = await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside)
    assert (await a_floating_ip(api, port_id=port.id)).router_id == main.id


async def test_it_moves_from_port_to_port_and_is_taken_away(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside)
    one, other = [await a_plugged_port(api, inside) for _ in range(2)]
    floating = await a_floating_ip(api, name="web", port_id=one.id)
    await settled(api)

    moved = await change(api, floating, "port_id", port_id=other.id)
    assert (moved.port_id, moved.fixed_address) == (other.id, other.addresses[0].address)
    assert (moved.address, moved.etag != floating.etag) == (floating.address, True)
    assert await marked(api) == {f"floating_ip:{floating.id}"}

    nowhere = await change(api, floating, "port_id")
    assert (nowhere.port_id, nowhere.fixed_address, nowhere.router_id) == ("", "", "")
    lost = await refused(change(api, floating, "fixed_address", fixed_address="10.0.0.9"))
    assert lost.reason == "FLOATING_IP_LEADS_NOWHERE"


async def test_it_leads_to_the_address_of_a_port_that_was_asked_for(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside)
    second: FixedAddress = await api.uow.write(
        lambda conn: addresses.take(conn, inside.subnet.id, port.id, position=1)
    )
    floating = await a_floating_ip(api, port_id=port.id, fixed_address=second.address)
    assert floating.fixed_address == second.address
    back = await change(api, floating, "fixed_address")
    assert back.fixed_address == port.addresses[0].address
    foreign = await refused(change(api, floating, "fixed_address", fixed_address="10.0.0.200"))
    assert (type(foreign), foreign.reason) == (InvalidArgument, "ADDRESS_NOT_OF_PORT")


async def test_one_address_of_a_port_has_one_floating_address(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside)
    first = await a_floating_ip(api, port_id=port.id)
    again = await refused(a_floating_ip(api, port_id=port.id))
    assert (type(again), again.reason) == (AlreadyExists, "ADDRESS_HAS_FLOATING_IP")
    assert again.metadata["floating_ip_id"] == first.id
    # Named again, it stays where it is.
    assert (await change(api, first, "port_id", port_id=port.id)).port_id == port.id


async def test_it_leads_to_instances_and_load_balancers_alone(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside)
    for changes in (
        {"owner": PortOwner.ROUTER, "owner_id": an_id("router")},
        {"owner": PortOwner.LOAD_BALANCER, "owner_id": inside.subnet.id},
    ):
        port = await a_plugged_port(api, inside, **changes)
        caught = await refused(a_floating_ip(api, port_id=port.id))
        assert (type(caught), caught.reason) == (FailedPrecondition, "PORT_NOT_OF_INSTANCE")
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    foreign = await a_plugged_port(api, inside, project_id=theirs.id)
    caught = await refused(a_floating_ip(api, port_id=foreign.id))
    assert (type(caught), caught.reason) == (NotFound, "PORT_NOT_FOUND")
    bare = await a_plugged_port(api, await a_wired_network(api, "fd00::/64"))
    caught = await refused(a_floating_ip(api, port_id=bare.id))
    assert caught.reason == "PORT_HAS_NO_IPV4_ADDRESS"


async def test_a_load_balancer_is_told_of_the_floating_address_that_leads_to_it(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside, owner=PortOwner.LOAD_BALANCER)
    balancer = a_load_balancer(port)

    def work(conn: Any) -> None:
        load_balancers.insert(conn, balancer)
        ports.replace(conn, replace(port, owner_id=balancer.id), etag=None)

    await api.uow.write(work)
    await settled(api)
    floating = await a_floating_ip(api, port_id=port.id)
    both = {f"floating_ip:{floating.id}", f"load_balancer:{balancer.id}"}
    assert await marked(api) == both
    await settled(api)
    await change(api, floating, "port_id")
    assert await marked(api) == both


async def test_a_router_that_a_floating_address_passes_by_stays(api: Api) -> None:
    outside, inside = await an_external_network(api), await a_wired_network(api)
    router = await a_way_out(api, outside, inside)
    port = await a_plugged_port(api, inside)
    floating = await a_floating_ip(api, name="web", port_id=port.id)
    routers = router_service_pb2
    update = routers.UpdateRouterRequest(router=router_pb2.Router(id=router.id))
    update.update_mask.paths.append("gateway")
    leave = routers.RemoveRouterInterfaceRequest(router_id=router.id, subnet_id=inside.subnet.id)
    delete = routers.DeleteRouterRequest(router_id=router.id)

    calls = [
        (api.routers.UpdateRouter, update),
        (api.routers.RemoveRouterInterface, leave),
        (api.routers.DeleteRouter, delete),
    ]
    for method, request in calls:
        caught = await refused(method(request))
        assert (type(caught), caught.reason) == (FailedPrecondition, "ROUTER_HAS_FLOATING_IPS")
        assert caught.metadata["names"] == "web"
    await api.floating_ips.DeleteFloatingIp(pb.DeleteFloatingIpRequest(floating_ip_id=floating.id))
    for method, request in calls:
        await method(request)


async def test_a_removed_one_gives_its_address_back(api: Api) -> None:
    outside = await an_external_network(api)
    floating = await a_floating_ip(api, address="203.0.113.9")
    (holder,) = await read(api, lambda conn: ports.of_owner(conn, floating.id))
    assert (holder.owner, holder.network_id) == (PortOwner.FLOATING_IP, outside.network.id)
    await settled(api)
    stale = pb.DeleteFloatingIpRequest(floating_ip_id=floating.id, etag="x")
    caught = await refused(api.floating_ips.DeleteFloatingIp(stale))
    assert (type(caught), caught.reason) == (Conflict, "ETAG_MISMATCH")
    await api.floating_ips.DeleteFloatingIp(
        pb.DeleteFloatingIpRequest(floating_ip_id=floating.id, etag=floating.etag)
    )
    key = f"floating_ip:{floating.id}"
    assert (await marked(api), await entombed(api, key)) == ({key}, {key})
    gone = pb.GetFloatingIpRequest(floating_ip_id=floating.id)
    caught = await refused(api.floating_ips.GetFloatingIp(gone))
    assert (type(caught), caught.reason) == (NotFound, "FLOATING_IP_NOT_FOUND")
    await a_floating_ip(api, address="203.0.113.9")


async def test_a_creation_repeated_with_its_request_id_makes_one(api: Api) -> None:
    await an_external_network(api)
    both = [await a_floating_ip(api, request_id="r") for _ in range(2)]
    assert both[0] == both[1]


async def test_many_at_once_get_an_address_each(api: Api) -> None:
    await an_external_network(api)
    made = await asyncio.gather(*(a_floating_ip(api) for _ in range(16)))
    assert len({one.address for one in made}) == 16

"""Load balancers over gRPC: their address, listeners, members and checks."""

from __future__ import annotations

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
    entombed,
    marked,
    read,
    settled,
)
from unkai.network.v1 import (
    floating_ip_pb2,
    floating_ip_service_pb2,
    load_balancer_pb2,
    load_balancer_service_pb2,
    port_service_pb2,
    router_pb2,
    router_service_pb2,
)
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store import addresses, events, load_balancers, ports, projects
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

pb, kinds = load_balancer_service_pb2, load_balancer_pb2.LoadBalancer
TCP, UDP = kinds.PROTOCOL_TCP, kinds.PROTOCOL_UDP


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_balancer(api: Api, wired: Wired, name: str = "web", **fields: Any) -> kinds:
    request = {k: fields.pop(k) for k in ("request_id", "project_id") if k in fields}
    message = kinds(name=name, **{"subnet_id": wired.subnet.id, **fields})
    asked = pb.CreateLoadBalancerRequest(load_balancer=message, **request)
    return (await api.load_balancers.CreateLoadBalancer(asked)).load_balancer


async def change(api: Api, balancer: Any, *mask: str, **fields: Any) -> Any:
    asked = pb.UpdateLoadBalancerRequest(load_balancer=kinds(id=balancer.id, **fields))
    asked.update_mask.paths.extend(mask)
    return (await api.load_balancers.UpdateLoadBalancer(asked)).load_balancer


def listener(number: int, *members: Any, protocol: int = TCP, checked: bool = False) -> Any:
    message = kinds.Listener(protocol=protocol, port_number=number)
    for member in members:
        message.members.add(port_id=member.id if hasattr(member, "id") else member)
    if checked:
        message.health_check.SetInParent()
    return message


async def a_member(api: Api, wired: Wired) -> Any:
    return await a_plugged_port(api, wired, owner=PortOwner.INSTANCE, owner_id=an_id("instance"))


async def sources(api: Api, *wired: Wired) -> dict[str, str]:
    return dict(
        await read(
            api, lambda conn: load_balancers.probe_sources(conn, [one.subnet.id for one in wired])
        )
    )


async def test_it_has_an_address_of_its_subnet_and_a_port_for_it(api: Api) -> None:
    wired = await a_wired_network(api)
    balancer = await a_balancer(api, wired)
    assert (balancer.address, balancer.reconciling) == ("10.0.0.2", True)
    port = await read(api, lambda conn: ports.get(conn, balancer.port_id))
    assert (port.owner, port.owner_id) == (PortOwner.LOAD_BALANCER, balancer.id)
    assert await marked(api) == {f"load_balancer:{balancer.id}"}
    other = await a_balancer(api, wired, "other", address="10.0.0.77")
    assert other.address == "10.0.0.77"
    taken = await refused(a_balancer(api, wired, "third", address="10.0.0.77"))
    assert (type(taken), taken.reason) == (AlreadyExists, "ADDRESS_IN_USE")
    name = await refused(a_balancer(api, wired))
    assert (type(name), name.reason) == (AlreadyExists, "LOAD_BALANCER_EXISTS")
    page = await api.load_balancers.ListLoadBalancers(
        pb.ListLoadBalancersRequest(subnet_id=wired.subnet.id, page_size=1)
    )
    assert [one.name for one in page.load_balancers] == ["other"]
    assert page.next_page_token


async def test_members_and_figures_are_told_as_they_are_used(api: Api) -> None:
    wired = await a_wired_network(api)
    port = await a_member(api, wired)
    web = listener(80, port, checked=True)
    web.members.add(port_id=port.id, port_number=8080)
    web.health_check.interval_s = 9
    balancer = await a_balancer(api, wired, listeners=[web, listener(80, protocol=UDP)])
    shown, bare = balancer.listeners
    address = port.addresses[0].address
    assert [(m.port_id, m.port_number, m.address) for m in shown.members] == [
        (port.id, 80, address),
        (port.id, 8080, address),
    ]
    check = shown.health_check
    assert (check.interval_s, check.timeout_s, check.failure_count, check.success_count) == (
        9,
        3,
        3,
        1,
    )
    assert not bare.HasField("health_check")
    got = pb.GetLoadBalancerRequest(load_balancer_id=balancer.id)
    assert (await api.load_balancers.GetLoadBalancer(got)).load_balancer == balancer


async def test_a_malformed_one_is_refused_with_all_that_is_wrong(api: Api) -> None:
    wired = await a_wired_network(api)
    wrong = listener(0, "prt-x", an_id("port"))
    wrong.members[1].port_number = 70_000
    wrong.health_check.timeout_s = -1
    twice = listener(80, *[an_id("port")] * 2)
    caught = await refused(
        a_balancer(
            api,
            wired,
            "Web",
            subnet_id="net-x",
            address="10.0.0.256",
            listeners=[wrong, twice, listener(80)],
        )
    )
    assert isinstance(caught, InvalidArgument)
    assert [field for field, _ in caught.violations] == [
        "load_balancer.name",
        "load_balancer.subnet_id",
        "load_balancer.address",
        "load_balancer.listeners[0].port_number",
        "load_balancer.listeners[0].members[0].port_id",
        "load_balancer.listeners[0].members[1].port_number",
        "load_balancer.listeners[0].health_check.timeout_s",
        "load_balancer.listeners[1].members[1]",
        "load_balancer.listeners[2].port_number",
    ]
    vague = await refused(a_balancer(api, wired, listeners=[listener(80, protocol=0)]))
    assert (type(vague), vague.reason) == (InvalidArgument, "INVALID_ENUM")
    assert vague.metadata["field"] == "load_balancer.listeners[0].protocol"


async def test_there_is_a_limit_to_listeners_and_members(api: Api) -> None:
    wired = await a_wired_network(api)
    many = [listener(1000 + number) for number in range(33)]
    assert (await refused(a_balancer(api, wired, listeners=many))).reason == "TOO_MANY_LISTENERS"
    crowd = listener(80, *[an_id("port") for _ in range(65)])
    assert (await refused(a_balancer(api, wired, listeners=[crowd]))).reason == "TOO_MANY_MEMBERS"


async def test_members_are_ports_of_instances_with_an_address_of_its_version(api: Api) -> None:
    wired, six = await a_wired_network(api), await a_wired_network(api, "fd00::/64")
    router = await a_plugged_port(api, wired, owner=PortOwner.ROUTER, owner_id=an_id("router"))
    lacking = await a_member(api, six)
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    foreign = await a_plugged_port(api, wired, project_id=theirs.id)
    for port, kind, reason in (
        (router, FailedPrecondition, "PORT_NOT_OF_INSTANCE"),
        (lacking, FailedPrecondition, "PORT_LACKS_ADDRESS"),
        (foreign, NotFound, "PORT_NOT_FOUND"),
    ):
        caught = await refused(a_balancer(api, wired, listeners=[listener(80, port)]))
        assert (type(caught), caught.reason) == (kind, reason)
    assert not await read(api, lambda conn: ports.find(conn, "", "web"))


async def test_a_member_whose_port_is_removed_is_a_change_that_is_told(api: Api) -> None:
    wired = await a_wired_network(api)
    gone, stays = await a_plugged_port(api, wired), await a_member(api, wired)
    balancer = await a_balancer(api, wired, listeners=[listener(80, gone, stays)])
    await api.ports.DeletePort(port_service_pb2.DeletePortRequest(port_id=gone.id))

    asked = pb.GetLoadBalancerRequest(load_balancer_id=balancer.id)
    now = (await api.load_balancers.GetLoadBalancer(asked)).load_balancer
    assert [member.port_id for member in now.listeners[0].members] == [stays.id]
    assert now.etag != balancer.etag
    await api.stamp()
    told = await read(api, lambda conn: events.list_page(conn, after=None, limit=1000))
    assert f"load balancer web lost its member port {gone.name}" in [one.message for one in told]


async def test_its_subnet_is_one_that_the_project_may_use(api: Api) -> None:
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    hidden = await a_wired_network(api, project_id=theirs.id)
    shared = await a_wired_network(api, project_id=theirs.id, shared=True)
    caught = await refused(a_balancer(api, hidden))
    assert (type(caught), caught.reason) == (NotFound, "SUBNET_NOT_FOUND")
    await a_balancer(api, shared)
    edge = await refused(a_balancer(api, shared, "edge", address="10.0.0.1"))
    assert (type(edge), edge.reason) == (InvalidArgument, "ADDRESS_IS_GATEWAY")


async def test_only_the_masked_fields_change(api: Api) -> None:
    wired = await a_wired_network(api)
    one, other = await a_member(api, wired), await a_member(api, wired)
    balancer = await a_balancer(api, wired, listeners=[listener(80, one)])
    renamed = await change(api, balancer, "name", name="site")
    assert (renamed.name, renamed.listeners) == ("site", balancer.listeners)
    # What the mask leaves out is not looked at.
    await change(api, balancer, "labels", labels={"a": "b"}, listeners=[listener(80, protocol=0)])
    spread = await change(api, balancer, "listeners", listeners=[listener(80, other, one)])
    assert [member.port_id for member in spread.listeners[0].members] == [other.id, one.id]
    stale = await refused(change(api, balancer, "name", name="x", etag=balancer.etag))
    assert (type(stale), stale.reason) == (Conflict, "ETAG_MISMATCH")
    assert (await refused(change(api, balancer, "address"))).reason == "FIELD_NOT_CHANGEABLE"


async def test_checks_come_from_an_address_of_their_own_while_a_member_is_checked(
    api: Api,
) -> None:
    wired, far = await a_wired_network(api), await a_wired_network(api, "10.9.0.0/24")
    near, distant = await a_member(api, wired), await a_member(api, far)
    both = [listener(80, near, checked=True), listener(81, distant, checked=True)]
    balancer = await a_balancer(api, wired, listeners=both)
    there = await sources(api, wired, far)
    assert there.keys() == {wired.subnet.id, far.subnet.id}
    assert not {balancer.address, near.addresses[0].address} & set(there.values())

    second = await a_balancer(api, wired, "second", listeners=[listener(80, near, checked=True)])
    assert await sources(api, wired, far) == there
    await change(api, balancer, "listeners", listeners=[listener(80, near)])
    assert (await sources(api, wired, far)).keys() == {wired.subnet.id}
    delete = pb.DeleteLoadBalancerRequest(load_balancer_id=second.id)
    await api.load_balancers.DeleteLoadBalancer(delete)
    assert await sources(api, wired, far) == {}


async def test_a_removed_one_gives_back_its_address_and_floating_addresses_lead_nowhere(
    api: Api,
) -> None:
    outside, wired = await an_external_network(api), await a_wired_network(api)
    gateway = router_pb2.Router.Gateway(network_id=outside.network.id)
    made = await api.routers.CreateRouter(
        router_service_pb2.CreateRouterRequest(
            router=router_pb2.Router(name="edge", gateway=gateway)
        )
    )
    place = router_pb2.Router.Interface(subnet_id=wired.subnet.id)
    await api.routers.AddRouterInterface(
        router_service_pb2.AddRouterInterfaceRequest(router_id=made.router.id, interface=place)
    )
    balancer = await a_balancer(api, wired)
    floats = floating_ip_service_pb2
    floating = (
        await api.floating_ips.CreateFloatingIp(
            floats.CreateFloatingIpRequest(
                floating_ip=floating_ip_pb2.FloatingIp(port_id=balancer.port_id)
            )
        )
    ).floating_ip
    await settled(api)
    delete = pb.DeleteLoadBalancerRequest(load_balancer_id=balancer.id, etag=balancer.etag)
    await api.load_balancers.DeleteLoadBalancer(delete)
    key = f"load_balancer:{balancer.id}"
    assert await marked(api) == {key, f"floating_ip:{floating.id}"}
    assert await entombed(api, key) == {key}
    assert await read(api, lambda conn: ports.get(conn, balancer.port_id)) is None
    got = await api.floating_ips.GetFloatingIp(
        floats.GetFloatingIpRequest(floating_ip_id=floating.id)
    )
    assert (got.floating_ip.port_id, got.floating_ip.router_id) == ("", "")
    gone = await refused(api.load_balancers.DeleteLoadBalancer(delete))
    assert (type(gone), gone.reason) == (NotFound, "LOAD_BALANCER_NOT_FOUND")


async def test_a_creation_repeated_with_its_request_id_makes_one(api: Api) -> None:
    wired = await a_wired_network(api)
    web = listener(80, await a_member(api, wired), checked=True)
    both = [await a_balancer(api, wired, listeners=[web], request_id="r") for _ in range(2)]
    assert both[0] == both[1]


async def test_one_whose_member_has_lost_its_address_can_still_be_renamed(api: Api) -> None:
    wired = await a_wired_network(api)
    port = await a_member(api, wired)
    balancer = await a_balancer(api, wired, listeners=[listener(80, port)])
    given = [one.address for one in port.addresses]
    await api.uow.write(lambda conn: addresses.give_back(conn, port.id, given))
    assert (await change(api, balancer, "name", name="site")).name == "site"
    again = change(api, balancer, "listeners", listeners=[listener(81, port)])
    assert (await refused(again)).reason == "PORT_LACKS_ADDRESS"

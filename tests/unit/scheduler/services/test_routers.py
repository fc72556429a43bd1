"""Routers over gRPC: their way out, their places on subnets, their routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.builders import a_project, an_id
from tests.support.network_api import (
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
from unkai.event.v1 import event_service_pb2
from unkai.network.v1 import router_pb2, router_service_pb2
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store import load_balancers, ports, projects
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

pb = router_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def a_router(api: Api, name: str = "edge", **fields: Any) -> router_pb2.Router:
    request = {k: fields.pop(k) for k in ("request_id", "project_id") if k in fields}
    router = router_pb2.Router(name=name, **fields)
    made = await api.routers.CreateRouter(pb.CreateRouterRequest(router=router, **request))
    return made.router


async def add(api: Api, router: Any, subnet_id: str, address: str = "", **request: Any) -> Any:
    place = router_pb2.Router.Interface(subnet_id=subnet_id, address=address)
    asked = pb.AddRouterInterfaceRequest(router_id=router.id, interface=place, **request)
    return (await api.routers.AddRouterInterface(asked)).router


async def change(api: Api, router: Any, *mask: str, **fields: Any) -> Any:
    asked = pb.UpdateRouterRequest(router=router_pb2.Router(id=router.id, **fields))
    asked.update_mask.paths.extend(mask)
    return (await api.routers.UpdateRouter(asked)).router


def gateway(network_id: str, *addresses: str, no_snat: bool = False) -> router_pb2.Router.Gateway:
    return router_pb2.Router.Gateway(network_id=network_id, addresses=addresses, no_snat=no_snat)


def route(destination: str, next_hop: str) -> router_pb2.Router.Route:
    return router_pb2.Router.Route(destination=destination, next_hop=next_hop)


async def test_a_new_router_is_brought_to_ovn_and_told_of(api: Api) -> None:
    router = await a_router(api, labels={"a": "b"})
    assert (router.name, dict(router.labels), router.reconciling) == ("edge", {"a": "b"}, True)
    assert await marked(api) == {f"router:{router.id}"}
    await api.stamp()
    page = await api.events.ListEvents(event_service_pb2.ListEventsRequest())
    assert [e.message for e in page.events if e.resource_id == router.id] == [
        "router edge was made"
    ]
    await settled(api)
    got = await api.routers.GetRouter(pb.GetRouterRequest(router_id=router.id))
    assert not got.router.reconciling


async def test_a_creation_repeated_with_its_request_id_makes_one_router(api: Api) -> None:
    outside = await an_external_network(api)
    both = [
        await a_router(api, gateway=gateway(outside.network.id), request_id="r1") for _ in range(2)
    ]
    assert both[0] == both[1]
    page = await api.routers.ListRouters(pb.ListRoutersRequest())
    assert [router.id for router in page.routers] == [both[0].id]


async def test_a_name_is_taken_once(api: Api) -> None:
    await a_router(api)
    caught = await refused(a_router(api))
    assert (type(caught), caught.reason) == (AlreadyExists, "ROUTER_EXISTS")


async def test_a_way_out_has_an_address_of_each_version(api: Api) -> None:
    outside = await an_external_network(api)
    await another_subnet(api, outside.network, "2001:db8::/64")
    router = await a_router(api, gateway=gateway(outside.network.id))
    assert list(router.gateway.addresses) == ["203.0.113.2", "2001:db8::2"]
    assert not router.gateway.no_snat
    (port,) = await read(api, lambda conn: ports.of_owner(conn, router.id))
    assert (port.owner, port.network_id) == (PortOwner.GATEWAY, outside.network.id)


async def test_a_way_out_has_the_addresses_that_were_asked_for(api: Api) -> None:
    outside = await an_external_network(api)
    wanted = gateway(outside.network.id, "203.0.113.9", no_snat=True)
    router = await a_router(api, gateway=wanted)
    assert (list(router.gateway.addresses), router.gateway.no_snat) == (["203.0.113.9"], True)
    other = await refused(a_router(api, "other", gateway=wanted))
    assert (type(other), other.reason) == (AlreadyExists, "ADDRESS_IN_USE")


async def test_a_way_out_must_be_an_external_network_with_subnets(api: Api) -> None:
    inside = await a_wired_network(api)
    caught = await refused(a_router(api, gateway=gateway(inside.network.id)))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NETWORK_NOT_EXTERNAL")
    missing = await refused(a_router(api, gateway=gateway(an_id("network"))))
    assert (type(missing), missing.reason) == (NotFound, "NETWORK_NOT_FOUND")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("198.51.100.1", "ADDRESS_NOT_IN_SUBNET"),
        ("203.0.113.255", "ADDRESS_NOT_IN_SUBNET"),
        ("203.0.113.1", "ADDRESS_IS_GATEWAY"),
    ],
)
async def test_a_way_out_has_addresses_of_its_network_alone(
    api: Api, address: str, reason: str
) -> None:
    outside = await an_external_network(api)
    caught = await refused(a_router(api, gateway=gateway(outside.network.id, address)))
    assert (type(caught), caught.reason) == (InvalidArgument, reason)
    assert caught.metadata["field"] == "router.gateway.addresses[0]"


async def test_a_malformed_router_is_refused_with_all_that_is_wrong(api: Api) -> None:
    caught = await refused(
        a_router(
            api,
            "Edge",
            labels={"": "x"},
            gateway=gateway("net-x", "1.2.3.4", "1.2.3.4", "nonsense"),
            routes=[
                route("10.0.0.1/24", "10.0.0.1"),
                route("fd00::/64", "10.0.0.1"),
                route("0.0.0.0/0", "10.0.0.1"),
                route("0.0.0.0/0", "10.0.0.1"),
            ],
        )
    )
    assert isinstance(caught, InvalidArgument)
    assert [field for field, _ in caught.violations] == [
        "router.name",
        "router.labels",
        "router.gateway.network_id",
        "router.gateway.addresses[1]",
        "router.gateway.addresses[2]",
        "router.routes[0].destination",
        "router.routes[1].next_hop",
        "router.routes[3]",
    ]


async def test_a_place_is_at_the_subnet_s_gateway_unless_asked_otherwise(api: Api) -> None:
    first, second = await a_wired_network(api), await a_wired_network(api, "10.1.0.0/24")
    router = await a_router(api)
    await settled(api)
    router = await add(api, router, first.subnet.id)
    router = await add(api, router, second.subnet.id, "10.1.0.9")
    assert [(place.subnet_id, place.address) for place in router.interfaces] == [
        (first.subnet.id, "10.0.0.1"),
        (second.subnet.id, "10.1.0.9"),
    ]
    assert len({place.port_id for place in router.interfaces}) == 2
    assert await marked(api) == {f"router:{router.id}"}


async def test_places_on_one_network_share_a_port(api: Api) -> None:
    wired = await a_wired_network(api)
    other = await another_subnet(api, wired.network, "fd00::/64")
    router = await add(api, await a_router(api), wired.subnet.id)
    router = await add(api, router, other.id)
    (port_id,) = {place.port_id for place in router.interfaces}
    port = await read(api, lambda conn: ports.get(conn, port_id))
    assert [one.address for one in port.addresses] == ["10.0.0.1", "fd00::1"]
    left = await remove(api, router, wired.subnet.id)
    assert [(place.address, place.port_id) for place in left.interfaces] == [("fd00::1", port_id)]


async def remove(api: Api, router: Any, subnet_id: str) -> Any:
    asked = pb.RemoveRouterInterfaceRequest(router_id=router.id, subnet_id=subnet_id)
    return (await api.routers.RemoveRouterInterface(asked)).router


async def test_a_place_that_was_left_is_free(api: Api) -> None:
    wired = await a_wired_network(api)
    router = await add(api, await a_router(api), wired.subnet.id)
    port_id = router.interfaces[0].port_id
    assert list((await remove(api, router, wired.subnet.id)).interfaces) == []
    assert await read(api, lambda conn: ports.get(conn, port_id)) is None
    gone = await refused(remove(api, router, wired.subnet.id))
    assert (type(gone), gone.reason) == (NotFound, "ROUTER_INTERFACE_NOT_FOUND")
    await add(api, await a_router(api, "other"), wired.subnet.id)


async def test_a_router_is_once_on_a_subnet_and_never_on_two_that_overlap(api: Api) -> None:
    wired, twin = await a_wired_network(api), await a_wired_network(api, "10.0.0.0/16")
    router = await add(api, await a_router(api), wired.subnet.id)
    again = await refused(add(api, router, wired.subnet.id))
    assert (type(again), again.reason) == (AlreadyExists, "ROUTER_INTERFACE_EXISTS")
    overlapping = await refused(add(api, router, twin.subnet.id))
    assert (type(overlapping), overlapping.reason) == (FailedPrecondition, "SUBNETS_OVERLAP")
    outside = await an_external_network(api, "10.0.0.0/8")
    both = await refused(change(api, router, "gateway", gateway=gateway(outside.network.id)))
    assert both.reason == "SUBNETS_OVERLAP"


async def test_a_place_needs_an_address_that_is_free(api: Api) -> None:
    wired = await a_wired_network(api, gateway_address="")
    router = await a_router(api)
    nowhere = await refused(add(api, router, wired.subnet.id))
    assert (nowhere.reason, nowhere.fix) == (
        "SUBNET_HAS_NO_GATEWAY",
        "name the address that the router shall have there",
    )
    port = await a_plugged_port(api, wired)
    taken = await refused(add(api, router, wired.subnet.id, port.addresses[0].address))
    assert taken.reason == "ADDRESS_IN_USE"
    beyond = await refused(add(api, router, wired.subnet.id, "10.0.1.1"))
    assert (type(beyond), beyond.reason) == (InvalidArgument, "ADDRESS_NOT_IN_SUBNET")


async def test_another_project_s_subnet_is_not_there_for_a_router(api: Api) -> None:
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    wired = await a_wired_network(api, project_id=theirs.id, shared=True)
    caught = await refused(add(api, await a_router(api), wired.subnet.id))
    assert (type(caught), caught.reason) == (NotFound, "SUBNET_NOT_FOUND")


async def test_a_route_leads_by_a_subnet_of_the_router(api: Api) -> None:
    wired = await a_wired_network(api)
    wanted = [route("192.168.0.0/16", "10.0.0.7")]
    early = await refused(a_router(api, routes=wanted))
    assert (type(early), early.reason) == (FailedPrecondition, "NEXT_HOP_OUT_OF_REACH")
    router = await add(api, await a_router(api), wired.subnet.id)
    itself = [route("192.168.0.0/16", "10.0.0.1")]
    caught = await refused(change(api, router, "routes", routes=itself))
    assert caught.reason == "ROUTE_TO_ITSELF"
    router = await change(api, router, "routes", routes=wanted)
    assert list(router.routes) == wanted
    stays = await refused(remove(api, router, wired.subnet.id))
    assert stays.reason == "NEXT_HOP_OUT_OF_REACH"
    await change(api, router, "routes")
    await remove(api, router, wired.subnet.id)


async def test_a_way_out_is_changed_in_place_moved_and_taken_away(api: Api) -> None:
    one = await an_external_network(api)
    other = await an_external_network(api, "198.51.100.0/24")
    router = await a_router(api, gateway=gateway(one.network.id))
    (first,) = await read(api, lambda conn: ports.of_owner(conn, router.id))

    wanted = gateway(one.network.id, "203.0.113.7", "203.0.113.2")
    router = await change(api, router, "gateway", gateway=wanted)
    (same,) = await read(api, lambda conn: ports.of_owner(conn, router.id))
    assert (same.id, list(router.gateway.addresses)) == (first.id, list(wanted.addresses))

    router = await change(api, router, "gateway", gateway=gateway(one.network.id, no_snat=True))
    assert (list(router.gateway.addresses), router.gateway.no_snat) == (
        list(wanted.addresses),
        True,
    )
    router = await change(api, router, "gateway", gateway=gateway(other.network.id))
    assert list(router.gateway.addresses) == ["198.51.100.2"]
    assert await read(api, lambda conn: ports.get(conn, first.id)) is None

    router = await change(api, router, "gateway")
    assert not router.HasField("gateway")
    assert await read(api, lambda conn: ports.of_owner(conn, router.id)) == []


async def test_only_the_masked_fields_change(api: Api) -> None:
    outside = await an_external_network(api)
    router = await a_router(api, gateway=gateway(outside.network.id), labels={"a": "b"})
    changed = await change(api, router, "name", name="border")
    assert (changed.name, dict(changed.labels), changed.gateway) == (
        "border",
        {"a": "b"},
        router.gateway,
    )
    assert changed.etag != router.etag
    stale = pb.DeleteRouterRequest(router_id=router.id, etag=router.etag)
    caught = await refused(api.routers.DeleteRouter(stale))
    assert (type(caught), caught.reason) == (Conflict, "ETAG_MISMATCH")
    for mask, reason in (((), "EMPTY_UPDATE_MASK"), (("interfaces",), "FIELD_NOT_CHANGEABLE")):
        assert (await refused(change(api, router, *mask))).reason == reason


async def test_a_removed_router_leaves_nothing_but_its_tombstone(api: Api) -> None:
    wired, outside = await a_wired_network(api), await an_external_network(api)
    router = await a_router(api, gateway=gateway(outside.network.id))
    router = await add(api, router, wired.subnet.id)
    await settled(api)
    await api.routers.DeleteRouter(pb.DeleteRouterRequest(router_id=router.id, request_id="d"))
    await api.routers.DeleteRouter(pb.DeleteRouterRequest(router_id=router.id, request_id="d"))
    assert await read(api, lambda conn: ports.of_owner(conn, router.id)) == []
    assert await marked(api) == {f"router:{router.id}"}
    assert await entombed(api, f"router:{router.id}") == {f"router:{router.id}"}
    gone = await refused(api.routers.GetRouter(pb.GetRouterRequest(router_id=router.id)))
    assert (type(gone), gone.reason) == (NotFound, "ROUTER_NOT_FOUND")


async def test_load_balancers_of_a_subnet_follow_its_routers(api: Api) -> None:
    wired = await a_wired_network(api)
    port = await a_plugged_port(api, wired, owner=PortOwner.LOAD_BALANCER)
    balancer = a_load_balancer(port)
    await api.uow.write(lambda conn: load_balancers.insert(conn, balancer))
    router = await a_router(api)
    await settled(api)
    await add(api, router, wired.subnet.id)
    both = {f"router:{router.id}", f"load_balancer:{balancer.id}"}
    assert await marked(api) == both
    await settled(api)
    await remove(api, router, wired.subnet.id)
    assert await marked(api) == both


async def test_routers_are_listed_in_pages_by_name(api: Api) -> None:
    for name in ("c", "a", "b"):
        await a_router(api, name)
    first = await api.routers.ListRouters(pb.ListRoutersRequest(page_size=2))
    rest = await api.routers.ListRouters(
        pb.ListRoutersRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [r.name for r in (*first.routers, *rest.routers)] == ["a", "b", "c"]
    only = await api.routers.ListRouters(pb.ListRoutersRequest(name="b"))
    assert [r.name for r in only.routers] == ["b"]

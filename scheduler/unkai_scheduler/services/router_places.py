"""Where a router is: its way out and its places on subnets, as ports with addresses.

Within one transaction, whose caller has locked the router's row and writes it afterwards. What is
refused here depends on what is there: networks, subnets, addresses in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import check_usable, contains, overlaps, version_of
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import Gateway, Route, Router, RouterInterface
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.owned_ports import OwnedPorts, subnet_of, take_free
from unkai_scheduler.services.router_drafts import GatewayDraft, InterfaceDraft
from unkai_scheduler.store import addresses, networks, subnets
from unkai_wire.errors import AlreadyExists, FailedPrecondition, NotFound

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def lead_out(
    conn: Connection, own_ports: OwnedPorts, router: Router, draft: GatewayDraft
) -> Gateway:
    """Return the router's way out as the draft says; the port on the same network is kept."""
    network = found("network", draft.network_id, networks.held(conn, draft.network_id))
    check_external(network)
    subnets.lock_of(conn, network.id)
    outside = subnets.of_network(conn, network.id)
    _check_apart(router, _places(conn, router), outside)
    old = router.gateway
    if old is not None and old.network_id == network.id:
        if draft.addresses and draft.addresses != old.addresses:
            _readdress(conn, old, outside, draft.addresses)
        return replace(old, addresses=draft.addresses or old.addresses, snat=draft.snat)
    port = own_ports.make(network, router.project_id, PortOwner.GATEWAY, router.id)
    taken = _take(conn, port.id, network, outside, draft.addresses)
    return Gateway(network.id, port.id, taken, draft.snat)


def enter(
    conn: Connection, own_ports: OwnedPorts, router: Router, draft: InterfaceDraft
) -> RouterInterface:
    """Return the router's new place on a subnet; all those on one network share a port."""
    subnet = found("subnet", draft.subnet_id, subnets.get(conn, draft.subnet_id))
    network = found("network", subnet.network_id, networks.held(conn, subnet.network_id))
    if network.project_id != router.project_id:
        raise NotFound.of("subnet", subnet.id)
    subnet = found("subnet", subnet.id, subnets.locked(conn, subnet.id))
    there = _places(conn, router)
    if any(one.id == subnet.id for one in there):
        raise AlreadyExists(
            f"router {router.name} is on subnet {subnet.name} already",
            reason="ROUTER_INTERFACE_EXISTS",
            metadata={"router_id": router.id, "subnet_id": subnet.id},
            resource_kind="router_interface",
            resource=subnet.id,
        )
    outside = subnets.of_network(conn, router.gateway.network_id) if router.gateway else []
    _check_apart(router, [*there, *outside], [subnet])
    address = _own_address(subnet, draft.address)
    shared = [
        place.port_id
        for place in router.interfaces
        for one in there
        if one.id == place.subnet_id and one.network_id == network.id
    ]
    port_id = next(iter(shared), "") or (
        own_ports.make(network, router.project_id, PortOwner.ROUTER, router.id).id
    )
    addresses.take_this(conn, subnet.id, port_id, address, position=len(shared))
    return RouterInterface(subnet.id, port_id, address)


def check_external(network: Network) -> None:
    """Raise `FailedPrecondition` / NETWORK_NOT_EXTERNAL unless it leads outside."""
    if not network.external:
        raise FailedPrecondition(
            f"network {network.name} is not external",
            reason="NETWORK_NOT_EXTERNAL",
            fix="name an external network: list them with 'unkai network list'",
            metadata={"network_id": network.id, "name": network.name},
        )


def check_next_hops(conn: Connection, router: Router) -> None:
    """Raise `FailedPrecondition` unless each route's next hop is on a subnet of the router."""
    own = {place.address for place in router.interfaces}
    near = _places(conn, router)
    if router.gateway:
        own |= set(router.gateway.addresses)
        near += subnets.of_network(conn, router.gateway.network_id)
    for route in router.routes:
        if route.next_hop in own:
            raise _bad_route(router, route, "is the router's own address", "ROUTE_TO_ITSELF")
        if not _is_on(near, route.next_hop):
            raise _bad_route(
                router, route, "is on no subnet of the router", "NEXT_HOP_OUT_OF_REACH"
            )


def _own_address(subnet: Subnet, given: str) -> str:
    if given:
        return check_usable(given, subnet.cidr, "interface.address")
    if subnet.gateway_address:
        return subnet.gateway_address
    raise FailedPrecondition(
        f"subnet {subnet.name} has no gateway's address for the router to take",
        reason="SUBNET_HAS_NO_GATEWAY",
        fix="name the address that the router shall have there",
        metadata={"subnet_id": subnet.id, "name": subnet.name},
    )


def _readdress(
    conn: Connection, old: Gateway, outside: Sequence[Subnet], wanted: Sequence[str]
) -> None:
    """Let the port of a way out have these addresses, in this order."""
    _check_addresses(outside, wanted)
    for address in wanted:
        if address not in old.addresses:
            subnet = subnet_of(outside, address, _path(wanted, address))
            addresses.take_this(conn, subnet.id, old.port_id, address)
    addresses.give_back(conn, old.port_id, set(old.addresses) - set(wanted))
    addresses.put_in_order(conn, old.port_id, wanted)


def _take(
    conn: Connection,
    port_id: str,
    network: Network,
    outside: Sequence[Subnet],
    wanted: Sequence[str],
) -> tuple[str, ...]:
    """Give a new port these addresses, or one of each version that the network has."""
    if not outside:
        raise FailedPrecondition(
            f"network {network.name} has no subnet, so a router has no address there",
            reason="NETWORK_HAS_NO_SUBNET",
            fix="give the network a subnet first",
            metadata={"network_id": network.id, "name": network.name},
        )
    if not wanted:
        versions = sorted({subnet.version for subnet in outside})
        return tuple(
            take_free(
                conn, [one for one in outside if one.version == version], port_id, position=place
            ).address
            for place, version in enumerate(versions)
        )
    for place, (subnet, address) in enumerate(_check_addresses(outside, wanted)):
        addresses.take_this(conn, subnet.id, port_id, address, position=place)
    return tuple(wanted)


def _check_addresses(outside: Sequence[Subnet], wanted: Sequence[str]) -> list[tuple[Subnet, str]]:
    """Return each address with its subnet; raise `InvalidArgument` for what is in none."""
    return [(subnet_of(outside, one, _path(wanted, one)), one) for one in wanted]


def _path(wanted: Sequence[str], address: str) -> str:
    return f"router.gateway.addresses[{wanted.index(address)}]"


def _places(conn: Connection, router: Router) -> list[Subnet]:
    return subnets.list_some(conn, [place.subnet_id for place in router.interfaces])


def _check_apart(router: Router, one: Iterable[Subnet], other: Sequence[Subnet]) -> None:
    """Raise `FailedPrecondition` when two subnets of a router would have an address in common."""
    for first in one:
        for second in other:
            if overlaps(first.cidr, second.cidr):
                raise FailedPrecondition(
                    f"subnets {first.name} ({first.cidr}) and {second.name} ({second.cidr}) have "
                    f"addresses in common, so router {router.name} cannot be on both",
                    reason="SUBNETS_OVERLAP",
                    fix="use another router for one of them",
                    metadata={"router_id": router.id, "subnets": f"{first.id},{second.id}"},
                )


def _is_on(near: Iterable[Subnet], address: str) -> bool:
    version = version_of(address)
    return any(one.version == version and contains(one.cidr, address) for one in near)


def _bad_route(router: Router, route: Route, problem: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the route to {route.destination} of router {router.name}: next hop {route.next_hop} "
        f"{problem}",
        reason=reason,
        fix="name an address of a subnet that the router is on, or remove the route",
        metadata={
            "router_id": router.id,
            "destination": route.destination,
            "next_hop": route.next_hop,
        },
    )

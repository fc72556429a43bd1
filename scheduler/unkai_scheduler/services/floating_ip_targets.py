"""Where a floating address leads: which address of which port, and by which router.

Within one transaction. The router is held before the port is locked, and both before the floating
address's row is: those who remove a port lock it first, and then what leads to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import FixedAddress, Port, PortOwner
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.probe_sources import is_probe
from unkai_scheduler.store import floating_ips, ports, routers, subnets
from unkai_wire.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_REACHED = {None, PortOwner.INSTANCE, PortOwner.LOAD_BALANCER}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a floating address leads; all empty: nowhere."""

    port_id: str = ""
    fixed_address: str = ""
    router_id: str = ""


def find_target(
    conn: Connection,
    project_id: str,
    outside: Network,
    port_id: str,
    address: str,
    *,
    lock_between: Callable[[], None] = lambda: None,
) -> Target:
    """Return the way from an external network to an address of a port; an empty port: nowhere.

    `address`: empty means the port's first of IPv4. Locks the port, holds the router.
    `lock_between`: locks what comes after the one and before the other.
    """
    if not port_id:
        lock_between()
        return Target()
    port = _port(project_id, port_id, ports.get(conn, port_id))
    fixed = _fixed(port, address)
    router = _way(conn, port, fixed, outside)
    routers.held(conn, router.id)
    lock_between()
    port = _port(project_id, port_id, ports.locked(conn, port_id))
    if fixed not in port.addresses or _way(conn, port, fixed, outside).id != router.id:
        raise Conflict(
            f"port {port.name} was changed by somebody else",
            reason="PORT_CHANGED",
            fix="try again",
            metadata={"port_id": port.id},
        )
    return Target(port.id, fixed.address, router.id)


def check_alone(conn: Connection, target: Target, ident: str) -> None:
    """Raise `AlreadyExists` when another floating address leads to the same address of a port."""
    if not target.port_id:
        return
    for other in floating_ips.of_ports(conn, [target.port_id]):
        if other.fixed_address == target.fixed_address and other.id != ident:
            raise AlreadyExists(
                f"floating address {other.name} leads to {target.fixed_address} of port "
                f"{target.port_id} already",
                reason="ADDRESS_HAS_FLOATING_IP",
                fix="use that one, or take it away first: update it with an empty port_id",
                metadata={
                    "floating_ip_id": other.id,
                    "name": other.name,
                    "port_id": target.port_id,
                    "address": target.fixed_address,
                },
                resource_kind="floating_ip",
                resource=other.id,
            )


def _port(project_id: str, port_id: str, port: Port | None) -> Port:
    port = found("port", port_id, port)
    if port.project_id != project_id:
        raise NotFound.of("port", port_id)
    if port.owner not in _REACHED or is_probe(port):
        raise FailedPrecondition(
            f"port {port.name} is not one of an instance: no floating address may lead to it",
            reason="PORT_NOT_OF_INSTANCE",
            fix="name a port of an instance or of a load balancer",
            metadata={"port_id": port.id, "name": port.name, "owner_id": port.owner_id},
        )
    return port


def _fixed(port: Port, address: str) -> FixedAddress:
    own = [one for one in port.addresses if version_of(one.address) == 4]
    if address:
        own = [one for one in own if one.address == address]
        if not own:
            raise InvalidArgument.field(
                "floating_ip.fixed_address",
                f"{address} is not an IPv4 address of port {port.name}",
                reason="ADDRESS_NOT_OF_PORT",
            )
    if not own:
        raise FailedPrecondition(
            f"port {port.name} has no IPv4 address for a floating address to lead to",
            reason="PORT_HAS_NO_IPV4_ADDRESS",
            fix="give the port an IPv4 address first",
            metadata={"port_id": port.id, "name": port.name},
        )
    return own[0]


def _way(conn: Connection, port: Port, fixed: FixedAddress, outside: Network) -> Router:
    """Return the router that leads from a port's address out: the one that guests send by first."""
    leading = routers.leading_out(conn, fixed.subnet_id, outside.id)
    subnet = subnets.get(conn, fixed.subnet_id)
    gateway = subnet.gateway_address if subnet else ""

    def is_guests_own(router: Router) -> bool:
        return any(
            place.subnet_id == fixed.subnet_id and place.address == gateway
            for place in router.interfaces
        )

    if not leading:
        name = subnet.name if subnet else fixed.subnet_id
        raise FailedPrecondition(
            f"no router leads from subnet {name} to network {outside.name}",
            reason="NO_ROUTER_TO_NETWORK",
            fix=f"give a router a gateway on {outside.name} and an interface on {name}",
            metadata={
                "port_id": port.id,
                "subnet_id": fixed.subnet_id,
                "network_id": outside.id,
            },
        )
    return next(filter(is_guests_own, leading), leading[0])

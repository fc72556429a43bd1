"""Addresses that health checks come from: one on each subnet with a member that is checked.

OVN answers for it there, so nothing else may have it: it is one of a port of its own, whose owner
is the subnet in the load balancers' stead. It is made with the first member that is checked, and
goes when none is left.

Whoever takes a member away, by its port too, calls `release`; the subnets are locked then, and the
ports that may go (`port_ids`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.owned_ports import OwnedPorts, take_free
from unkai_scheduler.store import load_balancers, networks, ports, subnets

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def is_probe(port: Port) -> bool:
    """Tell whether a port only keeps the address that checks come from."""
    return port.owner is PortOwner.LOAD_BALANCER and port.owner_id.startswith("sub-")


def port_ids(conn: Connection, subnet_ids: Iterable[str]) -> list[str]:
    """Return the ids of the ports that keep the addresses for checks on these subnets."""
    return [port.id for owned in ports.of_owners(conn, subnet_ids).values() for port in owned]


def checked_subnets(row: LoadBalancer, members: Iterable[Port]) -> set[str]:
    """Return the ids of the subnets on which members of a load balancer are checked."""
    version = version_of(row.address)
    first = {
        port.id: one.subnet_id
        for port in members
        for one in reversed(port.addresses)
        if version_of(one.address) == version
    }
    return {
        first[member.port_id]
        for listener in row.listeners
        if listener.health_check is not None
        for member in listener.members
        if member.port_id in first
    }


def keep(conn: Connection, own_ports: OwnedPorts, subnet_ids: Iterable[str]) -> None:
    """Give each of these subnets, which are locked, an address for checks if it has none.

    Their projects and networks are held.
    """
    there = load_balancers.probe_sources(conn, subnet_ids)
    for subnet in subnets.list_some(conn, set(subnet_ids) - there.keys()):
        network = found("network", subnet.network_id, networks.get(conn, subnet.network_id))
        port = own_ports.make(network, subnet.project_id, PortOwner.LOAD_BALANCER, subnet.id)
        take_free(conn, [subnet], port.id)


def release(conn: Connection, own_ports: OwnedPorts, subnet_ids: Iterable[str]) -> None:
    """Take the address for checks from those of these subnets, locked, that need none any more."""
    for subnet_id, owned in ports.of_owners(conn, subnet_ids).items():
        if subnet_id not in _needing(conn, owned[0].network_id):
            own_ports.remove(port.id for port in owned)


def follow(conn: Connection, own_ports: OwnedPorts, moved: Port) -> None:
    """Let the addresses for checks be where they are needed after a port's addresses changed.

    `moved`: the port as it was. All subnets of its network are locked, and what `keep` and
    `release` need.
    """
    if load_balancers.naming(conn, [moved.id]):
        keep(conn, own_ports, sorted(_needing(conn, moved.network_id)))
        release(conn, own_ports, {one.subnet_id for one in moved.addresses})


def _needing(conn: Connection, network_id: str) -> set[str]:
    """Return the ids of a network's subnets on which members are checked."""
    naming = load_balancers.naming(conn, ports.ids_on_network(conn, network_id))
    needing: set[str] = set()
    for row in load_balancers.list_some(conn, naming):
        named = {member.port_id for listener in row.listeners for member in listener.members}
        needing |= checked_subnets(row, ports.list_some(conn, named))
    return needing

"""Changes of load balancers within a transaction: members met, rows, units of OVN, the event.

What a member's health check needs may be on another project's network (`projects_beside`): projects
are held first, then networks, subnets are locked, members' ports held, and at the end the load
balancer's own row is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.load_balancers import Listener, LoadBalancer
from unkai_scheduler.domain.networks import Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.services import ovn_work, probe_sources
from unkai_scheduler.services.checks import check_etag, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ip_changes import FloatingIpChanges
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.services.owned_ports import OwnedPorts, subnet_of, take_free
from unkai_scheduler.store import addresses, load_balancers, networks, ports, subnets
from unkai_wire.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_MEMBERS = {None, PortOwner.INSTANCE}


def projects_beside(conn: Connection, listeners: Iterable[Listener]) -> set[str]:
    """Return the projects in which an address for checks of these members may be made."""
    on = {port.network_id for port in _members(conn, listeners)}
    return {network.project_id for network in networks.list_some(conn, on)}


class LoadBalancerChanges:
    """What one call does to load balancers."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call
        self._ports = OwnedPorts(conn, context, call)

    def make(self, row: LoadBalancer, address: str) -> LoadBalancer:
        """Insert a load balancer with a port for its address; empty `address`: one that is free."""
        subnet = found("subnet", row.subnet_id, subnets.get(self._conn, row.subnet_id))
        members = self._lock(row, row.listeners, version=subnet.version, own=subnet)
        self._check_usable(row, subnet)
        _check_members(row, members, subnet.version)
        network = found("network", subnet.network_id, networks.get(self._conn, subnet.network_id))
        port = self._ports.make(network, row.project_id, PortOwner.LOAD_BALANCER, row.id)
        if address:
            subnet_of([subnet], address, "load_balancer.address")
            taken = addresses.take_this(self._conn, subnet.id, port.id, address)
        else:
            taken = take_free(self._conn, [subnet], port.id)
        row = replace(row, port_id=port.id, address=taken.address)
        load_balancers.insert(self._conn, row)
        checked = probe_sources.checked_subnets(row, members.values())
        probe_sources.keep(self._conn, self._ports, checked)
        return self._end(row, EventType.CREATED, "was made")

    def change(
        self, seen: LoadBalancer, alter: Callable[[LoadBalancer], LoadBalancer], etag: str
    ) -> LoadBalancer:
        """Write a load balancer that was read as `seen`, after its project was locked.

        It may have lost members since, whose ports were removed, and nothing else.
        """
        version, members = version_of(seen.address), dict[str, Port]()
        wanted = alter(seen)
        if wanted.listeners != seen.listeners:
            members = self._lock(seen, (*seen.listeners, *wanted.listeners), version=version)
            _check_members(wanted, members, version)
        old = self._locked(seen.id, etag)
        new = alter(old)
        new = replace(new, etag=self._context.new_etag(), update_time=self._context.clock())
        needed = probe_sources.checked_subnets(new, members.values())
        before = probe_sources.checked_subnets(old, members.values())
        load_balancers.replace(self._conn, new, etag=old.etag)
        probe_sources.keep(self._conn, self._ports, needed)
        probe_sources.release(self._conn, self._ports, before - needed)
        return self._end(new, EventType.UPDATED, "was changed")

    def remove(self, seen: LoadBalancer, etag: str) -> None:
        """Remove one that was read as `seen`, as `change`; no floating address leads to it then."""
        version = version_of(seen.address)
        members = self._lock(seen, seen.listeners, version=version, own_port_id=seen.port_id)
        row = self._locked(seen.id, etag)
        FloatingIpChanges(self._conn, self._context, self._call).take_from([row.port_id])
        before = probe_sources.checked_subnets(row, members.values())
        load_balancers.delete(self._conn, row.id)
        self._ports.remove([row.port_id])
        probe_sources.release(self._conn, self._ports, before)
        ovn_work.removed(self._conn, self._context, "load_balancer", row.id)
        self._record(row, EventType.DELETED, "was removed")

    def _check_usable(self, row: LoadBalancer, subnet: Subnet) -> None:
        """Raise `NotFound` unless a project may use the subnet of its new load balancer."""
        network = networks.get(self._conn, subnet.network_id)
        if network is None or not (network.shared or network.project_id == row.project_id):
            raise NotFound.of("subnet", row.subnet_id)

    def _lock(
        self,
        row: LoadBalancer,
        listeners: Sequence[Listener],
        *,
        version: int,
        own: Subnet | None = None,
        own_port_id: str = "",
    ) -> dict[str, Port]:
        """Lock all but projects that goes with members, and return those that the project has.

        Their ports are held; locked are the subnets that they are checked on, and what keeps the
        addresses for that. `own`, `own_port_id`: what of the load balancer's own is locked too.
        """
        members = _members(self._conn, listeners, row.project_id)
        on = {port.network_id for port in members} | ({own.network_id} if own else set())
        networks.lock(self._conn, locked=(), held=on)
        checked = {
            one.subnet_id
            for port in members
            for one in port.addresses
            if version_of(one.address) == version
        }
        subnets.lock(self._conn, *checked, *([own.id] if own else []))
        keeping = probe_sources.port_ids(self._conn, checked)
        own_ports = [own_port_id] if own_port_id else []
        ports.lock(self._conn, *keeping, *own_ports, held=[port.id for port in members])
        return {port.id: port for port in _members(self._conn, listeners, row.project_id)}

    def _locked(self, ident: str, etag: str) -> LoadBalancer:
        row = found("load_balancer", ident, load_balancers.locked(self._conn, ident))
        check_etag("load_balancer", row.id, row.etag, etag)
        return row

    def _end(self, row: LoadBalancer, change: EventType, what: str) -> LoadBalancer:
        reason = f"load balancer {row.name} {what}"
        ovn_work.touched(self._conn, self._context, "load_balancer", row.id, reason=reason)
        self._record(row, change, what)
        return found("load_balancer", row.id, load_balancers.get(self._conn, row.id))

    def _record(self, row: LoadBalancer, change: EventType, what: str) -> None:
        record_change(
            self._conn,
            self._context,
            self._call,
            kind="load_balancer",
            row=row,
            change=change,
            what=what,
        )


def _members(conn: Connection, listeners: Iterable[Listener], project_id: str = "") -> list[Port]:
    """Return the ports that are named, or those of them that a project has."""
    named = {member.port_id for listener in listeners for member in listener.members}
    return [port for port in ports.list_some(conn, named) if project_id in {"", port.project_id}]


def _check_members(row: LoadBalancer, members: Mapping[str, Port], version: int) -> None:
    """Raise when one of those that a load balancer names cannot be a member."""
    named = {member.port_id for listener in row.listeners for member in listener.members}
    for ident in sorted(named):
        _check_member(found("port", ident, members.get(ident)), version)


def _check_member(port: Port, version: int) -> None:
    """Raise `FailedPrecondition` for a port that gets no connections of this version."""
    metadata = {"port_id": port.id, "name": port.name}
    if port.owner not in _MEMBERS:
        raise FailedPrecondition(
            f"port {port.name} is not one of an instance, so it cannot be a member",
            reason="PORT_NOT_OF_INSTANCE",
            fix="name ports of instances as members",
            metadata=metadata,
        )
    if all(version_of(one.address) != version for one in port.addresses):
        raise FailedPrecondition(
            f"port {port.name} has no IPv{version} address, which the load balancer's is",
            reason="PORT_LACKS_ADDRESS",
            fix="give the port an address of that version, or name another one",
            metadata={**metadata, "ip_version": str(version)},
        )

"""Changes of load balancers within a transaction: members met, rows, units of OVN, the event.

Subnets are locked first, then members' ports are held, then the load balancer's row is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class LoadBalancerChanges:
    """What one call does to load balancers."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call
        self._ports = OwnedPorts(conn, context, call)

    def make(self, row: LoadBalancer, address: str) -> LoadBalancer:
        """Insert a load balancer with a port for its address; empty `address`: one that is free."""
        subnet = self._usable(row)
        self._lock_subnets({subnet.id}, row.listeners, version=subnet.version)
        network = found("network", subnet.network_id, networks.get(self._conn, subnet.network_id))
        port = self._ports.make(network, row.project_id, PortOwner.LOAD_BALANCER, row.id)
        if address:
            subnet_of([subnet], address, "load_balancer.address")
            taken = addresses.take_this(self._conn, subnet.id, port.id, address)
        else:
            taken = take_free(self._conn, [subnet], port.id)
        row = replace(row, port_id=port.id, address=taken.address)
        members = self._held(row)
        load_balancers.insert(self._conn, row)
        probe_sources.keep(self._conn, self._ports, probe_sources.checked_subnets(row, members))
        return self._end(row, EventType.CREATED, "was made")

    def change(self, seen: LoadBalancer, new: LoadBalancer, etag: str) -> LoadBalancer:
        """Write a load balancer that was read as `seen`, which is not locked yet."""
        version = version_of(seen.address)
        self._lock_subnets(set(), (*seen.listeners, *new.listeners), version=version)
        if new.listeners != seen.listeners:
            self._held(new)
        old = self._locked(seen, etag)
        new = replace(new, etag=self._context.new_etag(), update_time=self._context.clock())
        needed = probe_sources.checked_subnets(new, self._ports_of(new.listeners))
        before = probe_sources.checked_subnets(old, self._ports_of(old.listeners))
        load_balancers.replace(self._conn, new, etag=old.etag)
        probe_sources.keep(self._conn, self._ports, needed)
        probe_sources.release(self._conn, self._ports, before - needed)
        return self._end(new, EventType.UPDATED, "was changed")

    def remove(self, seen: LoadBalancer, etag: str) -> None:
        """Remove a load balancer that was read as `seen`; no floating address leads to it then."""
        self._lock_subnets(set(), seen.listeners, version=version_of(seen.address))
        ports.locked(self._conn, seen.port_id)
        FloatingIpChanges(self._conn, self._context, self._call).take_from([seen.port_id])
        row = self._locked(seen, etag)
        before = probe_sources.checked_subnets(row, self._ports_of(row.listeners))
        load_balancers.delete(self._conn, row.id)
        self._ports.remove([row.port_id])
        probe_sources.release(self._conn, self._ports, before)
        ovn_work.removed(self._conn, self._context, "load_balancer", row.id)
        self._record(row, EventType.DELETED, "was removed")

    def _usable(self, row: LoadBalancer) -> Subnet:
        """Return the subnet of a new load balancer, which its project may use."""
        subnet = found("subnet", row.subnet_id, subnets.get(self._conn, row.subnet_id))
        network = networks.held(self._conn, subnet.network_id)
        if network is None or not (network.shared or network.project_id == row.project_id):
            raise NotFound.of("subnet", row.subnet_id)
        return subnet

    def _lock_subnets(
        self, more: Iterable[str], listeners: Sequence[Listener], *, version: int
    ) -> None:
        """Lock the subnets of members, where an address for checks may come or go, and these."""
        of_members = {
            one.subnet_id
            for port in self._ports_of(listeners)
            for one in port.addresses
            if version_of(one.address) == version
        }
        subnets.lock(self._conn, *sorted({*more, *of_members}))

    def _ports_of(self, listeners: Sequence[Listener]) -> list[Port]:
        named = {member.port_id for listener in listeners for member in listener.members}
        return ports.list_some(self._conn, named)

    def _held(self, row: LoadBalancer) -> list[Port]:
        """Return the ports of all members, held; raise when one of them cannot be one."""
        named = {member.port_id for listener in row.listeners for member in listener.members}
        version = version_of(row.address)
        members = []
        for ident in sorted(named):
            port = found("port", ident, ports.held(self._conn, ident))
            if port.project_id != row.project_id:
                raise NotFound.of("port", ident)
            _check_member(port, version)
            members.append(port)
        return members

    def _locked(self, seen: LoadBalancer, etag: str) -> LoadBalancer:
        row = found("load_balancer", seen.id, load_balancers.locked(self._conn, seen.id))
        # What was locked for it was looked up from the row as it was seen.
        check_etag("load_balancer", row.id, row.etag, seen.etag)
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

"""Changes of floating addresses within a transaction: rows, units of OVN, the event.

Called by their own use cases, and by those that remove a port which floating addresses lead to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ip_targets import Target
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.store import floating_ips, ovn_work, ports

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class FloatingIpChanges:
    """What one call does to floating addresses."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call

    def make(self, row: FloatingIp) -> FloatingIp:
        """Insert a floating address, whose holder has the address already."""
        floating_ips.insert(self._conn, row)
        return self._end(row, EventType.CREATED, "was made", self._units(row))

    def change(self, old: FloatingIp, new: FloatingIp, target: Target) -> FloatingIp:
        """Write a floating address, which leads where the target says from now on."""
        new = replace(
            new,
            port_id=target.port_id,
            fixed_address=target.fixed_address,
            router_id=target.router_id,
            etag=self._context.new_etag(),
            update_time=self._context.clock(),
        )
        units = self._units(old) | self._units(new)
        floating_ips.replace(self._conn, new, etag=old.etag)
        return self._end(new, EventType.UPDATED, _what(old, new), units)

    def remove(self, row: FloatingIp) -> None:
        """Remove a floating address; its holder gives the address back."""
        units = self._units(row)
        floating_ips.delete(self._conn, row.id)
        OwnedPorts(self._conn, self._context, self._call).remove([row.holder_port_id])
        ovn_work.entomb(self._conn, [f"floating_ip:{row.id}"], self._context.clock())
        self._mark_and_record(row, EventType.DELETED, "was removed", units)

    def take_from(self, port_ids: Iterable[str]) -> None:
        """Let no floating address lead to these ports, which are locked and about to go."""
        for old in floating_ips.of_ports(self._conn, port_ids):
            self.change(old, old, Target())

    def _units(self, row: FloatingIp) -> set[str]:
        """Return the units derived from it: the load balancer that it leads to says it too."""
        units = {f"floating_ip:{row.id}"}
        port = ports.get(self._conn, row.port_id) if row.port_id else None
        if port is not None and port.owner is PortOwner.LOAD_BALANCER:
            units.add(f"load_balancer:{port.owner_id}")
        return units

    def _end(self, row: FloatingIp, change: EventType, what: str, units: set[str]) -> FloatingIp:
        self._mark_and_record(row, change, what, units)
        return found("floating_ip", row.id, floating_ips.get(self._conn, row.id))

    def _mark_and_record(
        self, row: FloatingIp, change: EventType, what: str, units: set[str]
    ) -> None:
        message = f"floating address {row.name} {what}"
        ovn_work.mark(self._conn, units, self._context.clock(), message)
        attributes = {"address": row.address}
        if row.port_id:
            attributes["port_id"] = row.port_id
        subject = Subject("floating_ip", row.id, row.name, project_id=row.project_id)
        record(
            self._conn,
            self._context,
            self._call,
            subject,
            change,
            message=message,
            attributes=attributes,
        )


def _what(old: FloatingIp, new: FloatingIp) -> str:
    if (new.port_id, new.fixed_address) == (old.port_id, old.fixed_address):
        return "was changed"
    if not new.port_id:
        return "leads nowhere"
    return f"leads to {new.fixed_address} of port {new.port_id}"

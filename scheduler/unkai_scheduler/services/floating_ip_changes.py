"""Changes of floating addresses within a transaction: rows, units of OVN, the event.

Called by their own use cases, and by those that remove a port which floating addresses lead to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.routers import FloatingIp
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.floating_ip_targets import Target
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.store import floating_ips

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
        return self._end(row, EventType.CREATED, "was made")

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
        what = _what(old, new)
        units = ovn_work.dependents(self._conn, "floating_ip", old.id)
        floating_ips.replace(self._conn, new, etag=old.etag)
        ovn_work.marked(self._conn, self._context, units, f"floating address {new.name} {what}")
        return self._end(new, EventType.UPDATED, what)

    def remove(self, row: FloatingIp) -> None:
        """Remove a floating address; its holder gives the address back."""
        units = ovn_work.dependents(self._conn, "floating_ip", row.id)
        floating_ips.delete(self._conn, row.id)
        OwnedPorts(self._conn, self._context, self._call).remove([row.holder_port_id])
        ovn_work.removed(self._conn, self._context, "floating_ip", row.id)
        ovn_work.marked(self._conn, self._context, units, f"floating address {row.name} is gone")
        self._record(row, EventType.DELETED, "was removed")

    def take_from(self, port_ids: Iterable[str]) -> None:
        """Let no floating address lead to these ports, which are locked and about to go."""
        ports = list(port_ids)
        seen = floating_ips.of_ports(self._conn, ports)
        floating_ips.lock(self._conn, *[one.id for one in seen])
        for old in floating_ips.of_ports(self._conn, ports):
            self.change(old, old, Target())

    def _end(self, row: FloatingIp, change: EventType, what: str) -> FloatingIp:
        reason = f"floating address {row.name} {what}"
        ovn_work.touched(self._conn, self._context, "floating_ip", row.id, reason=reason)
        self._record(row, change, what)
        return found("floating_ip", row.id, floating_ips.get(self._conn, row.id))

    def _record(self, row: FloatingIp, change: EventType, what: str) -> None:
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
            message=f"floating address {row.name} {what}",
            attributes=attributes,
        )


def _what(old: FloatingIp, new: FloatingIp) -> str:
    if (new.port_id, new.fixed_address) == (old.port_id, old.fixed_address):
        return "was changed"
    if not new.port_id:
        return "leads nowhere"
    return f"leads to {new.fixed_address} of port {new.port_id}"

"""Changes of routers within a transaction: rows, ports, units of OVN, the event.

Called by the router's use cases, and by what makes a project's default network. Whoever changes a
router that exists has locked its row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.networking import record_change
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.services.router_drafts import CheckedRouter, InterfaceDraft
from unkai_scheduler.services.router_places import check_next_hops, enter, lead_out
from unkai_scheduler.store import addresses, routers

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class RouterChanges:
    """What one call does to routers."""

    def __init__(self, conn: Connection, context: ServiceContext, call: Call) -> None:
        self._conn = conn
        self._context = context
        self._call = call
        self._ports = OwnedPorts(conn, context, call)

    def make(self, row: Router, checked: CheckedRouter) -> Router:
        """Insert a router, with its way out and its routes."""
        row = replace(row, routes=checked.routes)
        if checked.gateway is not None:
            row = replace(row, gateway=lead_out(self._conn, self._ports, row, checked.gateway))
        check_next_hops(self._conn, row)
        routers.insert(self._conn, row)
        return self._end(row, EventType.CREATED, "was made")

    def change(self, old: Router, new: Router, checked: CheckedRouter | None) -> Router:
        """Write a router; `checked`: with this way out in place of its own, or with none."""
        if checked is not None:
            gateway = checked.gateway
            leads = None if gateway is None else lead_out(self._conn, self._ports, new, gateway)
            new = replace(new, gateway=leads)
        if checked is not None or new.routes != old.routes:
            check_next_hops(self._conn, new)
        return self._replace(old, new, "was changed")

    def join(self, old: Router, draft: InterfaceDraft) -> Router:
        """Give a router a place on a subnet."""
        place = enter(self._conn, self._ports, old, draft)
        new = replace(old, interfaces=(*old.interfaces, place))
        return self._replace(old, new, f"is on subnet {place.subnet_id}")

    def leave(self, old: Router, subnet_id: str) -> Router:
        """Take a router off a subnet that it is on."""
        (place,) = (one for one in old.interfaces if one.subnet_id == subnet_id)
        new = replace(old, interfaces=tuple(one for one in old.interfaces if one != place))
        check_next_hops(self._conn, new)
        addresses.give_back(self._conn, place.port_id, [place.address])
        return self._replace(old, new, f"has left subnet {subnet_id}")

    def remove(self, row: Router) -> None:
        """Remove a router with its ports."""
        units = ovn_work.dependents(self._conn, "router", row.id)
        routers.delete(self._conn, row.id)
        self._ports.remove(_port_ids(row))
        ovn_work.removed(self._conn, self._context, "router", row.id)
        ovn_work.marked(self._conn, self._context, units, f"router {row.name} was removed")
        self._record(row, EventType.DELETED, "was removed")

    def _replace(self, old: Router, new: Router, what: str) -> Router:
        """Write a router, and remove those ports that it has no more."""
        units = ovn_work.dependents(self._conn, "router", old.id)
        new = replace(new, etag=self._context.new_etag(), update_time=self._context.clock())
        routers.replace(self._conn, new, etag=old.etag)
        self._ports.remove(_port_ids(old) - _port_ids(new))
        ovn_work.marked(self._conn, self._context, units, f"router {new.name} {what}")
        return self._end(new, EventType.UPDATED, what)

    def _end(self, row: Router, change: EventType, what: str) -> Router:
        reason = f"router {row.name} {what}"
        ovn_work.touched(self._conn, self._context, "router", row.id, reason=reason)
        self._record(row, change, what)
        return found("router", row.id, routers.get(self._conn, row.id))

    def _record(self, row: Router, change: EventType, what: str) -> None:
        record_change(
            self._conn,
            self._context,
            self._call,
            kind="router",
            row=row,
            change=change,
            what=what,
        )


def _port_ids(row: Router) -> set[str]:
    ids = {place.port_id for place in row.interfaces}
    return ids | {row.gateway.port_id} if row.gateway else ids

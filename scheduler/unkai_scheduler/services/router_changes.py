"""Changes of routers within a transaction: rows, ports, units of OVN, the event.

Called by the router's use cases, and by what makes a project's default network. Whoever changes a
router that exists has locked its row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.services.checks import found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.services.owned_ports import OwnedPorts
from unkai_scheduler.services.router_drafts import CheckedRouter, InterfaceDraft
from unkai_scheduler.services.router_places import check_next_hops, enter, lead_out
from unkai_scheduler.store import addresses, load_balancers, ovn_work, routers

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
        return self._end(row, EventType.CREATED, "was made", self._units(row))

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
        units = self._units(row)
        routers.delete(self._conn, row.id)
        self._ports.remove(_port_ids(row))
        ovn_work.entomb(self._conn, [f"router:{row.id}"], self._context.clock())
        self._mark_and_record(row, EventType.DELETED, "was removed", units)

    def _replace(self, old: Router, new: Router, what: str) -> Router:
        """Write a router, and remove those ports that it has no more."""
        units = self._units(old) | self._units(new)
        new = replace(new, etag=self._context.new_etag(), update_time=self._context.clock())
        routers.replace(self._conn, new, etag=old.etag)
        self._ports.remove(_port_ids(old) - _port_ids(new))
        return self._end(new, EventType.UPDATED, what, units)

    def _units(self, row: Router) -> set[str]:
        """Return the units that are derived from a router: load balancers hang on it too."""
        found = {f"router:{row.id}"}
        for place in row.interfaces:
            balancers = load_balancers.ids_on_subnet(self._conn, place.subnet_id)
            found |= {f"load_balancer:{ident}" for ident in balancers}
        return found

    def _end(self, row: Router, change: EventType, what: str, units: set[str]) -> Router:
        self._mark_and_record(row, change, what, units)
        return found("router", row.id, routers.get(self._conn, row.id))

    def _mark_and_record(self, row: Router, change: EventType, what: str, units: set[str]) -> None:
        message = f"router {row.name} {what}"
        ovn_work.mark(self._conn, units, self._context.clock(), message)
        subject = Subject("router", row.id, row.name, project_id=row.project_id)
        record(self._conn, self._context, self._call, subject, change, message=message)


def _port_ids(row: Router) -> set[str]:
    ids = {place.port_id for place in row.interfaces}
    return ids | {row.gateway.port_id} if row.gateway else ids

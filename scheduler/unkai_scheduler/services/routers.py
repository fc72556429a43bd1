"""Routers: ways between subnets, and out.

Each change locks the router's row first, then networks, subnets and ports, so that no two of them
wait for each other. Before it goes the project, where a port may be made: the row of one refers to
it, which on the servers is a lock too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.router_changes import RouterChanges
from unkai_scheduler.services.router_drafts import (
    CHANGEABLE,
    InterfaceDraft,
    RouterDraft,
    check_interface,
    check_router,
)
from unkai_scheduler.store import floating_ips, routers
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_SHOWN = 3


class RoutersService:
    """Use cases of routers."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: RouterDraft) -> Router:
        """Make a router, with a way out if the draft names one."""
        checked = check_router(draft, frozenset(CHANGEABLE))
        check_configured(self._settings)
        ident = self._context.new_id("router")

        def work(conn: Connection) -> Router:
            project = resolve_project(conn, project_id)
            now = self._context.clock()
            row = Router(
                id=ident,
                project_id=project.id,
                name=draft.name,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                labels=dict(draft.labels),
            )
            return self._changes(conn, call).make(row, checked)

        return await mutate(self._context, call, Router, work, wakes=[ident])

    async def get(self, router_id: str) -> Router:
        """Return one router."""
        return await read_row(self._context.uow, "router", router_id, routers.get)

    async def list(self, paging: Paging, *, project_id: str = "", name: str = "") -> Page[Router]:
        """Return routers by name."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "routers", [project_id, name], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(routers.list_page, project_id=project_id or None, name=name or None),
        )

    async def update(
        self, call: Call, router_id: str, draft: RouterDraft, mask: Sequence[str], etag: str
    ) -> Router:
        """Change the fields that the mask names."""
        fields = check_mask(mask, CHANGEABLE)
        checked = check_router(draft, fields)

        def work(conn: Connection) -> Router:
            if "gateway" in fields:
                _lock_project(conn, router_id, "router.id")
            old = _locked(conn, router_id, "router.id", etag)
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                routes=checked.routes if "routes" in fields else old.routes,
            )
            network_id = checked.gateway.network_id if checked.gateway else ""
            if "gateway" in fields and old.gateway and old.gateway.network_id != network_id:
                _check_unused(old, floating_ips.by_router(conn, old.id), "its gateway stays")
            leads = checked if "gateway" in fields else None
            return self._changes(conn, call).change(old, new, leads)

        return await mutate(self._context, call, Router, work, wakes=[router_id])

    async def delete(self, call: Call, router_id: str, etag: str = "") -> None:
        """Remove a router that no floating address passes by, with its ports."""

        def work(conn: Connection) -> Router:
            row = _locked(conn, router_id, "router_id", etag)
            _check_unused(row, floating_ips.by_router(conn, row.id), "it stays")
            self._changes(conn, call).remove(row)
            return row

        await mutate(self._context, call, Router, work, wakes=[router_id])

    async def add_interface(
        self, call: Call, router_id: str, draft: InterfaceDraft, etag: str = ""
    ) -> Router:
        """Give a router a place on a subnet."""
        checked = check_interface(router_id, draft)

        def work(conn: Connection) -> Router:
            _lock_project(conn, router_id, "router_id")
            old = _locked(conn, router_id, "router_id", etag)
            return self._changes(conn, call).join(old, checked)

        return await mutate(self._context, call, Router, work, wakes=[router_id])

    async def remove_interface(
        self, call: Call, router_id: str, subnet_id: str, etag: str = ""
    ) -> Router:
        """Take a router off a subnet, if no floating address of a port there passes by it."""
        with Violations() as wrong:
            for kind, ident in (("router", router_id), ("subnet", subnet_id)):
                with wrong.collect():
                    check_id(kind, ident, f"{kind}_id")

        def work(conn: Connection) -> Router:
            old = _locked(conn, router_id, "router_id", etag)
            if all(place.subnet_id != subnet_id for place in old.interfaces):
                raise _not_there(old, subnet_id)
            passing = floating_ips.by_router(conn, old.id, subnet_id)
            _check_unused(old, passing, f"it stays on subnet {subnet_id}")
            return self._changes(conn, call).leave(old, subnet_id)

        return await mutate(self._context, call, Router, work, wakes=[router_id])

    def _changes(self, conn: Connection, call: Call) -> RouterChanges:
        return RouterChanges(conn, self._context, call)


def _key(router: Router) -> Sequence[str]:
    return [router.name, router.id]


def _lock_project(conn: Connection, router_id: str, field: str) -> None:
    seen = fetch("router", router_id, field, lambda ident: routers.get(conn, ident))
    resolve_project(conn, seen.project_id)


def _locked(conn: Connection, router_id: str, field: str, etag: str) -> Router:
    row = fetch("router", router_id, field, lambda ident: routers.locked(conn, ident))
    check_etag("router", row.id, row.etag, etag)
    return row


def _check_unused(router: Router, passing: Sequence[FloatingIp], what: str) -> None:
    """Raise `FailedPrecondition` when floating addresses pass by a router."""
    if passing:
        shown = ", ".join(one.name for one in passing[:_SHOWN])
        raise FailedPrecondition(
            f"{len(passing)} floating addresses pass by router {router.name} ({shown}), so {what}",
            reason="ROUTER_HAS_FLOATING_IPS",
            fix="take the floating addresses away first: update each with an empty port_id",
            metadata={
                "router_id": router.id,
                "floating_ips": str(len(passing)),
                "names": shown,
            },
        )


def _not_there(router: Router, subnet_id: str) -> NotFound:
    return NotFound(
        f"router {router.name} is not on subnet {subnet_id}",
        reason="ROUTER_INTERFACE_NOT_FOUND",
        fix="read the router: its interfaces name the subnets that it is on",
        metadata={"router_id": router.id, "subnet_id": subnet_id},
        resource_kind="router_interface",
        resource=subnet_id,
    )

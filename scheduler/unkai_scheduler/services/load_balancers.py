"""Load balancers: one address for several instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import Violations, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.load_balancer_changes import LoadBalancerChanges, projects_beside
from unkai_scheduler.services.load_balancer_drafts import (
    CHANGEABLE,
    LoadBalancerDraft,
    check_load_balancer,
)
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import load_balancers
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


class LoadBalancersService:
    """Use cases of load balancers."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: LoadBalancerDraft) -> LoadBalancer:
        """Make a load balancer, with an address of its subnet."""
        draft = check_load_balancer(draft, frozenset({*CHANGEABLE, "subnet_id", "address"}))
        check_configured(self._settings)
        ident = self._context.new_id("load_balancer")

        def work(conn: Connection) -> LoadBalancer:
            project = resolve_project(conn, project_id, projects_beside(conn, draft.listeners))
            now = self._context.clock()
            row = LoadBalancer(
                id=ident,
                project_id=project.id,
                name=draft.name,
                subnet_id=draft.subnet_id,
                port_id="",
                address="",
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                listeners=draft.listeners,
                labels=dict(draft.labels),
            )
            return self._changes(conn, call).make(row, draft.address)

        return await mutate(self._context, call, LoadBalancer, work, wakes=[ident])

    async def get(self, load_balancer_id: str) -> LoadBalancer:
        """Return one load balancer."""
        return await read_row(
            self._context.uow, "load_balancer", load_balancer_id, load_balancers.get
        )

    async def list(
        self, paging: Paging, *, project_id: str = "", name: str = "", subnet_id: str = ""
    ) -> Page[LoadBalancer]:
        """Return load balancers by name."""
        with Violations() as wrong:
            for kind, ident in (("project", project_id), ("subnet", subnet_id)):
                if ident:
                    with wrong.collect():
                        check_id(kind, ident, f"{kind}_id")
            with wrong.collect():
                names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "load_balancers", [project_id, name, subnet_id], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(
                load_balancers.list_page,
                project_id=project_id or None,
                name=name or None,
                subnet_id=subnet_id or None,
            ),
        )

    async def update(
        self,
        call: Call,
        load_balancer_id: str,
        draft: LoadBalancerDraft,
        mask: Sequence[str],
        etag: str,
    ) -> LoadBalancer:
        """Change the fields that the mask names."""
        fields = check_mask(mask, CHANGEABLE)
        draft = check_load_balancer(draft, fields)

        def work(conn: Connection) -> LoadBalancer:
            seen = _seen(conn, load_balancer_id, "load_balancer.id")
            listeners = draft.listeners if "listeners" in fields else ()
            beside = projects_beside(conn, (*seen.listeners, *listeners))
            resolve_project(conn, seen.project_id, beside)
            seen = found("load_balancer", seen.id, load_balancers.get(conn, seen.id))

            def alter(row: LoadBalancer) -> LoadBalancer:
                return replace(
                    row,
                    name=draft.name if "name" in fields else row.name,
                    labels=dict(draft.labels) if "labels" in fields else row.labels,
                    listeners=draft.listeners if "listeners" in fields else row.listeners,
                )

            return self._changes(conn, call).change(seen, alter, etag)

        return await mutate(self._context, call, LoadBalancer, work, wakes=[load_balancer_id])

    async def delete(self, call: Call, load_balancer_id: str, etag: str = "") -> None:
        """Remove a load balancer; its address is free then."""

        def work(conn: Connection) -> LoadBalancer:
            seen = _seen(conn, load_balancer_id, "load_balancer_id")
            resolve_project(conn, seen.project_id)
            seen = found("load_balancer", seen.id, load_balancers.get(conn, seen.id))
            self._changes(conn, call).remove(seen, etag)
            return seen

        await mutate(self._context, call, LoadBalancer, work, wakes=[load_balancer_id])

    def _changes(self, conn: Connection, call: Call) -> LoadBalancerChanges:
        return LoadBalancerChanges(conn, self._context, call)


def _key(row: LoadBalancer) -> Sequence[str]:
    return [row.name, row.id]


def _seen(conn: Connection, ident: str, field: str) -> LoadBalancer:
    return fetch("load_balancer", ident, field, lambda one: load_balancers.get(conn, one))

"""Projects: what owns everything a user makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.resources import DEFAULT_PROJECT, Project
from unkai_scheduler.domain.security_groups import DEFAULT_GROUP, SecurityGroup
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import (
    aggregates,
    floating_ips,
    images,
    instances,
    key_pairs,
    load_balancers,
    networks,
    placement_groups,
    ports,
    projects,
    routers,
    security_groups,
    subnets,
)
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "description", "labels")
_MAX_DESCRIPTION = 512


@dataclass(frozen=True, slots=True)
class ProjectDraft:
    """What a user may say of a project."""

    name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def resolve_project(conn: Connection, project_id: str, held: Iterable[str] = ()) -> Project:
    """Return the project an empty or given id means, locked; raise `NotFound`.

    Called first in each change that makes something in a project: of those one at a time goes on.
    `held`: ids of others, in which something may be made besides.
    """

    def look(ident: str) -> Project | None:
        projects.lock(conn, ident, held)
        return projects.get(conn, ident)

    if not project_id:
        project_id = found("project", DEFAULT_PROJECT, projects.find(conn, DEFAULT_PROJECT)).id
    return fetch("project", project_id, "project_id", look)


class ProjectsService:
    """Use cases of projects."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(self, call: Call, draft: ProjectDraft) -> Project:
        """Make a project."""
        _check(draft, frozenset(_CHANGEABLE))
        now = self._context.clock()
        project = Project(
            id=self._context.new_id("project"),
            name=draft.name,
            description=draft.description,
            etag=self._context.new_etag(),
            create_time=now,
            update_time=now,
            labels=dict(draft.labels),
        )

        def work(conn: Connection) -> Project:
            projects.insert(conn, project)
            self._record(conn, call, project, EventType.CREATED, "was made")
            return project

        return await mutate(self._context, call, Project, work)

    async def get(self, project_id: str) -> Project:
        """Return one project."""
        return await read_row(self._context.uow, "project", project_id, projects.get)

    async def list(self, paging: Paging, *, name: str = "") -> Page[Project]:
        """Return projects by name."""
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "projects", [name], _key, key_length=2)
        return await page.read(self._context.uow, partial(projects.list_page, name=name or None))

    async def update(
        self, call: Call, project_id: str, draft: ProjectDraft, mask: Sequence[str], etag: str
    ) -> Project:
        """Change the fields that the mask names."""
        fields = check_mask(mask, _CHANGEABLE)
        _check(draft, fields)

        def work(conn: Connection) -> Project:
            old = fetch("project", project_id, "project.id", lambda i: projects.locked(conn, i))
            if "name" in fields and draft.name != old.name:
                _keep_default(old)
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                description=draft.description if "description" in fields else old.description,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            projects.replace(conn, new, etag=etag or None)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return new

        return await mutate(self._context, call, Project, work)

    async def delete(self, call: Call, project_id: str, etag: str = "") -> None:
        """Remove a project that owns nothing; `default` stays."""

        def work(conn: Connection) -> Project:
            row = fetch("project", project_id, "project_id", lambda i: projects.locked(conn, i))
            check_etag("project", row.id, row.etag, etag)
            _keep_default(row)
            default_group = security_groups.find(conn, row.id, DEFAULT_GROUP)
            _check_unused(conn, row, own_groups=1 if default_group else 0)
            if default_group:
                self._remove_group(conn, call, default_group)
            projects.delete(conn, row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, Project, work)

    def _remove_group(self, conn: Connection, call: Call, group: SecurityGroup) -> None:
        """Remove the group that the project was given by itself."""
        security_groups.delete(conn, group.id)
        ovn_work.removed(conn, self._context, "security_group", group.id)
        subject = Subject("security_group", group.id, group.name, project_id=group.project_id)
        message = f"security group {group.name} was removed with its project"
        record(conn, self._context, call, subject, EventType.DELETED, message=message)

    def _record(
        self, conn: Connection, call: Call, row: Project, change: EventType, what: str
    ) -> None:
        subject = Subject("project", row.id, row.name, project_id=row.id)
        message = f"project {row.name} {what}"
        record(conn, self._context, call, subject, change, message=message)


def _key(project: Project) -> Sequence[str]:
    return [project.name, project.id]


def _check(draft: ProjectDraft, fields: frozenset[str]) -> None:
    with Violations() as wrong:
        if "name" in fields:
            with wrong.collect():
                names.check_name(draft.name, "project.name")
        if "labels" in fields:
            with wrong.collect():
                names.check_labels(draft.labels, "project.labels")
        if "description" in fields:
            with wrong.collect():
                names.check_text(draft.description, "project.description", _MAX_DESCRIPTION)


def _keep_default(project: Project) -> None:
    if project.name == DEFAULT_PROJECT:
        raise FailedPrecondition(
            f"project {DEFAULT_PROJECT} stays: requests without a project mean it",
            reason="PROJECT_IS_DEFAULT",
            metadata={"project_id": project.id},
        )


def _check_unused(conn: Connection, project: Project, *, own_groups: int) -> None:
    """Raise while a project owns anything; `own_groups`: it was given so many by itself."""
    owned = {
        "aggregates dedicated to it": aggregates.count_by_project(conn, project.id),
        "instances": instances.count_by_project(conn, project.id),
        "images": images.count_by_project(conn, project.id),
        "key pairs": key_pairs.count_by_project(conn, project.id),
        "placement groups": placement_groups.count_by_project(conn, project.id),
        "networks": networks.count_by_project(conn, project.id),
        "subnets": subnets.count_by_project(conn, project.id),
        "ports": ports.count_by_project(conn, project.id),
        "routers": routers.count_by_project(conn, project.id),
        "floating addresses": floating_ips.count_by_project(conn, project.id),
        "load balancers": load_balancers.count_by_project(conn, project.id),
        "security groups": security_groups.count_by_project(conn, project.id) - own_groups,
    }
    used = [kind for kind, count in owned.items() if count]
    if used:
        raise FailedPrecondition(
            f"project {project.name} still has {' and '.join(used)}",
            reason="PROJECT_IN_USE",
            fix="remove what it owns first",
            metadata={"project_id": project.id, "owns": ",".join(used)},
        )

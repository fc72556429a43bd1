"""Placement groups: instances near each other, or apart. What they mean is for placement to keep.

A group is referred to by the instances in it, which hold it while they are made; it is removed
only when none names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.placement_groups import (
    MAX_PER_PLACE,
    GroupPolicy,
    GroupScope,
    PlacementGroup,
    Strictness,
)
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import instances, placement_groups
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "labels")
_TOLD = 5
"""Instances that a refusal names."""


@dataclass(frozen=True, slots=True)
class PlacementGroupDraft:
    """What a user may say of a placement group."""

    name: str = ""
    policy: GroupPolicy | None = None
    strictness: Strictness = Strictness.HARD
    scope: GroupScope = GroupScope.HOST
    max_per_place: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


class PlacementGroupsService:
    """Use cases of placement groups."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(
        self, call: Call, project_id: str, draft: PlacementGroupDraft
    ) -> PlacementGroup:
        """Make a group without members."""
        policy = _checked(draft)
        now = self._context.clock()
        apart_on_hosts = policy is GroupPolicy.ANTI_AFFINITY and draft.scope is GroupScope.HOST
        group = PlacementGroup(
            id=self._context.new_id("placement_group"),
            project_id="",
            name=draft.name,
            policy=policy,
            strictness=draft.strictness,
            scope=draft.scope,
            max_per_place=draft.max_per_place or int(apart_on_hosts),
            etag=self._context.new_etag(),
            create_time=now,
            update_time=now,
            labels=dict(draft.labels),
        )

        def work(conn: Connection) -> PlacementGroup:
            row = replace(group, project_id=resolve_project(conn, project_id).id)
            placement_groups.insert(conn, row)
            self._record(conn, call, row, EventType.CREATED, "was made")
            return row

        return await mutate(self._context, call, PlacementGroup, work)

    async def get(self, placement_group_id: str) -> PlacementGroup:
        """Return one group with who names it."""
        return await read_row(self._context.uow, "placement_group", placement_group_id, _shown)

    async def list(
        self, paging: Paging, *, project_id: str = "", name: str = ""
    ) -> Page[PlacementGroup]:
        """Return groups by name, with who names them."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "placement_groups", [project_id, name], _key, key_length=2)
        look = partial(_shown_page, project_id=project_id or None, name=name or None)
        return await page.read(self._context.uow, look)

    async def update(
        self,
        call: Call,
        placement_group_id: str,
        draft: PlacementGroupDraft,
        mask: Sequence[str],
        etag: str,
    ) -> PlacementGroup:
        """Change name or labels."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            _check_words(wrong, draft, fields)

        def work(conn: Connection) -> PlacementGroup:
            old = fetch(
                "placement_group",
                placement_group_id,
                "placement_group.id",
                lambda i: placement_groups.locked(conn, i),
            )
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            placement_groups.replace(conn, new, etag=etag or None)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return _with_members(conn, [new])[0]

        return await mutate(self._context, call, PlacementGroup, work)

    async def delete(self, call: Call, placement_group_id: str, etag: str = "") -> None:
        """Remove a group that no instance names."""

        def work(conn: Connection) -> PlacementGroup:
            row = fetch(
                "placement_group",
                placement_group_id,
                "placement_group_id",
                lambda i: placement_groups.locked(conn, i),
            )
            check_etag("placement_group", row.id, row.etag, etag)
            _check_unused(conn, row)
            placement_groups.delete(conn, row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, PlacementGroup, work)

    def _record(
        self, conn: Connection, call: Call, row: PlacementGroup, change: EventType, what: str
    ) -> None:
        subject = Subject("placement_group", row.id, row.name, project_id=row.project_id)
        message = f"placement group {row.name} {what}"
        record(conn, self._context, call, subject, change, message=message)


def _checked(draft: PlacementGroupDraft) -> GroupPolicy:
    """Return the policy of a new group, all of which is checked."""
    with Violations() as wrong:
        _check_words(wrong, draft, frozenset(_CHANGEABLE))
        wrong.require(
            draft.policy is not None,
            "placement_group.policy",
            "must be AFFINITY or ANTI_AFFINITY",
            "POLICY_REQUIRED",
        )
        wrong.require(
            0 <= draft.max_per_place <= MAX_PER_PLACE,
            "placement_group.max_per_place",
            f"is {draft.max_per_place}; it must be 0 to {MAX_PER_PLACE}",
            "INVALID_MAX_PER_PLACE",
        )
        wrong.require(
            draft.policy is not GroupPolicy.AFFINITY or draft.max_per_place == 0,
            "placement_group.max_per_place",
            "is for ANTI_AFFINITY alone",
            "MAX_PER_PLACE_NEEDS_ANTI_AFFINITY",
        )
    assert draft.policy is not None
    return draft.policy


def _check_words(wrong: Violations, draft: PlacementGroupDraft, fields: frozenset[str]) -> None:
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "placement_group.name")
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "placement_group.labels")


def _check_unused(conn: Connection, group: PlacementGroup) -> None:
    idents = placement_groups.naming(conn, [group.id]).get(group.id, ())
    if not idents:
        return
    told = sorted(row.spec.name for row in instances.list_some(conn, idents[:_TOLD]))
    others = f" and {len(idents) - len(told)} more" if len(idents) > len(told) else ""
    raise FailedPrecondition(
        f"placement group {group.name} has members: {', '.join(told)}{others}",
        reason="PLACEMENT_GROUP_IN_USE",
        fix="remove these instances first",
        metadata={"placement_group_id": group.id, "instances": str(len(idents))},
    )


def _shown(conn: Connection, ident: str) -> PlacementGroup | None:
    row = placement_groups.get(conn, ident)
    return None if row is None else _with_members(conn, [row])[0]


def _shown_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None,
    name: str | None,
) -> list[PlacementGroup]:
    page = placement_groups.list_page(
        conn, after=after, limit=limit, project_id=project_id, name=name
    )
    return _with_members(conn, page)


def _with_members(conn: Connection, some: Sequence[PlacementGroup]) -> list[PlacementGroup]:
    """Return groups as their user sees them: with who names them."""
    naming = placement_groups.naming(conn, [row.id for row in some])
    return [replace(row, instance_ids=naming.get(row.id, ())) for row in some]


def _key(group: PlacementGroup) -> Sequence[str]:
    return [group.name, group.id]

"""Aggregates: sets of hosts, and what the operator says of them. It counts for what is placed next.

A change that placement has to learn of moves the etags of the hosts concerned in its transaction,
or the leader would go on with what it knows of them. Rows are locked in this order: projects, the
aggregate, its hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from unkai_scheduler.domain import names
from unkai_scheduler.domain.aggregates import (
    MAX_AGGREGATE_HOSTS,
    MAX_AGGREGATE_PROJECTS,
    Aggregate,
)
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_drafts import check_traits
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import aggregates, hosts, instances, projects
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_RATIOS = {"cpu_ratio": (0.1, 64), "memory_ratio": (0.1, 4), "disk_ratio": (0.1, 16)}
"""Field, least and most: as the settings' (settings.RatioSettings)."""
_CHANGEABLE = ("name", "description", "labels", "project_ids", "traits", *_RATIOS)
_MAX_DESCRIPTION = 512
_LARGEST_PAGE = 100
"""Each may have a thousand hosts, and a page has to fit into a message."""


@dataclass(frozen=True, slots=True)
class AggregateDraft:
    """What an operator may say of an aggregate; a ratio of 0 is none."""

    name: str = ""
    description: str = ""
    host_ids: tuple[str, ...] = ()
    project_ids: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    cpu_ratio: float = 0.0
    memory_ratio: float = 0.0
    disk_ratio: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


class AggregatesService:
    """Use cases of aggregates."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(self, call: Call, draft: AggregateDraft) -> Aggregate:
        """Make an aggregate."""
        with Violations() as wrong:
            _check(wrong, draft, frozenset(_CHANGEABLE))
            _check_ids(wrong, "host", draft.host_ids, "aggregate.host_ids", MAX_AGGREGATE_HOSTS)
        now, ident = self._context.clock(), self._context.new_id("aggregate")
        blank = Aggregate(ident, draft.name, self._context.new_etag(), now, now)

        def work(conn: Connection) -> Aggregate:
            _hold_projects(conn, draft.project_ids)
            _lock_hosts(conn, draft.host_ids)
            made = _drafted(blank, draft, frozenset(_CHANGEABLE))
            made = replace(made, host_ids=_in_order(draft.host_ids))
            aggregates.insert(conn, made)
            self._tell_hosts(conn, made.host_ids)
            self._record(conn, call, made, EventType.CREATED, "was made")
            return made

        return await mutate(self._context, call, Aggregate, work, wakes=[ident])

    async def get(self, aggregate_id: str) -> Aggregate:
        """Return one aggregate."""
        return await read_row(self._context.uow, "aggregate", aggregate_id, aggregates.get)

    async def list(self, paging: Paging, *, name: str = "") -> Page[Aggregate]:
        """Return aggregates by name, at most a hundred a page."""
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "aggregates", [name], _key, key_length=2)
        page = replace(page, size=min(page.size, _LARGEST_PAGE))
        return await page.read(self._context.uow, partial(aggregates.list_page, name=name or None))

    async def update(
        self, call: Call, aggregate_id: str, draft: AggregateDraft, mask: Sequence[str], etag: str
    ) -> Aggregate:
        """Change the fields that the mask names."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            _check(wrong, draft, fields)

        def work(conn: Connection) -> Aggregate:
            _hold_projects(conn, draft.project_ids if "project_ids" in fields else ())
            old = _locked(conn, aggregate_id, "aggregate.id")
            check_etag("aggregate", old.id, old.etag, etag)
            new = self._renewed(_drafted(old, draft, fields))
            aggregates.replace(conn, new, etag=None)
            if new.says != old.says:
                self._tell_hosts(conn, new.host_ids)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return new

        return await mutate(self._context, call, Aggregate, work, wakes=[aggregate_id])

    async def delete(self, call: Call, aggregate_id: str, etag: str = "") -> None:
        """Remove an aggregate that no instance asks for; its hosts stay."""

        def work(conn: Connection) -> Aggregate:
            row = _locked(conn, aggregate_id)
            check_etag("aggregate", row.id, row.etag, etag)
            count = instances.count_by_aggregate(conn, row.id)
            if count:
                raise FailedPrecondition(
                    f"aggregate {row.name} is asked for by {count} instance{'s' * (count != 1)}",
                    reason="AGGREGATE_IN_USE",
                    fix="delete those first",
                    metadata={"aggregate": row.name, "instances": str(count)},
                )
            aggregates.delete(conn, row.id)
            self._tell_hosts(conn, row.host_ids)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, Aggregate, work, wakes=[aggregate_id])

    async def add_hosts(self, call: Call, aggregate_id: str, host_ids: Sequence[str]) -> Aggregate:
        """Put hosts into an aggregate."""
        _check_named(host_ids)

        def work(conn: Connection) -> Aggregate:
            old = _locked(conn, aggregate_id)
            new_ids = set(host_ids) - set(old.host_ids)
            if not new_ids:
                return old
            _lock_hosts(conn, new_ids)
            count = len(old.host_ids) + len(new_ids)
            if count > MAX_AGGREGATE_HOSTS:
                raise FailedPrecondition(
                    f"aggregate {old.name} would have {count} hosts; {MAX_AGGREGATE_HOSTS} are "
                    "allowed",
                    reason="AGGREGATE_FULL",
                    fix="make another aggregate that says the same",
                    metadata={"aggregate": old.name, "hosts": str(count)},
                )
            return self._with_hosts(conn, call, old, {*old.host_ids, *new_ids}, new_ids)

        return await mutate(self._context, call, Aggregate, work, wakes=[aggregate_id])

    async def remove_hosts(
        self, call: Call, aggregate_id: str, host_ids: Sequence[str]
    ) -> Aggregate:
        """Take hosts out of an aggregate."""
        _check_named(host_ids)

        def work(conn: Connection) -> Aggregate:
            old = _locked(conn, aggregate_id)
            gone = set(host_ids) & set(old.host_ids)
            if not gone:
                return old
            return self._with_hosts(conn, call, old, set(old.host_ids) - gone, gone)

        return await mutate(self._context, call, Aggregate, work, wakes=[aggregate_id])

    def _with_hosts(
        self,
        conn: Connection,
        call: Call,
        old: Aggregate,
        host_ids: Collection[str],
        moved: Collection[str],
    ) -> Aggregate:
        new = self._renewed(replace(old, host_ids=_in_order(host_ids)))
        aggregates.replace(conn, new, etag=None)
        self._tell_hosts(conn, moved)
        came = len(new.host_ids) > len(old.host_ids)
        named = sorted(host.name for host in hosts.list_some(conn, sorted(moved)))
        what = f"{'has' if came else 'no longer has'} {', '.join(named)}"
        self._record(conn, call, new, EventType.UPDATED, what)
        return new

    def _renewed(self, row: Aggregate) -> Aggregate:
        return replace(row, etag=self._context.new_etag(), update_time=self._context.clock())

    def _tell_hosts(self, conn: Connection, host_ids: Collection[str]) -> None:
        """Move the etags of hosts of which something else is said now."""
        hosts.touch(conn, host_ids, self._context.new_etag(), self._context.clock())

    def _record(
        self, conn: Connection, call: Call, row: Aggregate, change: EventType, what: str
    ) -> None:
        subject = Subject("aggregate", row.id, row.name)
        message = f"aggregate {row.name} {what}"
        record(conn, self._context, call, subject, change, message=message)


def _drafted(row: Aggregate, draft: AggregateDraft, fields: Collection[str]) -> Aggregate:
    """Return the row with these fields of a draft."""
    said: dict[str, Any] = {
        "name": draft.name,
        "description": draft.description,
        "labels": dict(draft.labels),
        "project_ids": _in_order(draft.project_ids),
        "traits": draft.traits,
    }
    ratios: dict[str, Any] = {
        name.removesuffix("_ratio"): getattr(draft, name) or None
        for name in _RATIOS
        if name in fields
    }
    said = {name: value for name, value in said.items() if name in fields}
    return replace(row, **said, ratios=replace(row.ratios, **ratios))


def _key(aggregate: Aggregate) -> Sequence[str]:
    return [aggregate.name, aggregate.id]


def _in_order(idents: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(set(idents)))


def _locked(conn: Connection, ident: str, named_by: str = "aggregate_id") -> Aggregate:
    return fetch("aggregate", ident, named_by, lambda i: aggregates.locked(conn, i))


def _hold_projects(conn: Connection, idents: Collection[str]) -> None:
    """Keep projects from being removed; raise `NotFound` for one that is not there."""
    projects.hold(conn, idents)
    for ident in _in_order(idents):
        if projects.get(conn, ident) is None:
            raise NotFound.of("project", ident)


def _lock_hosts(conn: Connection, idents: Collection[str]) -> None:
    """Lock hosts, which are about to be touched; raise `NotFound` for one that is not there."""
    hosts.lock(conn, *idents)
    known = {host.id for host in hosts.list_some(conn, sorted(idents))}
    for ident in _in_order(idents):
        if ident not in known:
            raise NotFound.of("host", ident)


def _check_named(host_ids: Sequence[str]) -> None:
    with Violations() as wrong:
        wrong.require(bool(host_ids), "host_ids", "must name at least one host", "NO_HOSTS")
        _check_ids(wrong, "host", host_ids, "host_ids", MAX_AGGREGATE_HOSTS)


def _check_ids(
    wrong: Violations, kind: str, idents: Sequence[str], named_by: str, most: int
) -> None:
    wrong.require(
        len(idents) <= most, named_by, f"has {len(idents)} ids; {most} are allowed", "TOO_MANY_IDS"
    )
    for ident in dict.fromkeys(idents[:most]):
        with wrong.collect():
            check_id(kind, ident, named_by)


def _check(wrong: Violations, draft: AggregateDraft, fields: Collection[str]) -> None:
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "aggregate.name")
    if "description" in fields:
        with wrong.collect():
            names.check_text(draft.description, "aggregate.description", _MAX_DESCRIPTION)
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "aggregate.labels")
    if "project_ids" in fields:
        named = draft.project_ids
        _check_ids(wrong, "project", named, "aggregate.project_ids", MAX_AGGREGATE_PROJECTS)
    if "traits" in fields:
        check_traits(wrong, "aggregate.traits", draft.traits)
    for name, (least, most) in _RATIOS.items():
        ratio = getattr(draft, name)
        wrong.require(
            name not in fields or ratio == 0 or least <= ratio <= most,
            f"aggregate.{name}",
            f"is {ratio:g}; it must be {least:g} to {most:g}, or 0 for none",
            "INVALID_RATIO",
        )

"""Flavors: named sizes. Instances copy their figures, so a change harms none that exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import (
    MAX_DISK_BYTES,
    MAX_MEMORY_BYTES,
    MAX_VCPUS,
    MIB,
    MIN_MEMORY_BYTES,
)
from unkai_scheduler.domain.resources import Flavor
from unkai_scheduler.services.checks import (
    Violations,
    check_etag,
    check_mask,
    check_size,
    fetch,
)
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import flavors, instances
from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "labels")


@dataclass(frozen=True, slots=True)
class FlavorDraft:
    """What an operator may say of a flavor."""

    name: str = ""
    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


class FlavorsService:
    """Use cases of flavors."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(self, call: Call, draft: FlavorDraft) -> Flavor:
        """Make a flavor."""
        with Violations() as wrong:
            _check_words(wrong, draft, frozenset(_CHANGEABLE))
            wrong.require(
                1 <= draft.vcpus <= MAX_VCPUS,
                "flavor.vcpus",
                f"is {draft.vcpus}; it must be 1 to {MAX_VCPUS}",
                "INVALID_VCPUS",
            )
            check_size(
                wrong,
                "flavor.memory_bytes",
                draft.memory_bytes,
                MIN_MEMORY_BYTES,
                MAX_MEMORY_BYTES,
            )
            check_size(
                wrong, "flavor.disk_bytes", draft.disk_bytes, MIB, MAX_DISK_BYTES, may_be_0=True
            )
        now = self._context.clock()
        flavor = Flavor(
            id=self._context.new_id("flavor"),
            name=draft.name,
            vcpus=draft.vcpus,
            memory_bytes=draft.memory_bytes,
            disk_bytes=draft.disk_bytes,
            etag=self._context.new_etag(),
            create_time=now,
            update_time=now,
            labels=dict(draft.labels),
        )

        def work(conn: Connection) -> Flavor:
            flavors.insert(conn, flavor)
            self._record(conn, call, flavor, EventType.CREATED, "was made")
            return flavor

        return await mutate(self._context, call, Flavor, work)

    async def get(self, flavor_id: str) -> Flavor:
        """Return one flavor."""
        return await read_row(self._context.uow, "flavor", flavor_id, flavors.get)

    async def list(self, paging: Paging, *, name: str = "") -> Page[Flavor]:
        """Return flavors by name."""
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "flavors", [name], _key, key_length=2)
        return await page.read(self._context.uow, partial(flavors.list_page, name=name or None))

    async def update(
        self, call: Call, flavor_id: str, draft: FlavorDraft, mask: Sequence[str], etag: str
    ) -> Flavor:
        """Change name or labels."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            _check_words(wrong, draft, fields)

        def work(conn: Connection) -> Flavor:
            old = fetch("flavor", flavor_id, "flavor.id", lambda i: flavors.locked(conn, i))
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            flavors.replace(conn, new, etag=etag or None)
            self._record(conn, call, new, EventType.UPDATED, "was changed")
            return new

        return await mutate(self._context, call, Flavor, work)

    async def delete(self, call: Call, flavor_id: str, etag: str = "") -> None:
        """Remove a flavor that no instance names."""

        def work(conn: Connection) -> Flavor:
            row = fetch("flavor", flavor_id, "flavor_id", lambda i: flavors.locked(conn, i))
            check_etag("flavor", row.id, row.etag, etag)
            count = instances.count_by_flavor(conn, row.id)
            if count:
                raise FailedPrecondition(
                    f"flavor {row.name} is named by {count} instances",
                    reason="FLAVOR_IN_USE",
                    fix="remove these instances first",
                    metadata={"flavor_id": row.id, "instances": str(count)},
                )
            flavors.delete(conn, row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, Flavor, work)

    def _record(
        self, conn: Connection, call: Call, row: Flavor, change: EventType, what: str
    ) -> None:
        subject = Subject("flavor", row.id, row.name)
        message = f"flavor {row.name} {what}"
        record(conn, self._context, call, subject, change, message=message)


def _key(flavor: Flavor) -> Sequence[str]:
    return [flavor.name, flavor.id]


def _check_words(wrong: Violations, draft: FlavorDraft, fields: frozenset[str]) -> None:
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "flavor.name")
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "flavor.labels")

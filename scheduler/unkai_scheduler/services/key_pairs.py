"""Key pairs: public SSH keys that instances get on first boot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.resources import KeyPair
from unkai_scheduler.services.checks import Violations, check_etag, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.public_keys import parse_public_key
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import instances, key_pairs
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class KeyPairDraft:
    """What a user may say of a key pair."""

    name: str
    public_key: str
    labels: Mapping[str, str] = field(default_factory=dict)


class KeyPairsService:
    """Use cases of key pairs."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def create(self, call: Call, project_id: str, draft: KeyPairDraft) -> KeyPair:
        """Take a public key into a project."""
        line, fingerprint = "", ""
        with Violations() as wrong:
            with wrong.collect():
                names.check_name(draft.name, "key_pair.name")
            with wrong.collect():
                names.check_labels(draft.labels, "key_pair.labels")
            with wrong.collect():
                line, fingerprint = parse_public_key(draft.public_key)
        key_pair = KeyPair(
            id=self._context.new_id("key_pair"),
            project_id="",
            name=draft.name,
            public_key=line,
            fingerprint=fingerprint,
            etag=self._context.new_etag(),
            create_time=self._context.clock(),
            labels=dict(draft.labels),
        )

        def work(conn: Connection) -> KeyPair:
            row = replace(key_pair, project_id=resolve_project(conn, project_id).id)
            key_pairs.insert(conn, row)
            self._record(conn, call, row, EventType.CREATED, "was made")
            return row

        return await mutate(self._context, call, KeyPair, work)

    async def get(self, key_pair_id: str) -> KeyPair:
        """Return one key pair."""
        return await read_row(self._context.uow, "key_pair", key_pair_id, key_pairs.get)

    async def list(self, paging: Paging, *, project_id: str = "", name: str = "") -> Page[KeyPair]:
        """Return key pairs by name."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "key_pairs", [project_id, name], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(key_pairs.list_page, project_id=project_id or None, name=name or None),
        )

    async def delete(self, call: Call, key_pair_id: str, etag: str = "") -> None:
        """Remove a key pair that no instance names."""

        def work(conn: Connection) -> KeyPair:
            row = fetch("key_pair", key_pair_id, "key_pair_id", lambda i: key_pairs.locked(conn, i))
            check_etag("key_pair", row.id, row.etag, etag)
            count = instances.count_by_key_pair(conn, row.id)
            if count:
                raise FailedPrecondition(
                    f"key pair {row.name} is named by {count} instances",
                    reason="KEY_PAIR_IN_USE",
                    fix="remove these instances first",
                    metadata={"key_pair_id": row.id, "instances": str(count)},
                )
            key_pairs.delete(conn, row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, KeyPair, work)

    def _record(
        self, conn: Connection, call: Call, row: KeyPair, change: EventType, what: str
    ) -> None:
        subject = Subject("key_pair", row.id, row.name, project_id=row.project_id)
        message = f"key pair {row.name} {what}"
        record(conn, self._context, call, subject, change, message=message)


def _key(key_pair: KeyPair) -> Sequence[str]:
    return [key_pair.name, key_pair.id]

"""What is asked again and again, or while everybody waits for the writer, reads no whole table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.builders import NOON
from tests.support.store import a_store, store_url
from unkai_scheduler.domain.events import Revision
from unkai_scheduler.store import (
    claims,
    events,
    instances,
    key_pairs,
    operations,
    requests,
    sqlite,
    tombstones,
)

LOOK_UPS: dict[str, Callable[[Connection], object]] = {
    "due instances": lambda c: instances.due(c, NOON, 64),
    "an instance by name": lambda c: instances.find(c, "prj-1", "web"),
    "a project's instances": lambda c: instances.list_page(
        c, after=("web", "ins-1"), limit=100, project_id="prj-1"
    ),
    "who uses an image": lambda c: instances.count_by_image(c, "img-1"),
    "who uses a flavor": lambda c: instances.count_by_flavor(c, "flv-1"),
    "who names a key pair": lambda c: instances.count_by_key_pair(c, "key-1"),
    "what a project owns": lambda c: (
        instances.count_by_project(c, "prj-1"),
        key_pairs.count_by_project(c, "prj-1"),
    ),
    "the claim of an instance": lambda c: claims.get(c, "ins-1"),
    "an instance's tombstones": lambda c: tombstones.of_instance(c, "ins-1"),
    "the operation under way": lambda c: operations.active_for(c, "ins-1"),
    "all operations under way": lambda c: operations.list_page(
        c, after=None, limit=100, active_only=True
    ),
    "expired operations": lambda c: operations.expired(c, NOON, 256),
    "events to stamp": events.any_unstamped,
    "stamping": lambda c: events.stamp(c, 100),
    "events to watch": lambda c: events.after(c, Revision(1, 0), limit=500),
    "an instance's events": lambda c: events.list_page(
        c, resource_id="ins-1", after=None, limit=100
    ),
    "a repeated request": lambda c: requests.recall(c, "r1", "local:root", "m", "d"),
    "old operations": lambda c: operations.prune(c, NOON, 500),
    "old requests": lambda c: requests.expire(c, NOON, 500),
    "old tombstones": lambda c: tombstones.prune(c, NOON, 500),
}


@contextmanager
def plans_of(engine: Engine) -> Iterator[Collection[str]]:
    """Collect what SQLite says of how it answers each statement run in the block."""
    steps: list[str] = []

    def explain(_conn: Any, cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            explained = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps.extend(row[3] for row in explained)

    event.listen(engine, "before_cursor_execute", explain)
    yield steps
    event.remove(engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("what", LOOK_UPS)
async def test_it_is_found_by_an_index(tmp_path: Path, what: str) -> None:
    async with a_store(tmp_path):
        pass
    engine = sqlite.writer_engine(store_url(tmp_path))
    with engine.connect() as conn, conn.begin(), plans_of(engine) as steps:
        LOOK_UPS[what](conn)
    engine.dispose()

    assert steps
    assert [step for step in steps if step.startswith("SCAN")] == []

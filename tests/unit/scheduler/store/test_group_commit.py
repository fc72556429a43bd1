"""Group commit: what arrives together shares a transaction, and no work harms another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.builders import DEFAULT_PROJECT_ID, NOON, an_instance
from tests.support.store import ids_with_default_project, store_url
from unkai_scheduler.store import instances, migrations, seed, sqlite, writer
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.writer import Writer
from unkai_wire.errors import AlreadyExists, Unavailable


class Commits:
    """Counts the commits of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "commit", self._add)

    def _add(self, _conn: Connection) -> None:
        self.count += 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = sqlite.writer_engine(store_url(tmp_path))
    with made.connect() as conn, conn.begin():
        migrations.upgrade_on(conn)
        seed.seed_if_new(conn, NOON, ids_with_default_project())
    yield made
    made.dispose()


@pytest.fixture
def commits(engine: Engine) -> Commits:
    return Commits(engine)


def _names(engine: Engine) -> list[str]:
    with engine.connect() as conn:
        page = instances.list_page(conn, after=None, limit=1000, project_id=DEFAULT_PROJECT_ID)
        return [row.spec.name for row in page]


def _insert(name: str) -> Any:
    row = an_instance(name=name)
    return lambda conn: instances.insert(conn, row)


def test_sixty_four_works_share_one_commit(engine: Engine, commits: Commits) -> None:
    # The window is so long that only a full group can end it.
    queue = Writer(engine, group_window_s=600.0)
    futures = [queue.submit(_insert(f"vm-{n:02}"), grouped=True) for n in range(64)]

    outcomes = [future.result(30) for future in futures]
    queue.close()

    assert outcomes == [None] * 64
    assert commits.count == 1
    assert len(_names(engine)) == 64


def test_the_window_ends_the_wait_of_a_lonely_work(engine: Engine, commits: Commits) -> None:
    queue = Writer(engine)

    queue.submit(_insert("alone"), grouped=True).result(30)

    queue.close()
    assert commits.count == 1
    assert _names(engine) == ["alone"]


def test_a_failing_work_harms_no_other_of_its_group(engine: Engine, commits: Commits) -> None:
    def broken(conn: Connection) -> None:
        _insert("half-made")(conn)
        raise RuntimeError("a bug")

    queue = Writer(engine, group_window_s=600.0, group_size=4)
    futures = [
        queue.submit(work, grouped=True)
        for work in (_insert("one"), _insert("one"), broken, _insert("two"))
    ]
    errors = [future.exception(30) for future in futures]
    queue.close()

    assert errors[0] is None
    assert isinstance(errors[1], AlreadyExists)
    assert isinstance(errors[2], RuntimeError)
    assert errors[3] is None
    assert commits.count == 1
    assert _names(engine) == ["one", "two"]


def test_a_group_whose_transaction_fails_is_run_singly(engine: Engine, commits: Commits) -> None:
    tries: list[str] = []

    def spoils_the_group_once(conn: Connection) -> None:
        tries.append("spoiler")
        if len(tries) == 1:
            raise DatabaseFailure(Failure.UNAVAILABLE, "spoilt")
        _insert("spoiler")(conn)

    queue = Writer(engine, group_window_s=600.0, group_size=3)
    futures: list[Future[Any]] = [
        queue.submit(work, grouped=True)
        for work in (_insert("one"), spoils_the_group_once, _insert("two"))
    ]
    errors = [future.exception(30) for future in futures]
    queue.close()

    assert errors == [None, None, None]
    assert commits.count == 3
    assert _names(engine) == ["one", "spoiler", "two"]


def test_a_commit_with_an_unknown_outcome_is_not_repeated(engine: Engine) -> None:
    runs: list[str] = []

    def fail(_conn: Connection) -> None:
        raise DatabaseFailure(Failure.UNAVAILABLE, "the answer was lost")

    def count(_conn: Connection) -> None:
        runs.append("run")

    event.listen(engine, "commit", fail)
    queue = Writer(engine, group_window_s=600.0, group_size=2)
    futures = [queue.submit(count, grouped=True) for _ in range(2)]
    futures.append(queue.submit(count))
    errors = [future.exception(30) for future in futures]
    queue.close()

    assert all(isinstance(error, Unavailable) for error in errors)
    assert len(runs) == 3


def test_single_work_goes_on_while_a_group_waits_for_company(
    engine: Engine, commits: Commits
) -> None:
    queue = Writer(engine, group_window_s=600.0)
    waiting = queue.submit(_insert("grouped"), grouped=True)

    queue.submit(_insert("single")).result(30)

    assert not waiting.done()
    queue.close()
    assert waiting.result(0) is None
    assert commits.count == 2


def test_busy_is_retried_a_bounded_number_of_times(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(writer.time, "sleep", pauses.append)
    runs: list[int] = []

    def busy_until(success_at: int) -> Any:
        def work(_conn: Connection) -> int:
            runs.append(1)
            if len(runs) < success_at:
                raise DatabaseFailure(Failure.BUSY, "locked")
            return len(runs)

        return work

    queue = Writer(engine)
    succeeded = queue.submit(busy_until(3)).result(30)
    runs.clear()
    failed = queue.submit(busy_until(1000)).exception(30)
    queue.close()

    assert succeeded == 3
    assert isinstance(failed, Unavailable)
    assert len(runs) == writer.ATTEMPTS
    assert all(pause <= 1.0 for pause in pauses)

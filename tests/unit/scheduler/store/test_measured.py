"""What passes through the store is counted once it is committed, and only then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.support.builders import NOON, an_operation
from tests.support.store import open_store
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.store import operations
from unkai_scheduler.store.measured import MeasuredUnitOfWork
from unkai_wire.errors import NotFound, Unavailable


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def ended_count() -> float:
    labels = {"verb": "CREATE", "resource_kind": "instance", "outcome": "SUCCEEDED"}
    return figure("unkai_operations_ended_total", **labels)


async def test_an_operation_counts_when_its_end_is_committed(tmp_path: Path) -> None:
    uow = MeasuredUnitOfWork(await open_store(tmp_path))
    row = an_operation(create_time=NOON)
    await uow.write(lambda conn: operations.insert(conn, row))
    ended = replace(
        row, state=OperationState.SUCCEEDED, end_time=NOON + timedelta(seconds=7), error=None
    )
    before, seconds = ended_count(), figure("unkai_operation_seconds_sum", **_CREATE)

    def fails(conn: Any) -> None:
        operations.replace(conn, ended)
        raise NotFound.of("instance", "x")

    with pytest.raises(NotFound):
        await uow.write_grouped(fails)
    assert ended_count() == before
    await uow.write_grouped(lambda conn: operations.replace(conn, ended))
    assert ended_count() == before + 1
    assert figure("unkai_operation_seconds_sum", **_CREATE) - seconds == pytest.approx(7)
    await uow.close()


async def test_work_that_runs_twice_counts_once(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    row = an_operation(create_time=NOON)
    ended = replace(row, state=OperationState.SUCCEEDED, end_time=NOON)

    class Again:
        """A store that runs work twice, as it does when the database was busy."""

        async def write(self, work: Any) -> Any:
            await store.write(work)
            return await store.write(work)

    await store.write(lambda conn: operations.insert(conn, row))
    before = ended_count()
    await MeasuredUnitOfWork(Again()).write(lambda conn: operations.replace(conn, ended))  # type: ignore[arg-type]
    assert ended_count() == before + 1
    await store.close()


async def test_a_failing_database_is_counted_and_a_callers_mistake_is_not(tmp_path: Path) -> None:
    uow = MeasuredUnitOfWork(await open_store(tmp_path))

    def count() -> float:
        labels = {"kind": "read", "reason": "DATABASE_UNAVAILABLE"}
        return figure("unkai_database_failures_total", **labels)

    before = count()

    def mistaken(conn: Any) -> None:
        raise NotFound.of("instance", "x")

    with pytest.raises(NotFound):
        await uow.read(mistaken)
    assert count() == before
    await uow.close()
    with pytest.raises(Unavailable):
        await uow.read(lambda conn: None)
    assert count() == before + 1


_CREATE = {"verb": "CREATE", "resource_kind": "instance"}

"""Operations: read, await and cancel long work. The leader alone carries it out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain.names import MAX_FILTER, check_text
from unkai_scheduler.domain.operations import CANCELLABLE, Operation
from unkai_scheduler.services.checks import Violations, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.store import instances, operations
from unkai_wire import deadlines
from unkai_wire.errors import FailedPrecondition, InvalidArgument
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

DEFAULT_WAIT_S = 30.0


class OperationsService:
    """Use cases of operations."""

    def __init__(
        self,
        context: ServiceContext,
        follower: Follower,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._follower = follower
        self._monotonic = monotonic

    async def get(self, operation_id: str) -> Operation:
        """Return one operation."""
        return await read_row(self._context.uow, "operation", operation_id, operations.get)

    async def list(
        self,
        paging: Paging,
        *,
        project_id: str = "",
        resource_id: str = "",
        active_only: bool = False,
    ) -> Page[Operation]:
        """Return operations, newest first."""
        if project_id:
            check_id("project", project_id, "project_id")
        check_text(resource_id, "resource_id", MAX_FILTER)
        conditions = [project_id, resource_id, active_only]
        page = plan(paging, "operations", conditions, _key, key_length=1)
        return await page.read(
            self._context.uow,
            partial(
                operations.list_page,
                project_id=project_id or None,
                resource_id=resource_id or None,
                active_only=active_only,
            ),
        )

    async def wait(
        self, operation_id: str, timeout_s: float | None = None, seen_update_time: str = ""
    ) -> Operation:
        """Return the operation once it has ended, or moved past what was seen, or time is up."""
        budget_s = DEFAULT_WAIT_S if timeout_s is None else timeout_s
        with Violations() as wrong:
            wrong.require(
                0 <= budget_s <= deadlines.WAIT_MAX_S,
                "timeout",
                f"must be 0 to {deadlines.WAIT_MAX_S:g} s",
                "INVALID_DURATION",
            )
        seen = _parse_time(seen_update_time)
        end_s = self._monotonic() + budget_s
        with self._follower.news_of(operation_id) as news:
            while True:
                news.clear()  # before the look: what is written after it is news
                operation = await self.get(operation_id)
                moved = seen is not None and operation.update_time > seen
                left_s = end_s - self._monotonic()
                if operation.state.ended or moved or left_s <= 0:
                    return operation
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await news.wait()

    async def cancel(self, call: Call, operation_id: str) -> Operation:
        """Ask for the work to be given up; the leader undoes it and ends the operation."""

        def work(conn: Connection) -> Operation:
            def locked(ident: str) -> Operation | None:
                # The instance first, as the leader does: whoever holds it may want the operation.
                row = operations.get(conn, ident)
                if row is not None:
                    instances.lock(conn, row.resource_id)
                return operations.locked(conn, ident)

            row = fetch("operation", operation_id, "operation_id", locked)
            if row.state.ended or row.cancel_requested_time is not None:
                return row
            if row.verb not in CANCELLABLE:
                raise _not_cancellable(row)
            now = self._context.clock()
            asked = replace(row, cancel_requested_time=now, update_time=now)
            operations.replace(conn, asked)
            make_due(conn, row.resource_id, now)
            return asked

        return await mutate(self._context, call, Operation, work, wakes=[operation_id])


def _not_cancellable(row: Operation) -> FailedPrecondition:
    verb = row.verb.value.lower()
    return FailedPrecondition(
        f"operation {row.id} is a {verb}, and a {verb} that has begun is carried out",
        reason="NOT_CANCELLABLE",
        fix=f"wait for it with 'unkai operation wait {row.id}', then undo what it did",
        metadata={"operation_id": row.id, "verb": row.verb.value},
    )


def make_due(conn: Connection, instance_id: str, now: datetime) -> None:
    """Have the leader look at an instance now; other resources have no due time."""
    instance = instances.get(conn, instance_id)
    if instance is not None:
        instances.replace(conn, replace(instance, due_time=now), etag=None)


def _parse_time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidArgument.field(
            "seen_update_time",
            "is not a time in RFC 3339, such as 2030-01-31T12:00:00.5Z",
            reason="INVALID_TIME",
        )
    return moment


def _key(operation: Operation) -> Sequence[str]:
    return [operation.id]

"""Every change: one transaction with its rows, its events and its request id, then a wake.

A repeated request id returns the first answer: a snapshot of the rows that were answered is kept
with it. The trap: `work` may run more than once (the store retries), so it touches rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.names import check_request_id
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.store import events, requests
from unkai_wire.errors import Conflict, Unavailable, UnkaiError

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about, as it is after the change."""

    kind: str
    id: str
    name: str
    project_id: str = ""
    state: str = ""


async def mutate(
    context: ServiceContext,
    call: Call,
    answer_type: type[A],
    work: Callable[[Connection], A],
    *,
    grouped: bool = False,
    term: int | None = None,
    wakes: Sequence[str] | None = None,
) -> A:
    """Run `work` in one transaction, or return what it answered to this request id before.

    `grouped`: share the transaction with other changes that arrive now. `term`: write under this
    term, as the leader alone may; `Unavailable` / NOT_LEADER when it is over. `wakes`: ids that
    the leader shall look at once the change is committed; None: it has nothing to do.
    """
    check_request_id(call.request_id)

    def once(conn: Connection) -> A:
        if not call.request_id:
            return work(conn)
        known = _recall(conn, call, answer_type)
        if known is not None:
            return known
        answer = work(conn)
        snapshot = _answers(answer_type).dump_python(answer, mode="json")
        requests.remember(
            conn,
            call.request_id,
            call.actor,
            call.method,
            call.digest,
            snapshot,
            context.clock(),
        )
        return answer

    try:
        if term is not None:
            answer = await _lead(context, term, once)
        else:
            answer = await (context.uow.write_grouped if grouped else context.uow.write)(once)
    except UnkaiError as error:
        meanwhile = await _answered_meanwhile(context, call, answer_type, error)
        if meanwhile is None:
            raise
        answer = meanwhile
    if wakes is not None:
        context.wake(wakes)
    return answer


async def recalled(
    context: ServiceContext,
    call: Call,
    answer_type: type[A],
    *,
    check: Callable[[Connection], None] = lambda conn: None,
) -> A | None:
    """Return what was answered to this request id before; None when it is new.

    For what asks others before it writes: a repetition then needs none of them. `check`: raises
    what a new request is refused with, on the same snapshot.
    """
    check_request_id(call.request_id)

    def look(conn: Connection) -> A | None:
        known = _recall(conn, call, answer_type)
        if known is None:
            check(conn)
        return known

    return await context.uow.read(look)


def _recall(conn: Connection, call: Call, answer_type: type[A]) -> A | None:
    if not call.request_id:
        return None
    known = requests.recall(conn, call.request_id, call.actor, call.method, call.digest)
    if known is None:
        return None
    answer: A = _answers(answer_type).validate_python(known)
    return answer


def _answers(answer_type: Any) -> TypeAdapter[Any]:
    return _adapter(answer_type)


async def _lead(context: ServiceContext, term: int, work: Callable[[Connection], A]) -> A:
    try:
        return await context.uow.lead(term, work)
    except Conflict as error:
        if error.reason != "NOT_LEADER":
            raise
        raise Unavailable(
            error.message,
            reason="NOT_LEADER",
            fix="try again in a few seconds",
            metadata=error.metadata,
            retry_after_s=1.0,
        ) from error


async def _answered_meanwhile(
    context: ServiceContext, call: Call, answer_type: type[A], error: UnkaiError
) -> A | None:
    """Return what another scheduler has answered to this request while we failed at it.

    Two that do one request at the same time do not see each other's request id: the second fails
    at what the first has made. A database that does not answer is not asked for that too.
    """
    if not call.request_id or error.reason == "DATABASE_UNAVAILABLE":
        return None
    with suppress(UnkaiError):
        return await recalled(context, call, answer_type)
    return None


def record(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    subject: Subject,
    change: EventType,
    *,
    message: str,
    reason: str = "",
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write the event of a change into its transaction."""
    event = event_of(
        context, call, subject, change, message=message, reason=reason, attributes=attributes
    )
    events.insert(conn, event)


def event_of(
    context: ServiceContext,
    call: Call,
    subject: Subject,
    change: EventType,
    *,
    message: str,
    reason: str = "",
    attributes: Mapping[str, str] | None = None,
) -> Event:
    """Make the event of a change, for who writes many at once."""
    return Event(
        id=context.new_id("event"),
        project_id=subject.project_id,
        resource_kind=subject.kind,
        resource_id=subject.id,
        resource_name=subject.name,
        type=change,
        actor=call.actor,
        create_time=context.clock(),
        state=subject.state,
        reason=reason,
        message=message[:512],
        attributes=dict(attributes or {}),
        request_id=call.request_id,
    )


@cache
def _adapter(answer_type: Any) -> TypeAdapter[Any]:
    """Return what writes and reads snapshots of this dataclass; making one is slow."""
    return TypeAdapter(answer_type)

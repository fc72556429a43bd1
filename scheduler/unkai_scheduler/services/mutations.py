"""Every change: one transaction with its rows, its events and its request id, then a wake.

A repeated request id returns the first answer: a snapshot of the rows that were answered is kept
with it. The trap: `work` may run more than once (the store retries), so it touches rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.names import check_request_id
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.store import events, requests

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
    wakes: Sequence[str] | None = None,
) -> A:
    """Run `work` in one transaction, or return what it answered to this request id before.

    `grouped`: share the transaction with other changes that arrive now. `wakes`: ids that the
    leader shall look at once the change is committed; None: it has nothing to do.
    """
    check_request_id(call.request_id)

    def once(conn: Connection) -> A:
        if not call.request_id:
            return work(conn)
        kind: Any = answer_type
        answers: TypeAdapter[A] = _adapter(kind)
        known = requests.recall(conn, call.request_id, call.actor, call.method, call.digest)
        if known is not None:
            return answers.validate_python(known)
        answer = work(conn)
        snapshot = answers.dump_python(answer, mode="json")
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

    write = context.uow.write_grouped if grouped else context.uow.write
    answer = await write(once)
    if wakes is not None:
        context.wake(wakes)
    return answer


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
    events.insert(
        conn,
        Event(
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
        ),
    )


@cache
def _adapter(answer_type: Any) -> TypeAdapter[Any]:
    """Return what writes and reads snapshots of this dataclass; making one is slow."""
    return TypeAdapter(answer_type)

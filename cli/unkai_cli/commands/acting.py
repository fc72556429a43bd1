"""Acts on one or several things: each is tried, each is awaited, each failure is told.

All names are looked up before anything is done, so that a typo changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from unkai_cli.output import Progress, error, note
from unkai_wire.errors import DeadlineExceeded, Unavailable, UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session

T = TypeVar("T")


def resolved(session: Session, kind: str, names: Iterable[str]) -> dict[str, str]:
    """Return the names by the ids they stand for: one thing named twice is acted on once."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(session.client.resolve(kind, name), name)
    return found


def attempted(
    idents: Iterable[str],
    act: Callable[[str], T],
    *,
    goes_on: Callable[[UnkaiError], bool] = lambda refusal: False,
) -> tuple[list[T], list[UnkaiError]]:
    """Act on each; return the answers and the refusals. No scheduler: the others are left.

    `goes_on`: tells of a refusal that would end it whether it concerns this one alone.
    """
    answers: list[T] = []
    refusals: list[UnkaiError] = []
    for ident in idents:
        try:
            answers.append(act(ident))
        except UnkaiError as refusal:
            refusals.append(refusal)
            if isinstance(refusal, (Unavailable, DeadlineExceeded)) and not goes_on(refusal):
                break
    return answers, refusals


def raise_first(failures: Sequence[UnkaiError]) -> None:
    """Raise the first failure, if any, having told the others."""
    for other in failures[1:]:
        error(other)
    if failures:
        raise failures[0]


def confirmed(session: Session, operation: Any, *, wait: bool, timeout: float) -> None:
    """Wait for one operation when asked to; raise what it failed with."""
    raise_first(awaited(session, [operation], wait=wait, timeout=timeout)[1])


def awaited(
    session: Session,
    operations: Sequence[Any],
    *,
    wait: bool,
    timeout: float,
    counted: str = "",
) -> tuple[set[str], list[UnkaiError]]:
    """Wait for operations when asked to, with their progress on standard error.

    All are awaited even when one fails. Returns the ids of those that have not failed, and the
    failures. `counted`: what each does that has succeeded; how many do is told with the progress.
    """
    good = {str(operation.id) for operation in operations}
    if not wait:
        for operation in operations:
            note(f"operation {operation.id} accepted; 'unkai operation wait {operation.id}' waits")
        return good, []
    progress = Progress()
    failures: list[UnkaiError] = []
    left = list(operations)

    def show(text: str) -> None:
        done = len(operations) - len(left) - len(failures)
        progress.show(f"{done} of {len(operations)} {counted}; {text}" if counted else text)

    try:
        while left:
            try:
                session.client.wait_operation(left[0], timeout_s=timeout, progress=show)
            except UnkaiError as failure:
                failures.append(failure)
                good.discard(left[0].id)
            left.pop(0)
    except KeyboardInterrupt:
        progress.clear()
        for operation in left:
            note(
                f"operation {operation.id} goes on; 'unkai operation wait {operation.id}' waits "
                f"for it, 'unkai operation cancel {operation.id}' gives it up"
            )
        raise
    finally:
        progress.clear()
    return good, failures

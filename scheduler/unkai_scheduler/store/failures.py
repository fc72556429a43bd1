"""What a database's error means to us, whatever driver raised it.

Each database's module classifies its errors in an engine event, so that a statement raises
`DatabaseFailure` in place of the driver's error. Repositories catch `UNIQUE`, the unit of work
retries `BUSY`, and `translate` makes of the rest what callers see. An error that no class fits is
our bug and passes unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from unkai_wire.errors import AlreadyExists, FailedPrecondition, Unavailable, UnkaiError


class Failure(Enum):
    """Why a statement or a commit failed."""

    UNIQUE = "UNIQUE"
    """A unique constraint holds the value already."""
    REFERENCE = "REFERENCE"
    """A foreign key points to nothing, or would be left so."""
    BUSY = "BUSY"
    """A lock was not to be had in time; nothing was written."""
    FULL = "FULL"
    """No room on the disk."""
    LOST = "LOST"
    """The connection broke; what was not committed by then is undone."""
    UNKNOWN = "UNKNOWN"
    """COMMIT was not answered, and whether it was done could not be found out in time."""
    UNAVAILABLE = "UNAVAILABLE"
    """The database cannot be read or written now."""


PASSING = frozenset({Failure.BUSY, Failure.LOST})
"""Failures after which the same transaction may be tried again: nothing was written."""
HARMLESS = frozenset({Failure.UNIQUE, Failure.REFERENCE})
"""Failures of one statement that leave the transaction around it whole."""


class DatabaseFailure(Exception):
    """A classified error of the driver, which is its cause."""

    def __init__(self, kind: Failure, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def translate(failure: DatabaseFailure) -> UnkaiError:
    """Return the error that callers see; raise it `from` the failure."""
    if failure.kind is Failure.REFERENCE:
        return FailedPrecondition(
            "something it refers to does not exist, or something else still refers to it",
            reason="REFERENCE_BROKEN",
            fix="read the resources again; delete what depends on this one first",
        )
    if failure.kind is Failure.FULL:
        return Unavailable(
            "the scheduler's database has no room left on its disk",
            reason="DATABASE_FULL",
            fix="free space on the scheduler's disk; it goes on by itself",
            retry_after_s=5.0,
        )
    if failure.kind is Failure.UNIQUE:
        # A repository names the resource; here two callers raced for something internal.
        return Unavailable(
            "somebody else wrote the same at the same time", reason="WRITTEN_MEANWHILE"
        )
    return Unavailable(
        f"the scheduler's database does not answer ({failure}); whether the change was made is "
        "unknown",
        reason="DATABASE_UNAVAILABLE",
        fix="try again with the same request id",
        metadata={"error": str(failure)},
    )


def closed() -> Unavailable:
    """Make the error for work given to a store that is shutting down."""
    return Unavailable("the scheduler is stopping", reason="DATABASE_UNAVAILABLE")


def overloaded(waiting: int) -> Unavailable:
    """Make the error for work that found the queue full."""
    return Unavailable(
        f"{waiting} calls wait for the scheduler's database already",
        reason="DATABASE_UNAVAILABLE",
        metadata={"waiting": str(waiting)},
        retry_after_s=1.0,
    )


def crowded() -> Unavailable:
    """Make the error for work whose turn did not come while its caller still waited."""
    return Unavailable(
        "other calls kept the scheduler's database busy; nothing was changed",
        reason="DATABASE_UNAVAILABLE",
        fix="try again; if it stays so, see what holds locks in the database",
        retry_after_s=1.0,
    )


def is_of(error: AlreadyExists, table: str, *columns: str) -> bool:
    """Tell whether it is the unique constraint of these columns that an error comes of.

    The servers say its name, which `metadata` makes of the columns'; SQLite says the columns.
    """
    text = str(error.__cause__)
    constraint = "_".join(["uq", table, *columns])
    return constraint in text or ", ".join(f"{table}.{column}" for column in columns) in text


@contextmanager
def unique(kind: str, name: str) -> Iterator[None]:
    """Turn a unique constraint's refusal into `AlreadyExists` of this resource."""
    try:
        yield
    except DatabaseFailure as failure:
        if failure.kind is Failure.UNIQUE:
            raise AlreadyExists.of(kind, name) from failure
        raise

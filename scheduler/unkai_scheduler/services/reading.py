"""Reads of one row by its id, as callers name it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from unkai_scheduler.services.checks import found
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork

T = TypeVar("T")


async def read_row(
    uow: UnitOfWork, kind: str, ident: str, get: Callable[[Connection, str], T | None]
) -> T:
    """Return the row of this id; raise `InvalidArgument` when it is no id, or `NotFound`."""
    check_id(kind, ident, f"{kind}_id")
    return found(kind, ident, await uow.read(lambda conn: get(conn, ident)))

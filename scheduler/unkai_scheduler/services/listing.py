"""Lists in pages: the same rows once each, in order, while others come and go."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from unkai_scheduler.store import events
from unkai_wire import page_tokens
from unkai_wire.errors import InvalidArgument

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paging:
    """What a caller says of the page it wants; 0 and empty: the first of the default size."""

    size: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page. `next_token` is empty on the last; after `revision` comes what it does not show."""

    rows: list[T]
    next_token: str
    revision: str


class Fetch(Protocol[T]):
    """Reads rows in order: those after a key, at most so many; a repository's `list_page`."""

    def __call__(self, conn: Connection, *, after: tuple[str, ...] | None, limit: int) -> list[T]:
        """Return the rows."""


@dataclass(frozen=True, slots=True)
class PagePlan(Generic[T]):
    """A checked request for a page, ready to be read in a transaction."""

    request: str
    after: tuple[str, ...] | None
    size: int
    key: Callable[[T], Sequence[str]]

    async def read(self, uow: UnitOfWork, fetch: Fetch[T]) -> Page[T]:
        """Read the page on one snapshot."""

        def work(conn: Connection) -> Page[T]:
            revision = str(events.newest(conn))  # before the rows
            return self.page(lambda after, limit: fetch(conn, after=after, limit=limit), revision)

        return await uow.read(work)

    def page(
        self, fetch: Callable[[tuple[str, ...] | None, int], list[T]], revision: str
    ) -> Page[T]:
        """Make the page of `fetch(after, limit)`; one row more tells whether another follows."""
        rows = fetch(self.after, self.size + 1)
        more = len(rows) > self.size
        rows = rows[: self.size]
        token = page_tokens.encode(self.request, self.key(rows[-1])) if more else ""
        return Page(rows, token, revision)


def plan(
    paging: Paging,
    kind: str,
    conditions: object,
    key: Callable[[T], Sequence[str]],
    *,
    key_length: int,
) -> PagePlan[T]:
    """Check size and token. `conditions`: the request's filters, plain JSON values."""
    request = json.dumps([kind, conditions], sort_keys=True, separators=(",", ":"))
    size = page_tokens.page_size(paging.size)
    after = None
    if paging.token:
        after = tuple(page_tokens.decode(request, paging.token))
        if len(after) != key_length:
            raise InvalidArgument.field(
                "page_token", "is not a token we gave", reason="INVALID_PAGE_TOKEN"
            )
    return PagePlan(request, after, size, key)

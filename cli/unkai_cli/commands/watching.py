"""`--watch` of lists: the list, then each thing again when it has changed.

Events say that something changed, never what it is now: that is asked for anew. The history is
looked at before the list is read, so that nothing between the two is missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unkai_cli.output import Column, Record, note
from unkai_wire.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list shows."""

    kind: str
    """Kind of resource, as in ids and events: `instance`, `key_pair`."""
    columns: Sequence[Column]
    filters: dict[str, Any] = field(default_factory=dict)
    """Fields of the List request."""
    matches: Callable[[Record], bool] = lambda record: True
    """Tells whether a changed thing is still one the list shows."""
    sifted: bool = False
    """True: the service knows not all of the conditions, so `matches` chooses of its list too."""

    @property
    def _noun(self) -> str:
        return "".join(part.capitalize() for part in self.kind.split("_"))

    def show(self, session: Session, *, limit: int | None, watch: bool) -> None:
        """Print the list; with `watch`, go on until interrupted."""
        from unkai_cli.records import record

        client, printer = session.client, session.printer
        while True:
            after = client.newest_revision() if watch else ""
            found = client.pages(
                f"{self._noun}Service",
                f"List{self._noun}s",
                limit=0 if self.sifted else limit or 0,
                **self.filters,
            )
            listed: Iterator[Record] = (record(message) for message in found)
            if self.sifted:
                listed = itertools.islice(filter(self.matches, listed), limit)
            records = list(listed)
            if not watch:
                printer.rows(records, self.columns)
                return
            if printer.form in ("table", "wide"):
                printer.rows(records, self.columns)
                printer.out.flush()
            else:
                for entry in records:
                    printer.change(entry, self.columns)
            try:
                for event in client.watch(
                    resource_kinds=[self.kind],
                    project_id=self.filters.get("project_id", ""),
                    after_revision=after,
                ):
                    self._changed(session, printer, event)
            except FailedPrecondition as error:
                if error.reason != "REVISION_GONE":
                    raise
                note("the history began anew; this is the list as it is now")

    def _changed(self, session: Session, printer: Any, event: Any) -> None:
        from unkai_cli.records import record

        try:
            answer = session.client.call(
                f"{self._noun}Service",
                f"Get{self._noun}",
                **{f"{self.kind}_id": event.resource_id},
            )
        except NotFound:
            note(f"{event.resource_name or event.resource_id} is gone")
            return
        changed = record(getattr(answer, self.kind))
        if self.matches(changed):
            printer.change(changed, self.columns)

"""Commands of the library's transactions: the fence, and the writing of units.

Each is put together anew whenever the library tries a transaction again, and so reads nothing but
the replica as it then is. The fence is three things: the whole of `NB_Global`'s `external_ids` must
be as we read it; our term is written there, as a check alone is never sent; and our name is written
there by the first transaction of a connection, so that whatever an earlier process may still have
under way has landed before, and is seen, or fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from ovs.db import data
from ovsdbapp.backend.ovs_idl.command import BaseCommand

from unkai_scheduler.ovn import plan as plans
from unkai_scheduler.ovn.child.replica import Replica, Rows
from unkai_scheduler.ovn.encoding import Piece
from unkai_scheduler.ovn.rows import Outcome, Ref

TERM = "unkai_term"
WRITER = "unkai_writer"


class TermOver(Exception):
    """The database has seen a higher term."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the database is at term {current}")
        self.current = current


class ConnectionLost(Exception):
    """The transaction may have been sent over a connection that is no more."""


class NotInitialised(Exception):
    """The database has no `NB_Global` row yet; OVN's daemon makes it."""


class Fence(BaseCommand):  # type: ignore[misc] # the library has no types
    """Keep others' transactions out."""

    def __init__(self, api: Any, replica: Replica, term: int, writer: str = "") -> None:
        super().__init__(api)
        self._replica = replica
        self._session = replica.session
        self._term = term
        self._writer = writer
        self.is_done = False

    def run_idl(self, txn: Any) -> None:
        if self._replica.session != self._session:
            raise ConnectionLost
        row = next(iter(self._replica.tables["NB_Global"].rows.values()), None)
        if row is None:
            raise NotInitialised
        current = stored_term(row)
        if current > self._term:
            raise TermOver(current)
        row.verify("external_ids")
        row.setkey("external_ids", TERM, str(self._term))
        if self._writer:
            row.setkey("external_ids", WRITER, self._writer)
        txn.add_comment(f"unkai term {self._term}")

    def post_commit(self, txn: Any) -> None:
        self.is_done = True


def stored_term(row: Any) -> int:
    """Return the highest term that the database has seen."""
    text = str(row.external_ids.get(TERM, "0"))
    return int(text) if text.isdecimal() else 0


class Write(BaseCommand):  # type: ignore[misc] # the library has no types
    """Make units as they shall be."""

    def __init__(self, api: Any, replica: Replica, pieces: Sequence[Piece]) -> None:
        super().__init__(api)
        self._replica = replica
        self._rows = Rows(replica)
        self._pieces = pieces
        self.plan = plans.Plan()

    def run_idl(self, txn: Any) -> None:
        self.plan = plans.plan(self._pieces, self._rows)
        for edit in self.plan.edits:
            self._act(txn, edit)

    def post_commit(self, txn: Any) -> None:
        """Look again: what others did at the same time was taken for our own."""
        del txn
        pieces = {piece.key: piece for piece in self._pieces}
        self._replica.end(
            lambda unit: (
                self.plan.outcomes[unit] is Outcome.DONE
                and not plans.differs(pieces[unit], self._rows)
            )
        )

    def _act(self, txn: Any, edit: plans.Edit) -> None:
        tables = self._replica.tables
        match edit:
            case plans.Insert(ref, columns):
                row = txn.insert(tables[ref.table], ref.uuid, persist_uuid=True)
                for name, value in columns.items():
                    _assign(row, name, value)
            case plans.Assign(ref, column, value):
                _assign(tables[ref.table].rows[ref.uuid], column, value)
            case plans.SetKeys(ref, column, items):
                for key, item in items.items():
                    tables[ref.table].rows[ref.uuid].setkey(column, key, item)
            case plans.DropKeys(ref, column, keys):
                for key in keys:
                    tables[ref.table].rows[ref.uuid].delkey(column, key)
            case plans.Join(place, uuid):
                tables[place.table].rows[place.uuid].addvalue(place.column, uuid)
            case plans.Leave(place, uuid):
                tables[place.table].rows[place.uuid].delvalue(place.column, uuid)
            case plans.Delete(ref):
                self._delete(tables[ref.table].rows[ref.uuid], ref)
            case _:
                assert_never(edit)

    def _delete(self, row: Any, ref: Ref) -> None:
        """Remove a row, if by then it holds nothing but what it was seen to hold."""
        for name, column in self._replica.schema[ref.table].columns.items():
            if column.is_set_of_references and column.key.strong:
                row.verify(name)
        row.delete()


def _assign(row: Any, name: str, value: Any) -> None:
    """Assign; the library would pass over a value that it does not like, and say nothing."""
    value = list(value) if isinstance(value, frozenset) else value
    column = row._table.columns[name]
    data.Datum.from_python(column.type, value, lambda atom: atom)
    setattr(row, name, value)

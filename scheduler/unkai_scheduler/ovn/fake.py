"""The port over a database in memory, with what can go wrong. Passes the real adapter's suite.

`FakeOvn` is the database; each `FakeNorthbound` is one scheduler's way to it. It plans as the child
process does and fences as it does: so a transaction that was held back on its way lands before the
next writer's first, or never.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from unkai_scheduler.ovn import plan as plans
from unkai_scheduler.ovn.applying import apply_all
from unkai_scheduler.ovn.encoding import Piece
from unkai_scheduler.ovn.fake_database import Refused, Tables
from unkai_scheduler.ovn.hearsay import Hearsay
from unkai_scheduler.ovn.port import Changed, term_refused, unreachable
from unkai_scheduler.ovn.rows import Outcome, Place, Ref, Unit, Value

TERM, WRITER = "unkai_term", "unkai_writer"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A transaction on its way, and what it waits on."""

    edits: Sequence[plans.Edit]
    marks: Mapping[str, str | int]


class FakeOvn:
    """The database, and its faults."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.is_reachable = True
        self._members: list[FakeNorthbound] = []

    def member(self) -> FakeNorthbound:
        """Return a scheduler's way to it."""
        member = FakeNorthbound(self)
        self._members.append(member)
        self.tables.listeners.append(member.hear)
        return member

    def stop(self) -> None:
        """Let it be unreachable."""
        self.is_reachable = False

    def start(self) -> None:
        """Let it be there again: everything is read anew."""
        self.is_reachable = True
        for member in self._members:
            member.forget()

    def raise_term(self, term: int) -> None:
        """Let somebody else have led since."""
        self.tables.commit([self.tables.mark({TERM: str(term)})])

    def insert(
        self, table: str, uuid: UUID, columns: Mapping[str, Value], parent: Place | None = None
    ) -> None:
        """Insert a row, as somebody else."""
        kinds = self.tables.schema[table].columns
        row = {name: kinds[name].normal(value) for name, value in columns.items()}
        joins = [plans.Join(parent, uuid)] if parent else []
        self.tables.commit([plans.Insert(Ref(table, uuid), row), *joins])

    def set(self, table: str, uuid: UUID, column: str, value: Value) -> None:
        """Give a column another value, as somebody else."""
        normal = self.tables.schema[table].columns[column].normal(value)
        self.tables.commit([plans.Assign(Ref(table, uuid), column, normal)])

    def delete(self, table: str, uuid: UUID) -> None:
        """Remove a row, as somebody else."""
        ref = Ref(table, uuid)
        if self.tables.schema[table].is_root:
            self.tables.commit([plans.Delete(ref)])
        else:
            self.tables.commit([plans.Leave(place, uuid) for place in self.tables.holders(ref)])


class FakeNorthbound:
    """See `port.Northbound`."""

    def __init__(self, ovn: FakeOvn) -> None:
        self._ovn = ovn
        self._hearsay = Hearsay()
        self._writer = uuid4().hex
        self._claimed = -1
        self._silent: list[bool] = []
        self._holds = False
        self._held: list[_Sent] = []
        self._refusals: dict[str, str] = {}

    def lose_answer(self, *, applied: bool) -> None:
        """Let the next transaction time out: after it was applied, or without."""
        self._silent.append(applied)

    def hold(self) -> None:
        """Let what is sent from now on stay on its way."""
        self._holds = True

    def release(self) -> None:
        """Let what was held arrive."""
        self._holds = False
        held, self._held = self._held, []
        for sent in held:
            self._land(sent)

    def hear(self, units: set[str]) -> None:
        """Somebody touched units."""
        if self._ovn.is_reachable:
            self._hearsay.units(units)

    def forget(self) -> None:
        """Everything is read anew."""
        self._claimed = -1
        self._hearsay.everything()

    async def apply(self, term: int, units: Sequence[Unit]) -> Mapping[str, Outcome]:
        """See the port."""

        async def write(chunk: Sequence[Piece]) -> Mapping[str, Outcome] | None:
            return self._write(term, chunk) if self._ovn.is_reachable else None

        outcomes = await apply_all(units, write)
        if units and not outcomes:
            raise unreachable("it is stopped")
        return outcomes

    def _write(self, term: int, chunk: Sequence[Piece]) -> Mapping[str, Outcome]:
        tables = self._ovn.tables
        current = int(tables.marks.get(TERM, "0"))
        if current > term:
            raise term_refused(term, current)
        unknown = {piece.key: Outcome.UNKNOWN for piece in chunk}
        if self._claimed != term and not self._holds:
            tables.commit([tables.mark({TERM: str(term), WRITER: self._writer})])
            self._claimed = term
        found = plans.plan(chunk, tables)
        sent = _Sent([*found.edits, tables.mark({TERM: str(term)})], tables.marks)
        if self._holds:
            self._held.append(sent)
        elif not self._silent:
            return self._land_or_split(term, chunk, found, sent)
        elif self._silent.pop(0):
            self._land(sent)
        # A fresh process asks next: it has another name.
        self._writer, self._claimed = uuid4().hex, -1
        self._hearsay.everything()
        return unknown

    def _land_or_split(
        self, term: int, chunk: Sequence[Piece], found: plans.Plan, sent: _Sent
    ) -> Mapping[str, Outcome]:
        try:
            self._ovn.tables.commit(sent.edits, by=self.hear)
        except Refused as error:
            half = len(chunk) // 2
            if not half:
                self._refusals[chunk[0].key] = str(error)
                return {chunk[0].key: Outcome.REFUSED}
            return {**self._write(term, chunk[:half]), **self._write(term, chunk[half:])}
        return found.outcomes

    def _land(self, sent: _Sent) -> None:
        """Execute a transaction, if what it waits on is still so."""
        if self._ovn.tables.marks == sent.marks:
            self._ovn.tables.commit(sent.edits)

    async def inventory(self) -> Mapping[str, int]:
        """See the port."""
        self._must_be_reachable()
        return self._ovn.tables.index.counts()

    async def compare(self, units: Sequence[Unit]) -> Sequence[str]:
        """See the port."""
        self._must_be_reachable()
        tables = self._ovn.tables
        return [unit.key for unit in units if plans.differs(Piece.whole(unit), tables)]

    async def changes(self) -> AsyncIterator[Changed]:
        """See the port."""
        while True:
            yield await self._hearsay.next()

    def why_refused(self, key: str) -> str:
        """See the port."""
        return self._refusals.get(key, "")

    async def close(self) -> None:
        """See the port."""
        if self.hear in self._ovn.tables.listeners:
            self._ovn.tables.listeners.remove(self.hear)

    def _must_be_reachable(self) -> None:
        if not self._ovn.is_reachable:
            raise unreachable("it is stopped")

"""What to do so that units' rows are as they shall be: desired and actual rows to edits. Pure.

The child process and the fake both act on these edits, each in one transaction. Planning looks at
nothing but the rows themselves, so a transaction that must be tried again is planned again.

Its traps: a row outside a root table lives only while a strong reference holds it, so it is removed
by taking it out of its parent; whatever a removed row holds goes with it, so it stays while rows
that are not its unit's hang on it; and one UUID may not go and come in one transaction.

And one of ovsdb-server 3.1: a weak reference to a row that goes stays for ever when its own row is
changed in the same transaction; and a row that is made again under such a reference kills the
server, which then dies of its own log at each start. So each reference of ours to what goes is
taken out in so many words, and what is left of others' is taken out a transaction before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from unkai_scheduler.ovn.encoding import Piece
from unkai_scheduler.ovn.rows import KEYS, UNIT, Outcome, Place, Ref, Row
from unkai_scheduler.ovn.schema import OPEN_MAPS, BadValue, Normal, Schema

EXTERNAL_IDS = "external_ids"


class View(Protocol):
    """The database as it is."""

    @property
    def schema(self) -> Schema:
        """Tables and columns."""

    def has(self, ref: Ref) -> bool:
        """Tell whether there is such a row."""

    def read(self, ref: Ref, column: str) -> Normal:
        """Return what a column of an existing row has."""

    def rows_of(self, unit: str) -> Collection[Ref]:
        """Return all rows that bear a unit's key."""

    def unit_of(self, ref: Ref) -> str:
        """Return the key that a row bears, or an empty string."""

    def holders(self, ref: Ref) -> Collection[Place]:
        """Return all columns that refer to the row, whether it is there or not."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Make a row."""

    ref: Ref
    columns: Mapping[str, Normal]


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a column another value."""

    ref: Ref
    column: str
    value: Normal


@dataclass(frozen=True, slots=True)
class SetKeys:
    """Give keys of an open map their values."""

    ref: Ref
    column: str
    items: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class DropKeys:
    """Take keys out of an open map."""

    ref: Ref
    column: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Join:
    """Put a row into a set of references."""

    place: Place
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Leave:
    """Take a row out of a set of references."""

    place: Place
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a row of a root table."""

    ref: Ref


Edit = Insert | Assign | SetKeys | DropKeys | Join | Leave | Delete


@dataclass(slots=True)
class Plan:
    """Edits for one transaction, and the units that it leaves out."""

    edits: list[Edit] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Of every unit; DONE once the edits are."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a unit was left out."""


def plan(pieces: Sequence[Piece], view: View) -> Plan:
    """Return what to do for all units that can be made so now."""
    return _Planning(pieces, view).run()


def differs(piece: Piece, view: View) -> bool:
    """Tell whether a unit is not as it shall be."""
    found = plan([piece], view)
    return bool(found.edits) or found.outcomes[piece.key] is not Outcome.DONE


class _Planning:
    """One planning."""

    def __init__(self, pieces: Sequence[Piece], view: View) -> None:
        self._view = view
        self._taken = {piece.key: piece for piece in pieces}
        self._plan = Plan(outcomes={piece.key: Outcome.DONE for piece in pieces})
        self._wanted: frozenset[Ref] = frozenset()
        self._doomed: dict[Ref, str] = {}

    def run(self) -> Plan:
        for piece in list(self._taken.values()):
            try:
                _check(piece, self._view.schema)
            except BadValue as error:
                self._leave_out(piece.key, Outcome.REFUSED, str(error))
        while self._leave_out_who_must_wait():
            pass
        for ref in self._doomed:
            self._remove(ref)
        for piece in self._taken.values():
            for row in piece.rows:
                self._put(row, piece.key)
        return self._plan

    def _leave_out(self, unit: str, outcome: Outcome, reason: str) -> None:
        del self._taken[unit]
        self._plan.outcomes[unit] = outcome
        self._plan.reasons[unit] = reason

    def _leave_out_who_must_wait(self) -> bool:
        """Leave units out; tell whether there were any, as others may depend on these."""
        pieces = list(self._taken.values())
        for piece in pieces:
            if left := [place for row in piece.rows for place in self._left_behind(row)]:
                reason = f"{left[0].table}.{left[0].column} still refers to what it once was"
                self._leave_out(piece.key, Outcome.LACKS_PARENT, reason)
        pieces = list(self._taken.values())
        self._wanted = frozenset(Ref(row.table, row.uuid) for p in pieces for row in p.rows)
        kept = frozenset[Ref]().union(*(piece.all_rows for piece in pieces))
        self._doomed = {
            ref: piece.key
            for piece in pieces
            for ref in self._view.rows_of(piece.key)
            if ref not in kept
        }
        for piece in pieces:
            if missing := self._missing(piece):
                reason = f"{missing.table} {missing.uuid} is not there"
                self._leave_out(piece.key, Outcome.LACKS_PARENT, reason)
        for ref, unit in self._doomed.items():
            if unit in self._taken and (child := self._hanging_on(ref)):
                owner = self._view.unit_of(child) or "somebody else"
                reason = f"{child.table} {child.uuid} of {owner} hangs on {ref.table} {ref.uuid}"
                self._leave_out(unit, Outcome.IN_USE, reason)
        return len(self._taken) < len(pieces)

    def _left_behind(self, row: Row) -> Iterator[Place]:
        """Take out references to a row that is not there; yield them."""
        ref = Ref(row.table, row.uuid)
        if not self._view.has(ref):
            for place in self._view.holders(ref):
                self._let_go(place, ref)
                yield place

    def _missing(self, piece: Piece) -> Ref | None:
        for row in piece.rows:
            for ref in _references(row, self._view.schema):
                there = self._view.has(ref) and ref not in self._doomed
                if not there and ref not in self._wanted:
                    return ref
        return None

    def _hanging_on(self, ref: Ref) -> Ref | None:
        """Return a row that would go with another and must not."""
        for name, column in self._view.schema[ref.table].columns.items():
            child = column.key.refers_to
            if not (column.is_set_of_references and column.key.strong):
                continue
            if self._view.schema[child].is_root:
                continue
            for uuid in self._view.read(ref, name):
                assert isinstance(uuid, UUID)
                held = Ref(child, uuid)
                if held not in self._doomed and held not in self._wanted:
                    return held
        return None

    def _remove(self, ref: Ref) -> None:
        if self._view.schema[ref.table].is_root:
            self._plan.edits.append(Delete(ref))
        for place in self._view.holders(ref):
            if self._must_let_go(place, ref) or self._is_ours_to_leave(place):
                self._let_go(place, ref)

    def _must_let_go(self, place: Place, ref: Ref) -> bool:
        """Tell whether a row that will be gone with its parent would still hold this one by then.

        The server asks whether anything refers to a deleted row before it removes what nothing
        holds any more.
        """
        schema, holder = self._view.schema, Ref(place.table, place.uuid)
        strong = schema[place.table].columns[place.column].key.strong
        goes_by_itself = holder in self._doomed and not schema[holder.table].is_root
        return strong and schema[ref.table].is_root and goes_by_itself

    def _let_go(self, place: Place, ref: Ref) -> None:
        column = self._view.schema[place.table].columns[place.column]
        if column.is_set_of_references:
            self._plan.edits.append(Leave(place, ref.uuid))
        elif not column.least:
            self._plan.edits.append(Assign(Ref(place.table, place.uuid), place.column, frozenset()))

    def _is_set(self, place: Place) -> bool:
        return self._view.schema[place.table].columns[place.column].is_set_of_references

    def _holds_alive(self, place: Place) -> bool:
        key = self._view.schema[place.table].columns[place.column].key
        return key.strong and not self._view.schema[key.refers_to].is_root

    def _put(self, row: Row, unit: str) -> None:
        ref = Ref(row.table, row.uuid)
        desired = _desired(row, unit, self._view.schema)
        if self._view.has(ref):
            self._plan.edits += _updates(ref, desired, self._view)
        else:
            self._plan.edits.append(Insert(ref, {n: v for n, v in desired.items() if v}))
        self._place(row, ref)

    def _place(self, row: Row, ref: Ref) -> None:
        wanted = row.member_of | ({row.parent} if row.parent else frozenset())
        actual = frozenset(place for place in self._view.holders(ref) if self._is_set(place))
        for place in sorted(wanted - actual):
            self._plan.edits.append(Join(place, row.uuid))
        for place in sorted(actual - wanted):
            if self._is_ours_to_leave(place):
                self._plan.edits.append(Leave(place, row.uuid))

    def _is_ours_to_leave(self, place: Place) -> bool:
        """Tell; a foreign row's weak set is its owner's, a strong one would keep ours for ever."""
        holder = Ref(place.table, place.uuid)
        ours = self._view.unit_of(holder) or holder in self._wanted or self._holds_alive(place)
        return bool(ours) and holder not in self._doomed


def _updates(ref: Ref, desired: Mapping[str, Normal], view: View) -> Iterator[Edit]:
    former = _former_keys(view.read(ref, EXTERNAL_IDS))
    for name in sorted(desired.keys() | (former.keys() & view.schema[ref.table].columns.keys())):
        wanted, actual = desired.get(name, {}), view.read(ref, name)
        if name not in OPEN_MAPS or not (isinstance(wanted, dict) and isinstance(actual, dict)):
            if wanted != actual:
                yield Assign(ref, name, wanted)
            continue
        items = {key: value for key, value in wanted.items() if actual.get(key) != value}
        unwanted = (former.get(name, frozenset()) - wanted.keys()) & actual.keys()
        if items:
            yield SetKeys(ref, name, items)
        if unwanted:
            yield DropKeys(ref, name, unwanted)


def _desired(row: Row, unit: str, schema: Schema) -> dict[str, Normal]:
    """Return all columns of a row that are ours, with the unit's mark."""
    columns = schema[row.table].columns
    desired = {name: columns[name].normal(value) for name, value in row.columns.items()}
    keys = {
        name: sorted(value)
        for name, value in desired.items()
        if name in OPEN_MAPS and isinstance(value, dict) and value
    }
    marks: dict[str, str | int] = {UNIT: unit}
    if keys:
        marks[KEYS] = json.dumps(keys, separators=(",", ":"), sort_keys=True)
    own = desired.get(EXTERNAL_IDS, {})
    assert isinstance(own, dict)
    desired[EXTERNAL_IDS] = own | marks
    return desired


def _former_keys(external_ids: Normal) -> dict[str, frozenset[str]]:
    """Return which keys of open maps we wrote last; a mark that somebody spoilt says none."""
    text = external_ids.get(KEYS, "") if isinstance(external_ids, dict) else ""
    try:
        record = json.loads(text) if isinstance(text, str) and text else {}
        former = {
            str(name): frozenset(str(key) for key in keys)
            for name, keys in record.items()
            if name in OPEN_MAPS
        }
    except (ValueError, TypeError, AttributeError):
        former = {}
    former[EXTERNAL_IDS] = former.get(EXTERNAL_IDS, frozenset()) | {KEYS}
    return former


def _references(row: Row, schema: Schema) -> Iterator[Ref]:
    """Return all rows that must be there for this one."""
    for place in (*([row.parent] if row.parent else []), *row.member_of):
        yield Ref(place.table, place.uuid)
    for name, value in row.columns.items():
        column = schema[row.table].columns[name]
        if column.key.refers_to:
            for uuid in column.normal(value):
                assert isinstance(uuid, UUID)
                yield Ref(column.key.refers_to, uuid)


def _check(piece: Piece, schema: Schema) -> None:
    """Raise `BadValue` when a unit can never be so."""
    if not piece.key or not piece.key.isascii():
        raise BadValue(f"{piece.key!r} is no unit's key")
    if len({Ref(row.table, row.uuid) for row in piece.rows}) < len(piece.rows):
        raise BadValue("two rows have one UUID")
    for row in piece.rows:
        try:
            _check_row(row, schema)
        except BadValue as error:
            raise BadValue(f"{row.table} {row.uuid}: {error}") from error


def _check_row(row: Row, schema: Schema) -> None:
    table = schema.get(row.table)
    if table is None or EXTERNAL_IDS not in table.columns:
        raise BadValue("no such table, or its rows cannot bear a unit's key")
    if table.is_root != (row.parent is None):
        raise BadValue("needs no parent" if table.is_root else "needs a parent")
    if row.parent and not _check_place(row.parent, row, schema):
        raise BadValue(f"{row.parent.table}.{row.parent.column} would not hold it")
    for place in row.member_of:
        if _check_place(place, row, schema):
            raise BadValue(f"{place.table}.{place.column} is for its parent")
    for name, value in row.columns.items():
        column = table.columns.get(name)
        if column is None or column.is_set_of_references:
            raise BadValue(f"{name}: no such column, or one that its members say")
        try:
            column.normal(value)
        except BadValue as error:
            raise BadValue(f"{name}: {error}") from error
    if {UNIT, KEYS} & set(_keys_of(row)):
        raise BadValue(f"{EXTERNAL_IDS}: {UNIT} and {KEYS} are written for it")


def _keys_of(row: Row) -> Collection[str]:
    external_ids = row.columns.get(EXTERNAL_IDS, {})
    return external_ids.keys() if isinstance(external_ids, Mapping) else ()


def _check_place(place: Place, row: Row, schema: Schema) -> bool:
    """Tell whether such a place keeps the row alive; raise `BadValue` when it is none for it."""
    table = schema.get(place.table)
    column = table.columns.get(place.column) if table else None
    if column is None or not column.is_set_of_references or column.key.refers_to != row.table:
        raise BadValue(f"{place.table}.{place.column} has no rows of {row.table}")
    return column.key.strong and not schema[row.table].is_root

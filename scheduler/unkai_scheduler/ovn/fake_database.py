"""OVN's northbound database in memory: transactions, references, and what is kept of them.

As the real one it removes rows that no strong reference holds, takes rows that are gone out of weak
sets, and refuses a transaction whole that leaves a strong reference to nothing, or two rows of one
name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import assert_never
from uuid import UUID, uuid4

from unkai_scheduler.ovn import plan as plans
from unkai_scheduler.ovn.fake_schema import UNIQUE_NAMES, northbound_schema
from unkai_scheduler.ovn.index import Index
from unkai_scheduler.ovn.rows import Place, Ref
from unkai_scheduler.ovn.schema import Column, Normal

GLOBAL = "NB_Global"
_DEFAULTS: Mapping[str, Normal] = {
    "string": frozenset({""}),
    "integer": frozenset({0}),
    "boolean": frozenset({False}),
}

RowColumns = Mapping[str, Normal]
Listener = Callable[[set[str]], None]


class Refused(Exception):
    """The transaction breaks a rule; nothing of it was done."""


def _default(column: Column) -> Normal:
    if column.value is not None:
        return {}
    return _DEFAULTS[column.key.name] if column.least else frozenset()


class Tables:
    """All rows; as the planning sees them, too."""

    def __init__(self) -> None:
        self.schema = northbound_schema()
        self.rows: dict[str, dict[UUID, RowColumns]] = {name: {} for name in self.schema}
        self.index = Index(self.schema)
        self.listeners: list[Listener] = []
        self.written: list[dict[Ref, frozenset[str]]] = []
        """Rows that each transaction changed, and which columns; none of a row that went."""
        self.commit([plans.Insert(Ref(GLOBAL, uuid4()), {})])

    def has(self, ref: Ref) -> bool:
        return ref.uuid in self.rows[ref.table]

    def read(self, ref: Ref, column: str) -> Normal:
        return self.rows[ref.table][ref.uuid][column]

    def rows_of(self, unit: str) -> Collection[Ref]:
        return tuple(self.index.rows_of(unit))

    def unit_of(self, ref: Ref) -> str:
        return self.index.unit_of(ref)

    def holders(self, ref: Ref) -> Collection[Place]:
        return tuple(self.index.holders(ref))

    @property
    def marks(self) -> dict[str, str | int]:
        """`external_ids` of the one row of `NB_Global`."""
        marks = next(iter(self.rows[GLOBAL].values()))["external_ids"]
        assert isinstance(marks, dict)
        return dict(marks)

    def mark(self, items: Mapping[str, str]) -> plans.Edit:
        """Return the edit that sets keys of `marks`."""
        return plans.SetKeys(Ref(GLOBAL, next(iter(self.rows[GLOBAL]))), "external_ids", items)

    def commit(self, edits: Iterable[plans.Edit], *, by: Listener | None = None) -> None:
        """Do it all, or raise `Refused`; all but the doer hear which units it touched."""
        rows = {name: dict(table) for name, table in self.rows.items()}
        for edit in edits:
            self._act(rows, edit)
        self._check_references(rows)
        self._collect(rows)
        self._take_out_of_weak(rows)
        self._check(rows)
        touched, written = set[str](), dict[Ref, frozenset[str]]()
        for name, table in self.rows.items():
            for uuid in _changed(table, rows[name]):
                ref = Ref(name, uuid)
                old, new = table.get(uuid), rows[name].get(uuid)
                written[ref] = _changed_columns(old, new)
                touched |= self._note(ref, old, new)
        self.rows = rows
        if written:
            self.written.append(written)
        if touched:
            for listener in self.listeners:
                if listener != by:
                    listener(touched)

    def _note(self, ref: Ref, old: RowColumns | None, new: RowColumns | None) -> set[str]:
        before = old
        if old is not None and new is not None:
            before = {name: value for name, value in old.items() if new[name] != value}
        return self.index.note(ref, before, new)

    def _act(self, rows: dict[str, dict[UUID, RowColumns]], edit: plans.Edit) -> None:
        match edit:
            case plans.Insert(ref, columns):
                if ref.uuid in rows[ref.table]:
                    raise Refused(f"duplicate uuid {ref.uuid}")
                defaults = {n: _default(c) for n, c in self.schema[ref.table].columns.items()}
                rows[ref.table][ref.uuid] = defaults | dict(columns)
            case plans.Assign(ref, column, value):
                rows[ref.table][ref.uuid] = {**rows[ref.table][ref.uuid], column: value}
            case plans.SetKeys(ref, column, items):
                row = rows[ref.table][ref.uuid]
                rows[ref.table][ref.uuid] = {**row, column: {**_map(row, column), **items}}
            case plans.DropKeys(ref, column, keys):
                row = rows[ref.table][ref.uuid]
                left = {k: v for k, v in _map(row, column).items() if k not in keys}
                rows[ref.table][ref.uuid] = {**row, column: left}
            case plans.Join(place, uuid):
                row = rows[place.table][place.uuid]
                joined = frozenset(row[place.column]) | {uuid}
                rows[place.table][place.uuid] = {**row, place.column: joined}
            case plans.Leave(place, uuid):
                row = rows[place.table][place.uuid]
                remaining = frozenset(row[place.column]) - {uuid}
                rows[place.table][place.uuid] = {**row, place.column: remaining}
            case plans.Delete(ref):
                rows[ref.table].pop(ref.uuid, None)
            case _:
                assert_never(edit)

    def _collect(self, rows: dict[str, dict[UUID, RowColumns]]) -> None:
        """Remove what no strong reference holds any more."""
        while True:
            held = set(self._references(rows, strong=True))
            gone = [
                Ref(name, uuid)
                for name, table in self.schema.items()
                if not table.is_root
                for uuid in rows[name]
                if Ref(name, uuid) not in held
            ]
            if not gone:
                return
            for ref in gone:
                del rows[ref.table][ref.uuid]

    def _take_out_of_weak(self, rows: dict[str, dict[UUID, RowColumns]]) -> None:
        for name, column, target in self._columns(strong=False):
            for uuid, row in list(rows[name].items()):
                there = frozenset(u for u in row[column] if u in rows[target])
                if there != row[column]:
                    rows[name][uuid] = {**row, column: there}

    def _check_references(self, rows: dict[str, dict[UUID, RowColumns]]) -> None:
        """Refuse a strong reference to nothing; as OVSDB, before unheld rows go."""
        for ref in self._references(rows, strong=True):
            if ref.uuid not in rows[ref.table]:
                raise Refused(f"referential integrity violation: {ref.table} {ref.uuid}")

    def _check(self, rows: dict[str, dict[UUID, RowColumns]]) -> None:
        for name in UNIQUE_NAMES:
            names = [row["name"] for row in rows[name].values()]
            if len(set(map(frozenset, names))) < len(names):
                raise Refused(f"two rows of {name} would have one name")
        for name, table in self.schema.items():
            for uuid, row in rows[name].items():
                if row is not self.rows[name].get(uuid):
                    _check_row(table.columns, row)

    def _references(
        self, rows: Mapping[str, Mapping[UUID, RowColumns]], *, strong: bool
    ) -> Iterator[Ref]:
        for name, column, target in self._columns(strong=strong):
            for row in rows[name].values():
                for uuid in row[column]:
                    assert isinstance(uuid, UUID)
                    yield Ref(target, uuid)

    def _columns(self, *, strong: bool) -> Iterator[tuple[str, str, str]]:
        for name, table in self.schema.items():
            for column, kind in table.columns.items():
                if kind.key.refers_to and kind.key.strong is strong:
                    yield name, column, kind.key.refers_to


def _map(row: RowColumns, column: str) -> Mapping[str, str | int]:
    value = row[column]
    assert isinstance(value, dict)
    return value


def _check_row(columns: Mapping[str, Column], row: RowColumns) -> None:
    """Refuse a required word that was never said: its default is not among the allowed."""
    for name, column in columns.items():
        allowed = column.key.allowed
        if allowed is not None and not set(row[name]) <= allowed:
            raise Refused(f"constraint violation: {name}")
        if column.least and not row[name]:
            raise Refused(f"constraint violation: {name} is empty")


def _changed_columns(old: RowColumns | None, new: RowColumns | None) -> frozenset[str]:
    if new is None:
        return frozenset()
    return frozenset(name for name in new if old is None or old[name] != new[name])


def _changed(old: Mapping[UUID, RowColumns], new: Mapping[UUID, RowColumns]) -> Iterator[UUID]:
    for uuid in old.keys() | new.keys():
        before, after = old.get(uuid), new.get(uuid)
        if before is not after and before != after:
            yield uuid

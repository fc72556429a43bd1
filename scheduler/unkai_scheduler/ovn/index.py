"""Which unit a row is of, which rows a unit has, and which columns refer to a row.

Kept along with the rows, so that nothing searches a table. What it says of an update is which units
were touched by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from uuid import UUID

from unkai_scheduler.ovn.plan import EXTERNAL_IDS
from unkai_scheduler.ovn.rows import UNIT, Place, Ref
from unkai_scheduler.ovn.schema import Normal, Schema

Columns = Mapping[str, Normal]
"""A row's values."""


class Index:
    """See the module."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._sets = {
            table.name: [n for n, column in table.columns.items() if column.is_set_of_references]
            for table in schema.values()
        }
        self._references = {
            table.name: [n for n, column in table.columns.items() if column.key.refers_to]
            for table in schema.values()
        }
        self._rows: dict[str, set[Ref]] = defaultdict(set)
        self._units: dict[Ref, str] = {}
        self._holders: dict[Ref, set[Place]] = defaultdict(set)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._units.clear()
        self._holders.clear()

    def rows_of(self, unit: str) -> Collection[Ref]:
        """Return the rows that bear a unit's key."""
        return self._rows.get(unit, ())

    def unit_of(self, ref: Ref) -> str:
        """Return the key that a row bears, or an empty string."""
        return self._units.get(ref, "")

    def holders(self, ref: Ref) -> Collection[Place]:
        """Return the columns that refer to a row."""
        return self._holders.get(ref, ())

    def counts(self) -> dict[str, int]:
        """Return how many rows each unit has."""
        return {unit: len(rows) for unit, rows in self._rows.items()}

    def note(self, ref: Ref, before: Columns | None, after: Columns | None) -> set[str]:
        """Take in an update; return the units that it touched.

        `before` has the columns that changed, or all of a row that went; None: the row is new.
        That a row joined or left a set touches the row, not the set.
        """
        touched = {self.unit_of(ref)}
        changed = before if before is not None and after is not None else None
        if after is None or before is None or EXTERNAL_IDS in before:
            self._mark(ref, after)
            touched.add(self.unit_of(ref))
        sets = self._sets[ref.table]
        if changed is not None and all(name in sets for name in changed):
            touched = set()
        for name in self._references[ref.table]:
            if changed is None or name in changed:
                place = Place(ref.table, ref.uuid, name)
                members = [self.unit_of(member) for member in self._members(place, before, after)]
                if name in sets:
                    touched.update(members)
        touched.discard("")
        return touched

    def _mark(self, ref: Ref, after: Columns | None) -> None:
        former, unit = self._units.pop(ref, ""), ""
        if after is not None and EXTERNAL_IDS in after:
            external_ids = after[EXTERNAL_IDS]
            assert isinstance(external_ids, dict)
            unit = str(external_ids.get(UNIT, ""))
        if former:
            self._rows[former].discard(ref)
            if not self._rows[former]:
                del self._rows[former]
        if unit:
            self._units[ref] = unit
            self._rows[unit].add(ref)

    def _members(
        self, place: Place, before: Columns | None, after: Columns | None
    ) -> Iterator[Ref]:
        """Take in what a column refers to now; yield the rows for which that changed."""
        table = self._schema[place.table].columns[place.column].key.refers_to
        old, new = _uuids(before, place.column), _uuids(after, place.column)
        for uuid in old - new:
            member = Ref(table, uuid)
            if member in self._holders:
                self._holders[member].discard(place)
                if not self._holders[member]:
                    del self._holders[member]
            yield member
        for uuid in new - old:
            member = Ref(table, uuid)
            self._holders[member].add(place)
            yield member


def _uuids(columns: Columns | None, name: str) -> frozenset[UUID]:
    value = columns[name] if columns is not None and name in columns else frozenset()
    return frozenset(uuid for uuid in value if isinstance(uuid, UUID))

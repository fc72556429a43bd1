"""The replica of the database that the library keeps, seen as rows and units.

The library's `Row` gives references as other rows and hides those that are not there; what is
needed here are the UUIDs themselves, so its `_data` is read, as its `_session` is to know whether
the connection stands: while it does not, `state` stays as it was. The versions are pinned for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from ovs.db import idl
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from unkai_scheduler.ovn.index import Index
from unkai_scheduler.ovn.rows import Place, Ref
from unkai_scheduler.ovn.schema import Column, Kind, Normal, Schema, Table

EXIT_BUG = 70

WRITTEN_BY_OVN = {
    "BFD": {"status"},
    "Connection": {"is_connected", "status"},
    "Logical_Router_Port": {"ipv6_prefix"},
    "Logical_Switch_Port": {"up", "dynamic_addresses"},
    "NB_Global": {
        "nb_cfg",
        "nb_cfg_timestamp",
        "sb_cfg",
        "sb_cfg_timestamp",
        "hv_cfg",
        "hv_cfg_timestamp",
    },
}
"""Columns that OVN's own daemons write, often: they are not read at all."""


def registered(schema_json: dict[str, Any]) -> dict[str, list[str]]:
    """Return the columns to read of each table."""
    return {
        table: sorted(record["columns"].keys() - WRITTEN_BY_OVN.get(table, set()))
        for table, record in schema_json["tables"].items()
    }


def schema_of(tables: Any) -> Schema:
    """Return what the library knows of tables and columns."""
    return {
        name: Table(
            name,
            bool(table.is_root),
            {column.name: _column(column.type) for column in table.columns.values()},
        )
        for name, table in tables.items()
    }


def _column(kind: Any) -> Column:
    return Column(
        _kind(kind.key),
        _kind(kind.value) if kind.is_map() else None,
        kind.n_min,
        None if kind.n_max > 2**31 else kind.n_max,
    )


def _kind(base: Any) -> Kind:
    return Kind(
        base.type.to_string(),
        frozenset(atom.value for atom in base.enum.values) if base.enum else None,
        base.min,
        base.max,
        base.ref_table_name or "",
        base.is_strong_ref(),
    )


def normal(datum: Any) -> Normal:
    """Return the library's value in its normal form, with UUIDs in place of rows."""
    if datum.type.is_map():
        return {key.value: value.value for key, value in datum.values.items()}
    return frozenset(atom.value for atom in datum.values)


class _Columns(Mapping[str, Normal]):
    """A row's values as the library keeps them, each made normal when it is asked for."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own

    def __getitem__(self, name: str) -> Normal:
        return normal(self._own[name])

    def __contains__(self, name: object) -> bool:
        return name in self._own

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class Replica(OvsdbIdl):  # type: ignore[misc] # the library has no types
    """The library's replica, with an index, and word of what others did."""

    def __init__(
        self, remotes: str, helper: Any, probe_ms: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.session = 0
        """Rises with each connection."""
        self._listed = False
        self._said_live = False
        self._tell = tell
        self._touched: set[str] = set()
        self._own: frozenset[str] = frozenset()
        """Units of the transaction under way: what happens to them is taken for our own doing."""
        self._held_back: set[str] = set()
        super().__init__(remotes, helper, probe_interval=probe_ms, leader_only=True)
        self.schema = schema_of(self.tables)
        self.index = Index(self.schema)

    def is_live(self) -> bool:
        """Tell whether this is the database as it is, and may be written to."""
        return bool(
            self._listed
            and self.state == idl.Idl.IDL_S_MONITORING
            and self._session.is_connected()
            and self._session.get_seqno() == self._last_seqno
        )

    def restart_fsm(self) -> None:
        """Begin a connection: everything is read anew."""
        self.session += 1
        self._listed = False
        super().restart_fsm()

    def run(self) -> bool:
        """Take in what has come, and say what it means."""
        changed = bool(super().run())
        if not self._listed and self.state == idl.Idl.IDL_S_MONITORING:
            self._rebuild()
        self._say()
        return changed

    def _say(self) -> None:
        live = self.is_live()
        if live != self._said_live:
            self._said_live = live
            self._tell({"event": "live" if live else "lost"})
        if self._touched:
            self._tell({"event": "changed", "units": sorted(self._touched)})
            self._touched.clear()

    def _rebuild(self) -> None:
        self.index.clear()
        for table in self.tables.values():
            for uuid, row in table.rows.items():
                self.index.note(Ref(table.name, uuid), None, _Columns(row._data))
        self._touched.clear()
        self._listed = True

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Take in one row's change, after all changes of its transaction were made."""
        if not self._listed:
            return
        ref = Ref(row._table.name, row.uuid)
        before = _Columns(updates._data) if event == idl.ROW_UPDATE else None
        after: _Columns | None = _Columns(row._data)
        if event == idl.ROW_DELETE:
            before, after = after, None
        try:
            touched = self.index.note(ref, before, after)
        except Exception:  # noqa: BLE001 -- the library would go on, with an index that lies
            os._exit(EXIT_BUG)
        self._touched |= touched - self._own
        self._held_back |= touched & self._own

    def begin(self, units: Iterable[str]) -> None:
        """A transaction with these units begins."""
        self._held_back.clear()
        self._own = frozenset(units)

    def end(self, as_made: Callable[[str], bool] = lambda _unit: False) -> None:
        """The transaction has ended; say what of its units was others' doing.

        All of it, when it failed; else what is not as it was made.
        """
        self._own = frozenset()
        self._touched.update(unit for unit in self._held_back if not as_made(unit))
        self._held_back.clear()
        self._say()


class Rows:
    """The replica as the planning sees it; while no transaction is being put together."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.schema = replica.schema

    def has(self, ref: Ref) -> bool:
        return ref.uuid in self._replica.tables[ref.table].rows

    def read(self, ref: Ref, column: str) -> Normal:
        row = self._replica.tables[ref.table].rows[ref.uuid]
        return normal(row._data[column])

    def rows_of(self, unit: str) -> Collection[Ref]:
        return tuple(self._replica.index.rows_of(unit))

    def unit_of(self, ref: Ref) -> str:
        return self._replica.index.unit_of(ref)

    def holders(self, ref: Ref) -> Collection[Place]:
        return tuple(self._replica.index.holders(ref))

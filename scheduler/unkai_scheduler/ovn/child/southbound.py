"""The child that reads OVN's southbound database: `python -m unkai_scheduler.ovn.child.southbound`.

It says which hosts have joined, which of them has a port, and which members of load balancers are
well: all of it once it has read the database, then what changes. It never writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from ovs.db import idl
from ovsdbapp.backend.ovs_idl.connection import Connection, OvsdbIdl
from ovsdbapp.exceptions import TimeoutException

from unkai_scheduler.ovn.child import life
from unkai_scheduler.ovn.child.life import EXIT_NO_LISTING
from unkai_scheduler.ovn.child.replica import normal

DATABASE = "OVN_Southbound"
COLUMNS = {
    "Chassis": ["name", "hostname"],
    "Port_Binding": ["logical_port", "chassis", "up"],
    "Service_Monitor": ["logical_port", "protocol", "port", "status"],
}
_AT_ONCE = 5000
"""Rows in one frame."""


class Sight(OvsdbIdl):  # type: ignore[misc] # the library has no types
    """The library's replica, and word of what changes in it."""

    def __init__(
        self, remotes: str, helper: Any, probe_ms: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self._tell = tell
        self._listed = False
        self._said_live = False
        self._changed: dict[tuple[str, str], list[Any] | None] = {}
        super().__init__(remotes, helper, probe_interval=probe_ms, leader_only=False)

    def restart_fsm(self) -> None:
        """Begin a connection: everything is read anew."""
        self._listed = False
        super().restart_fsm()

    def run(self) -> bool:
        """Take in what has come, and say it."""
        changed = bool(super().run())
        if not self._listed and self.state == idl.Idl.IDL_S_MONITORING:
            self._changed = dict(self._everything())
            self._tell({"event": "anew"})
            self._listed = True
        self._say()
        return changed

    def _say(self) -> None:
        rows = [[*key, value] for key, value in self._changed.items()]
        self._changed.clear()
        for start in range(0, len(rows), _AT_ONCE):
            self._tell({"event": "seen", "rows": rows[start : start + _AT_ONCE]})
        live = self._listed and self._session.is_connected()
        if live != self._said_live:
            self._said_live = live
            self._tell({"event": "live" if live else "lost"})

    def _everything(self) -> Iterator[tuple[tuple[str, str], list[Any]]]:
        for name in COLUMNS:
            for uuid, row in self.tables[name].rows.items():
                yield (name, str(uuid)), self._values(name, row)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Take in one row's change, after all changes of its transaction were made."""
        if self._listed:
            name = row._table.name
            gone = event == idl.ROW_DELETE
            self._changed[name, str(row.uuid)] = None if gone else self._values(name, row)

    def _values(self, name: str, row: Any) -> list[Any]:
        """Return a row's values; of a set the one that is in it, of a reference its text."""
        values = (normal(row._data[column]) for column in COLUMNS[name])
        return [_plain(next(iter(value), None)) for value in values]


def _plain(atom: Any) -> Any:
    return atom if atom is None or isinstance(atom, str | int | bool) else str(atom)


def main() -> None:
    """Live."""
    begun = life.begin()
    if begun is None:
        return
    settings, pipe, requests = begun
    remotes = ",".join(settings["remotes"])
    helper = life.schema_of(remotes, DATABASE, settings, pipe)
    for table, columns in COLUMNS.items():
        helper.register_columns(table, columns)
    sight = Sight(remotes, helper, int(settings["probe_s"] * 1000), pipe.tell)
    try:
        Connection(sight, settings["listing_s"]).start()
    except TimeoutException:
        logging.getLogger(__name__).warning("not read within %s s", settings["listing_s"])
        os._exit(EXIT_NO_LISTING)
    requests.get()  # none ever comes: its reader ends us when the parent is gone


if __name__ == "__main__":
    life.run(main)

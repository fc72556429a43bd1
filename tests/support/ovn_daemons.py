"""The daemons of OVN's central part, each killed and started at will."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.support.ovn import PATIENCE_S, OvsdbServer, program

_SOUTH = "OVN_Southbound"


class OvnDaemons:
    """A northbound and a southbound database, and the daemon between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.north = OvsdbServer(folder)
        self.north_remote = f"unix:{self.north.socket}"
        self.south_remote = f"unix:{folder / 'sb.sock'}"
        schema = program("ovn-nbctl").parents[1] / "share" / "ovn" / "ovn-sb.ovsschema"
        subprocess.run(
            [program("ovsdb-tool"), "create", folder / "sb.db", schema], check=True, timeout=60
        )
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all three."""
        self.north.start()
        self.start_south()
        self.start_northd()

    def start_south(self) -> None:
        """Start the southbound database's server."""
        socket = self._folder / "sb.sock"
        socket.unlink(missing_ok=True)
        control = f"--unixctl={self._folder / 'sb.ctl'}"
        self._start("ovsdb-server", self._folder / "sb.db", f"--remote=punix:{socket}", control)
        end = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert time.monotonic() < end, "the southbound server does not listen"
            time.sleep(0.02)

    def start_northd(self) -> None:
        """Start ovn-northd."""
        self._start(
            "ovn-northd",
            *(f"--ovnnb-db={self.north_remote}", f"--ovnsb-db={self.south_remote}"),
            f"--unixctl={self._folder / 'northd.ctl'}",
        )

    def _start(self, name: str, *arguments: str | Path) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [program(name), *arguments, "--no-chdir"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OVN_RUNDIR": str(self._folder)},
            )

    def kill(self, name: str) -> None:
        """Kill `ovsdb-server` (the southbound one) or `ovn-northd`."""
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Kill all."""
        for name in list(self._running):
            self.kill(name)
        self.north.stop()

    def south(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """Return a southbound table's rows, of each these columns as OVSDB's JSON has them."""
        return self._select(table, columns)

    def flows(self) -> list[str]:
        """Return the matches of all logical flows."""
        return [row["match"] for row in self._select("Logical_Flow", ("match",))]

    def transact_south(self, *operations: dict[str, Any]) -> list[Any]:
        """Change the southbound database as a host would."""
        request = json.dumps([_SOUTH, *operations])
        client = (program("ovsdb-client"), "transact", self.south_remote, request)
        asked = subprocess.run(client, check=True, timeout=60, capture_output=True, text=True)
        answer: list[Any] = json.loads(asked.stdout)
        assert not any(each and "error" in each for each in answer), answer
        return answer

    def _select(self, table: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        select = {"op": "select", "table": table, "where": [], "columns": [*columns, "_uuid"]}
        rows: list[dict[str, Any]] = self.transact_south(select)[0]["rows"]
        return rows

"""OVN's databases with ovn-northd, and a host's switch database, as real servers in one folder.

No datapath: nothing is forwarded, so what ovn-controller would say is written by hand.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import ovsdb_look
from tests.support.ovn import PATIENCE_S, OvsdbServer, program
from tests.support.ovsdb_look import Database

_OVN_SCHEMAS = ("share", "ovn")
_SWITCH_SCHEMAS = ("share", "openvswitch")
_NORTHD = 2
"""Its place among the processes, in the order in which they are started."""


def run(argv: Sequence[str]) -> str:
    """Run a program to its end; return what it printed."""
    done = subprocess.run(
        [str(program(argv[0])), *argv[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


class OvnDatabases:
    """Northbound and southbound, translated by ovn-northd; and one host's switch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        northbound = folder / "nb"
        northbound.mkdir()
        self.northbound = OvsdbServer(northbound)
        self.sb = f"unix:{folder}/sb.sock"
        self.switch = f"unix:{folder}/switch.sock"

    def start(self) -> None:
        """Start all."""
        self.northbound.start()
        ovn = program("ovn-nbctl").parents[1].joinpath(*_OVN_SCHEMAS)
        ovs = program("ovs-vsctl").parents[1].joinpath(*_SWITCH_SCHEMAS)
        self._serve("sb", ovn / "ovn-sb.ovsschema")
        self._serve("switch", ovs / "vswitch.ovsschema")
        self._spawn(
            "ovn-northd",
            f"--ovnnb-db=unix:{self.northbound.socket}",
            f"--ovnsb-db={self.sb}",
            f"--unixctl={self._folder}/northd.ctl",
        )
        self.vsctl("init")
        self.vsctl("add-br", "br-int")

    def stop(self) -> None:
        """End all."""
        for process in reversed(self._processes):
            process.kill()
            process.wait(PATIENCE_S)
        self.northbound.stop()

    def end_northd(self) -> None:
        """Kill ovn-northd."""
        northd = self._processes[_NORTHD]
        northd.kill()
        northd.wait(PATIENCE_S)

    def freeze_northd(self) -> None:
        """Let ovn-northd stand still, its connections open."""
        self._processes[_NORTHD].send_signal(signal.SIGSTOP)

    def nbctl(self, *words: str) -> str:
        """Change or ask the northbound database, and wait until northd has translated it."""
        return run(["ovn-nbctl", f"--db=unix:{self.northbound.socket}", "--timeout=30", *words])

    def sbctl(self, *words: str) -> str:
        """Change or ask the southbound database."""
        return run(["ovn-sbctl", f"--db={self.sb}", "--timeout=30", *words])

    def vsctl(self, *words: str) -> str:
        """Change or ask the switch's database, in which nobody makes anything true."""
        return run(["ovs-vsctl", "--no-wait", f"--db={self.switch}", "--timeout=30", *words])

    def see(self) -> tuple[Database, Database, Database]:
        """Return what northbound, southbound and the switch have, once northd has caught up."""
        self.nbctl("--wait=sb", "sync")
        command = ["ovn-nbctl", f"--db=unix:{self.northbound.socket}", "--timeout=30"]
        northbound = ovsdb_look.read(run, command, ovsdb_look.NORTHBOUND)
        command = ["ovn-sbctl", f"--db={self.sb}", "--timeout=30"]
        southbound = ovsdb_look.read(run, command, ovsdb_look.SOUTHBOUND)
        command = ["ovs-vsctl", f"--db={self.switch}", "--timeout=30"]
        return northbound, southbound, ovsdb_look.read(run, command, ovsdb_look.SWITCH)

    def snapshot(self) -> Mapping[str, Mapping[str, Any]]:
        """Return all rows of the northbound database, in OVSDB's JSON, by table and UUID."""
        reading = [{"op": "select", "table": table, "where": []} for table in ovsdb_look.NORTHBOUND]
        answers = self.northbound.transact(*reading)
        return {
            table: {row.pop("_uuid")[1]: _plain(row) for row in answer["rows"]}
            for table, answer in zip(ovsdb_look.NORTHBOUND, answers, strict=True)
        }

    def restore(self, snapshot: Mapping[str, Mapping[str, Any]]) -> None:
        """Put those rows back, with their UUIDs."""
        operations: list[dict[str, Any]] = []
        for table, now in self.snapshot().items():
            wanted = snapshot[table]
            for uuid in now.keys() | wanted.keys():
                where = [["_uuid", "==", ["uuid", uuid]]]
                if uuid not in wanted:
                    operations.append({"op": "delete", "table": table, "where": where})
                elif uuid not in now:
                    new = {"op": "insert", "table": table, "uuid": uuid, "row": wanted[uuid]}
                    operations.append(new)
                elif now[uuid] != wanted[uuid]:
                    row = {"op": "update", "table": table, "where": where, "row": wanted[uuid]}
                    operations.append(row)
        if operations:
            self.northbound.transact(*operations)

    def _serve(self, name: str, schema: Path) -> None:
        database = self._folder / f"{name}.db"
        run(["ovsdb-tool", "create", str(database), str(schema)])
        socket = self._folder / f"{name}.sock"
        remote = f"--remote=punix:{socket}"
        self._spawn("ovsdb-server", str(database), remote, f"--unixctl={self._folder}/{name}.ctl")
        deadline = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert time.monotonic() < deadline, f"no {socket}"
            time.sleep(0.02)

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self._folder / "log").open("ab") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._processes.append(subprocess.Popen([program(name), *arguments], **streams))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row can be written; of NB_Global nothing that northd counts."""
    return {name: value for name, value in row.items() if name != "_version" and "_cfg" not in name}

"""A real ovsdb-server on loopback with OVN's northbound database, for tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.etcd import free_port
from unkai_scheduler.ovn.rows import Place, Ref, Value
from unkai_scheduler.ovn.schema import Normal
from unkai_wire.tls import TlsFiles

DATABASE = "OVN_Northbound"
PATIENCE_S = 60.0
_FOLDERS = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"

Record = dict[Ref, frozenset[str]]
"""Rows that a transaction wrote, and which columns."""


def program(name: str) -> Path:
    """Return where a program is; skip the test without it."""
    found = shutil.which(name) or shutil.which(name, path=_FOLDERS)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: openvswitch-common, ovn-common)")
    return Path(found)


def schema_file() -> Path:
    """Return OVN's northbound schema; skip the test without it."""
    program("ovsdb-server")
    beside = program("ovn-nbctl").parents[1] / "share" / "ovn" / "ovn-nb.ovsschema"
    if not beside.exists():
        pytest.skip("OVN's northbound schema is not installed (Debian: ovn-common)")
    return beside


class OvsdbServer:
    """One ovsdb-server with a northbound database, as ovn-northd has initialised it."""

    def __init__(self, folder: Path, *, tls: TlsFiles | None = None) -> None:
        self.database = folder / "nb.db"
        self.socket = folder / "nb.sock"
        self._folder = folder
        self._tls = tls
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [program("ovsdb-tool"), "create", self.database, schema_file()], check=True, timeout=60
        )
        self.address = f"127.0.0.1:{self._port}"
        self.remote = f"{'ssl' if tls else 'tcp'}:{self.address}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        listen = f"{'pssl' if self._tls else 'ptcp'}:{self._port}:127.0.0.1"
        files: list[str | Path] = []
        if tls := self._tls:
            files = ["-p", tls.key, "-c", tls.certificate, "-C", tls.ca]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program("ovsdb-server"), self.database, "--no-chdir"),
                    *(f"--remote=punix:{self.socket}", f"--remote={listen}"),
                    f"--unixctl={self._folder / 'ctl'}",
                    *files,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._await_answer()
            if not self.select("NB_Global"):
                self.transact({"op": "insert", "table": "NB_Global", "row": {}})
        except BaseException:
            self.stop()
            raise

    def _await_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), 5).close()
                with socket.socket(socket.AF_UNIX) as own:
                    own.connect(str(self.socket))
                return
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, "ovsdb-server does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE_S)
            self._process = None

    def freeze(self) -> None:
        """Let it stand still, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def transact(self, *operations: Mapping[str, Any]) -> list[Any]:
        """Execute a transaction as somebody else; fail when it fails."""
        request = {"method": "transact", "params": [DATABASE, *operations], "id": 0}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.socket))
            connection.sendall(json.dumps(request).encode())
            text = ""
            while True:
                piece = connection.recv(65536)
                assert piece, f"ovsdb-server hung up after {text!r}"
                text += piece.decode()
                with contextlib.suppress(ValueError):
                    answer = json.loads(text)
                    break
        assert answer["error"] is None, answer
        failed = [each for each in answer["result"] if each and "error" in each]
        assert not failed, failed
        return list(answer["result"])

    def select(self, table: str) -> dict[UUID, dict[str, Normal]]:
        """Return all rows of a table."""
        rows = self.transact({"op": "select", "table": table, "where": []})[0]["rows"]
        return {
            UUID(row["_uuid"][1]): {
                name: _normal(value) for name, value in row.items() if not name.startswith("_")
            }
            for row in rows
        }

    def log(self) -> list[Record]:
        """Return all transactions in the database's own log, from the first on."""
        records = [
            json.loads(line)
            for line in self.database.read_text().splitlines()
            if line.startswith("{")
        ]
        return [
            {
                Ref(table, UUID(uuid)): frozenset(columns or ())
                for table, rows in record.items()
                if not table.startswith("_")
                for uuid, columns in rows.items()
            }
            for record in records[1:]  # the first is the schema
        ]


def _normal(value: Any) -> Normal:
    if isinstance(value, list) and value[0] == "map":
        return dict(value[1])
    members = value[1] if isinstance(value, list) and value[0] == "set" else [value]
    return frozenset(UUID(m[1]) if isinstance(m, list) else m for m in members)


def to_json(value: Value) -> Any:
    """Return a value as OVSDB's protocol has it (RFC 7047, section 5.1)."""
    if isinstance(value, Mapping):
        return ["map", [[key, item] for key, item in value.items()]]
    if isinstance(value, frozenset | tuple):
        return ["set", [to_json(atom) for atom in value]]
    return ["uuid", str(value)] if isinstance(value, UUID) else value


def mutation(place: Place, how: str, uuid: UUID) -> dict[str, Any]:
    """Return the operation that puts a row into a set of references, or takes it out."""
    return {
        "op": "mutate",
        "table": place.table,
        "where": [["_uuid", "==", ["uuid", str(place.uuid)]]],
        "mutations": [[place.column, how, ["set", [["uuid", str(uuid)]]]]],
    }

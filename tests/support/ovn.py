"""OVN's northbound database for tests: a real ovsdb-server on loopback, or the fake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4, uuid5

import pytest

from tests.support.etcd import free_port
from tests.support.proxy import TcpProxy
from unkai_scheduler.ovn.fake import FakeNorthbound, FakeOvn
from unkai_scheduler.ovn.port import Changed, Northbound
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.rows import Outcome, Place, Ref, Row, Unit, Value
from unkai_scheduler.ovn.schema import Normal
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_wire.errors import Unavailable
from unkai_wire.tls import TlsFiles

DATABASE = "OVN_Northbound"
PATIENCE_S = 60.0
_SPACE = UUID("6d1f3c1e-0000-4000-8000-000000000000")
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


IMPATIENT_S = 2.0
"""For tests in which an answer is lost; what they ask for otherwise is small."""


class World(Protocol):
    """What a contract test may do to the database, as somebody else."""

    async def member(self, *, impatient: bool = False) -> Northbound: ...
    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID: ...
    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None: ...
    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None: ...
    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]: ...
    async def log(self) -> list[Record]: ...
    async def raise_term(self, term: int) -> None: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    async def hold(self, member: Northbound) -> None: ...
    async def release(self, member: Northbound) -> None: ...
    async def close(self) -> None: ...


class FakeWorld:
    """The database in memory."""

    def __init__(self) -> None:
        self.ovn = FakeOvn()

    async def member(self, *, impatient: bool = False) -> Northbound:
        return self.ovn.member()

    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID:
        uuid = uuid4()
        self.ovn.insert(table, uuid, columns, parent)
        return uuid

    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None:
        self.ovn.set(table, uuid, column, value)

    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None:
        self.ovn.delete(table, uuid)

    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]:
        return self.ovn.tables.rows[table]

    async def log(self) -> list[Record]:
        return list(self.ovn.tables.written)

    async def raise_term(self, term: int) -> None:
        self.ovn.raise_term(term)

    async def stop(self) -> None:
        self.ovn.stop()

    async def start(self) -> None:
        self.ovn.start()

    async def hold(self, member: Northbound) -> None:
        assert isinstance(member, FakeNorthbound)
        member.hold()

    async def release(self, member: Northbound) -> None:
        assert isinstance(member, FakeNorthbound)
        member.release()

    async def close(self) -> None:
        """Nothing runs."""


class RealWorld:
    """A real ovsdb-server; each member's way to it can be held up."""

    def __init__(self, folder: Path) -> None:
        self.server = OvsdbServer(folder)
        self.server.start()
        self._ways: dict[int, TcpProxy] = {}
        self.members: list[OvnNorthbound] = []

    async def member(self, *, impatient: bool = False, healthy_s: float = 60.0) -> OvnNorthbound:
        proxy = TcpProxy(self.server.address)
        address = await asyncio.to_thread(proxy.start)
        settings = OvnSettings((f"tcp:{address}",), healthy_s=healthy_s)
        if impatient:
            settings = replace(settings, transaction_s=IMPATIENT_S, grace_s=IMPATIENT_S / 2)
        member = OvnNorthbound(settings)
        self._ways[id(member)] = proxy
        self.members.append(member)
        member.start()
        await until_reached(member)
        return member

    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID:
        uuid = uuid4()
        row = {name: to_json(value) for name, value in columns.items()}
        operations: list[dict[str, Any]] = [
            {"op": "insert", "table": table, "uuid": str(uuid), "row": row}
        ]
        if parent:
            operations.append(mutation(parent, "insert", uuid))
        await asyncio.to_thread(self.server.transact, *operations)
        return uuid

    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None:
        where = [["_uuid", "==", ["uuid", str(uuid)]]]
        update = {"op": "update", "table": table, "where": where, "row": {column: to_json(value)}}
        answer = await asyncio.to_thread(self.server.transact, update)
        assert answer[0]["count"] == 1

    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None:
        where = [["_uuid", "==", ["uuid", str(uuid)]]]
        operation = {"op": "delete", "table": table, "where": where}
        if parent:
            operation = mutation(parent, "delete", uuid)
        answer = await asyncio.to_thread(self.server.transact, operation)
        assert answer[0]["count"] == 1

    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]:
        return await asyncio.to_thread(self.server.select, table)

    async def log(self) -> list[Record]:
        return await asyncio.to_thread(self.server.log)

    async def raise_term(self, term: int) -> None:
        (uuid,) = await self.rows("NB_Global")
        await self.set("NB_Global", uuid, "external_ids", {"unkai_term": str(term)})

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def hold(self, member: Northbound) -> None:
        way = self._ways[id(member)]
        way.swallow()
        # What its loop is asked next is done after that.
        await asyncio.to_thread(way._do, asyncio.sleep(0))

    async def release(self, member: Northbound) -> None:
        self._ways[id(member)].heal()
        await asyncio.sleep(0.5)

    async def close(self) -> None:
        for member in self.members:
            await member.close()
        for way in self._ways.values():
            await asyncio.to_thread(way.stop)
        await self.stop()


def mutation(place: Place, how: str, uuid: UUID) -> dict[str, Any]:
    """Return the operation that puts a row into a set of references, or takes it out."""
    return {
        "op": "mutate",
        "table": place.table,
        "where": [["_uuid", "==", ["uuid", str(place.uuid)]]],
        "mutations": [[place.column, how, ["set", [["uuid", str(uuid)]]]]],
    }


async def until_reached(member: Northbound) -> None:
    """Wait until a member can ask the database."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await member.inventory()
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def until_lost(member: Northbound) -> Unavailable:
    """Wait until a member cannot ask the database; its end may be noticed a moment later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await member.inventory()
            except Unavailable as error:
                return error
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def hearing(member: Northbound) -> AsyncIterator[Hearing]:
    """Listen to what others do from now on."""
    heard = Hearing()
    task = asyncio.create_task(heard.listen(member))
    try:
        await heard.until(lambda: heard.everything > 0)
        heard.everything = 0
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Hearing:
    """What was heard."""

    def __init__(self) -> None:
        self.units: set[str] = set()
        self.everything = 0
        self._more = asyncio.Event()

    async def listen(self, member: Northbound) -> None:
        async for changed in member.changes():
            self.take(changed)

    def take(self, changed: Changed) -> None:
        self.units |= changed.units
        self.everything += changed.everything
        self._more.set()

    async def until(self, true: Any) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self._more.clear()
                await self._more.wait()

    async def of(self, unit: str) -> None:
        """Wait until a unit was heard of."""
        await self.until(lambda: unit in self.units)
        self.units.clear()


async def applied(nb: Northbound, term: int, units: Sequence[Unit]) -> None:
    """Apply until it is done, as the leader does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(Unavailable):
                found = await nb.apply(term, units)
                if len(found) == len(units) and set(found.values()) == {Outcome.DONE}:
                    return
            await asyncio.sleep(0.02)


def uuid_of(name: str) -> UUID:
    """Return the UUID that goes by a name."""
    return uuid5(_SPACE, name)


def switch(name: str, **columns: Value) -> Unit:
    """Return a unit of one logical switch."""
    row = Row("Logical_Switch", uuid_of(name), {"name": name, **columns})
    return Unit(f"network:{name}", (row,))


def port(name: str, on: str, groups: tuple[str, ...] = (), **columns: Value) -> Unit:
    """Return a unit of one logical switch port."""
    row = Row(
        "Logical_Switch_Port",
        uuid_of(name),
        {"name": name, "addresses": frozenset({"02:00:00:00:00:01 10.0.0.5"}), **columns},
        parent=Place("Logical_Switch", uuid_of(on), "ports"),
        member_of=frozenset(Place("Port_Group", uuid_of(group), "ports") for group in groups),
    )
    return Unit(f"port:{name}", (row,))


def group(name: str, rules: int = 0) -> Unit:
    """Return a unit of one port group and its rules."""
    place = Place("Port_Group", uuid_of(name), "acls")
    acls = tuple(
        Row(
            "ACL",
            uuid_of(f"{name}/{number}"),
            {
                "priority": 1002,
                "direction": "to-lport",
                "match": f"outport == @{name} && ip4 && tcp.dst == {number}",
                "action": "allow-related",
            },
            parent=place,
        )
        for number in range(rules)
    )
    row = Row("Port_Group", uuid_of(name), {"name": name})
    return Unit(f"security_group:{name}", (row, *acls))


def gone(unit: Unit) -> Unit:
    """Return the unit as it is when its resource is removed."""
    return Unit(unit.key)

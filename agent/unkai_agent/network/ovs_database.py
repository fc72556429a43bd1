"""The switch's database by its own program: `ovs-vsctl`, under a deadline.

One transaction a call. The program waits until ovs-vswitchd has done what was written, which the
wire protocol alone does not. Writes take turns; reads are shared by all who ask meanwhile. Values
are always quoted. Source: ovs-vsctl(8) and ovs-vswitchd.conf.db(5) of Open vSwitch 3.1.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Histogram

from unkai_wire import tracing
from unkai_wire.errors import FailedPrecondition, Unavailable

_TIMEOUT_S = 10
"""A switch that has not answered by then is not well; libvirt's own limit is 5 s."""
_DIE_S = 5.0
_END_S = 3.0
"""The program ends itself at its timeout; so much longer is it waited for."""
_SIGALRM_STATUS = -14
SECONDS = Histogram(
    "unkai_agent_ovs_vsctl_seconds",
    "Time calls of ovs-vsctl took, by act.",
    ["act"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)

Row = Mapping[str, Any]


class OvsDatabase:
    """The `Open_vSwitch` database of this host."""

    def __init__(
        self, program: Sequence[str] = ("ovs-vsctl",), timeout_s: int = _TIMEOUT_S
    ) -> None:
        """`program`: the command and what always goes with it, such as `--db=…`."""
        self._program = tuple(program)
        self._timeout_s = timeout_s
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._next_read: asyncio.Future[list[Row]] | None = None

    async def write(self, act: str, *commands: Sequence[str]) -> None:
        """Carry out commands in one transaction, and wait for the switch to have done it."""
        if not commands:
            return
        arguments: list[str] = []
        for command in commands:
            arguments += ["--", *command]
        async with self._writing:
            await self._run(act, arguments)

    async def rows(self, table: str, *columns: str) -> list[Row]:
        """Return all rows of a table, as plain values: sets are tuples, maps are dicts."""
        arguments = ["--format=json", f"--columns={','.join(columns)}", "list", table]
        return rows_of(await self._run(f"list {table}", arguments))

    async def interfaces(self) -> list[Row]:
        """Return all interfaces, as of a moment after the call. Who ask together share a read."""
        if self._next_read is None:
            self._next_read = asyncio.ensure_future(self._read_interfaces())
        return await asyncio.shield(self._next_read)

    async def _read_interfaces(self) -> list[Row]:
        async with self._reading:
            self._next_read = None  # who asks from now on needs a read that begins later
            return await self.rows("Interface", "name", "ofport", "error", "external_ids")

    async def _run(self, act: str, arguments: Sequence[str]) -> str:
        command = [*self._program, f"--timeout={self._timeout_s}", *arguments]
        with tracing.span(f"ovs-vsctl {act}"), SECONDS.labels(act).time():
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=os.environ | {"LC_ALL": "C"},
                )
            except (FileNotFoundError, PermissionError) as error:
                raise _missing(self._program[0]) from error
            return await self._answer(act, process)

    async def _answer(self, act: str, process: asyncio.subprocess.Process) -> str:
        try:
            async with asyncio.timeout(self._timeout_s + _END_S):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise _unavailable(act, f"no answer within {self._timeout_s} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=_DIE_S)
        if process.returncode == 0:
            return output.decode("utf-8", "replace")
        if process.returncode == _SIGALRM_STATUS:
            raise _unavailable(act, f"no answer within {self._timeout_s} s")
        said = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise _unavailable(act, said[0])


def quoted(text: str) -> str:
    """Write a value so that the program takes every character of it as one of a string."""
    return json.dumps(text)


def set_map(table: str, record: str, column: str, values: Mapping[str, str]) -> list[str]:
    """Return the command that sets keys of a map and leaves its others."""
    pairs = [f"{column}:{key}={quoted(value)}" for key, value in sorted(values.items())]
    return ["set", table, record, *pairs]


def rows_of(text: str) -> list[Row]:
    """Read the program's JSON (RFC 7047, section 5.1)."""
    table = json.loads(text)
    return [
        dict(zip(table["headings"], map(_plain, values), strict=True)) for values in table["data"]
    ]


def _plain(value: Any) -> Any:
    match value:
        case ["map", list(pairs)]:
            return {_plain(key): _plain(each) for key, each in pairs}
        case ["set", list(values)]:
            return tuple(_plain(each) for each in values)
        case ["uuid", str(text)]:
            return text
        case _:
            return value


def _missing(program: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{program} is not installed on the host",
        reason="SWITCH_MISSING",
        fix="install openvswitch-switch and ovn-host there",
        metadata={"program": program},
    )


def _unavailable(act: str, problem: str) -> Unavailable:
    return Unavailable(
        f"the host's switch did not {act}: {problem}",
        reason="SWITCH_UNAVAILABLE",
        fix="look at ovs-vswitchd and ovsdb-server on the host",
        metadata={"act": act, "problem": problem},
        retry_after_s=1.0,
    )

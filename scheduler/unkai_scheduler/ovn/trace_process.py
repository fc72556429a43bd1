"""The real tracer: `ovn-trace` and `ovsdb-client`, one process a question, each with a deadline.

`ovn-trace` reads the whole southbound database each time, so few run at once and the others wait.
It exits with 0 also when it cannot parse a packet; a first line that begins with `#` says that it
could. ovn-trace(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.trace import Binding, Sight, Tracking, silent

MAX_PROCESSES = 2
DEADLINE_S = 8.0
_MAX_OUTPUT_BYTES = 1 << 20
_MAX_TRACKED = 12
"""States of connection tracking that are given: more than a path can ask for."""
_DATABASE = "OVN_Southbound"
_QUEUE_S = 10.0


class OvnTracer:
    """See `trace.Tracer`."""

    def __init__(self, settings: OvnSettings, *, deadline_s: float = DEADLINE_S) -> None:
        self._settings = settings
        self._deadline_s = deadline_s
        self._turns = asyncio.Semaphore(MAX_PROCESSES)

    async def trace(self, flow: str, tracking: Tracking) -> str:
        """See the port."""
        output, complaint = await self._run(
            "ovn-trace",
            *(self._database(), "--no-leader-only", "--no-friendly-names", "--detailed"),
            *[f"--ct={tracking.value}"] * _MAX_TRACKED,
            flow,
        )
        if not output.startswith("#"):
            raise silent(_first_line(output) or _first_line(complaint) or "ovn-trace says nothing")
        return output

    async def look(self, ports: Sequence[str]) -> Sight:
        """See the port."""
        selects = [
            _select("Chassis", [], "_uuid", "name"),
            *(_select("Port_Binding", [["logical_port", "==", p]], *_BINDING) for p in ports),
            *(_select("Service_Monitor", [["logical_port", "==", p]], *_MONITOR) for p in ports),
        ]
        query = json.dumps([_DATABASE, *selects])
        output, complaint = await self._run(
            "ovsdb-client", "--no-leader-only", "query", self._remotes(), query
        )
        try:
            chassis, *others = [answer["rows"] for answer in json.loads(output)]
        except (ValueError, KeyError, TypeError) as error:
            raise silent(_first_line(complaint) or "its answer cannot be read") from error
        names = {row["_uuid"][1]: row["name"] for row in chassis}
        bound = [row for rows in others[: len(ports)] for row in rows]
        checked = [row for rows in others[len(ports) :] for row in rows]
        return Sight(
            {row["logical_port"]: _binding(row, names) for row in bound},
            {(row["ip"], row["port"]): _optional(row["status"]) for row in checked},
        )

    def _remotes(self) -> str:
        return ",".join(self._settings.remotes)

    def _database(self) -> str:
        return f"--db={self._remotes()}"

    def _credentials(self) -> list[str]:
        given = {
            "--private-key": self._settings.key,
            "--certificate": self._settings.certificate,
            "--ca-cert": self._settings.authority,
        }
        return [f"{option}={path}" for option, path in given.items() if path]

    async def _run(self, program: str, *words: str) -> tuple[str, str]:
        """Return what a program printed, and what it complained of."""
        try:
            async with asyncio.timeout(_QUEUE_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise silent("too many questions are being answered") from error
        try:
            async with asyncio.timeout(self._deadline_s):
                return await _communicate(program, *self._credentials(), *words)
        except TimeoutError as error:
            raise silent(f"{program} did not end in {self._deadline_s:g} s") from error
        except OSError as error:
            raise silent(f"{program} cannot be started: {error.strerror}") from error
        finally:
            self._turns.release()


_BINDING = ("_uuid", "logical_port", "chassis", "up")
_MONITOR = ("ip", "port", "status")


async def _communicate(program: str, *words: str) -> tuple[str, str]:
    """Run a program to its end; it is ended with us."""
    process = await asyncio.create_subprocess_exec(
        program,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        output, complaint = await asyncio.gather(_read(process.stdout), _read(process.stderr))
        await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return output, complaint


async def _read(stream: asyncio.StreamReader) -> str:
    """Return what a process prints, as far as it is not too much; the rest is passed over."""
    read = bytearray()
    while piece := await stream.read(65536):
        read += piece[: _MAX_OUTPUT_BYTES - len(read)]
    return read.decode("utf-8", "replace")


def _select(table: str, where: list[list[str]], *columns: str) -> dict[str, Any]:
    return {"op": "select", "table": table, "where": where, "columns": list(columns)}


def _binding(row: dict[str, Any], names: dict[str, str]) -> Binding:
    kind, value = row["chassis"]
    return Binding(
        host=names.get(value, "") if kind == "uuid" else "",
        up=row["up"] is True,
        cookie=int(row["_uuid"][1][:8], 16),
    )


def _optional(value: Any) -> str:
    """Return a text; an empty one where the database has an empty set."""
    return value if isinstance(value, str) else ""


def _first_line(text: str) -> str:
    return next((line.strip()[:300] for line in text.splitlines() if line.strip()), "")

"""A whole OVN without hosts: both databases and ovn-northd, each a real process.

Hosts are rows: `chassis` makes one, `bind` says which has a port, as its ovn-controller would.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from tests.support.ovn import PATIENCE_S, OvsdbServer, program
from unkai_scheduler.ovn.northbound.units import keys_of, unit_of_key
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.rows import Outcome, Unit
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_wire.errors import Unavailable


class Central:
    """Databases and northd in a folder."""

    def __init__(self, folder: Path) -> None:
        program("ovn-northd")
        program("ovn-trace")
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] | None = None
        self._hosts = 0
        self._north = OvsdbServer(folder)
        self.northbound = self._north.remote
        self.southbound = f"unix:{folder / 'sb.sock'}"

    def start(self) -> None:
        """Start it and wait until the southbound database follows the northbound one."""
        self._log = (self._folder / "central.log").open("ab")
        self._north.start()
        schema = program("ovn-nbctl").parents[1] / "share" / "ovn" / "ovn-sb.ovsschema"
        database = self._folder / "sb.db"
        subprocess.run([program("ovsdb-tool"), "create", database, schema], check=True, timeout=60)
        self._spawn(
            "ovsdb-server",
            *(str(database), "--no-chdir", f"--remote=p{self.southbound}"),
            f"--unixctl={self._folder / 'sb.ctl'}",
        )
        self._await(self._folder / "sb.sock")
        self.sbctl("init")
        self._spawn(
            "ovn-northd",
            f"--ovnnb-db=unix:{self._north.socket}",
            f"--ovnsb-db={self.southbound}",
            f"--unixctl={self._folder / 'northd.ctl'}",
        )
        self.sync()

    def stop(self) -> None:
        """End all of it."""
        for process in reversed(self._processes):
            process.kill()
            process.wait(PATIENCE_S)
        self._north.stop()
        if self._log:
            self._log.close()

    def sync(self) -> None:
        """Wait until northd has brought every change into the southbound database."""
        self.nbctl("--wait=sb", "sync")

    def nbctl(self, *words: str) -> str:
        """Run ovn-nbctl."""
        return self._run("ovn-nbctl", f"--db=unix:{self._north.socket}", *words)

    def sbctl(self, *words: str) -> str:
        """Run ovn-sbctl."""
        return self._run("ovn-sbctl", f"--db={self.southbound}", *words)

    def chassis(self, names: Iterable[str]) -> None:
        """Let there be hosts."""
        words: list[str] = []
        for name in names:
            self._hosts += 1
            address = f"203.0.{self._hosts // 250}.{self._hosts % 250 + 1}"
            words += ["--", "chassis-add", name, "geneve", address]
        self.sbctl(*words[1:])

    def bind(self, ports: Mapping[str, str]) -> None:
        """Let hosts have ports, by name."""
        words = [w for port, name in ports.items() for w in ("--", "lsp-bind", port, name)]
        if words:
            self.sbctl(*words[1:])

    async def apply(self, views: Iterable[View]) -> None:
        """Write all units of some clouds, as the product does."""
        units = [unit_of_key(view, key) for view in views for key in keys_of(view)]
        await self.write({unit.key: unit for unit in units}.values())

    async def write(self, units: Iterable[Unit]) -> None:
        """Write units."""
        await write_units(self.northbound, units)
        await asyncio.to_thread(self.sync)

    def _spawn(self, name: str, *words: str) -> None:
        self._processes.append(
            subprocess.Popen(
                [program(name), *words],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        )

    def _await(self, socket: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert time.monotonic() < deadline, f"{socket} does not appear"
            time.sleep(0.02)

    @staticmethod
    def _run(name: str, *words: str) -> str:
        done = subprocess.run(
            [program(name), "--no-leader-only", f"--timeout={PATIENCE_S:.0f}", *words],
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{name} {words}: {done.stderr}"
        return done.stdout


async def write_units(remote: str, units: Iterable[Unit]) -> None:
    """Write units into a northbound database, as the product does; return once all are there."""
    northbound = OvnNorthbound(OvnSettings((remote,)))
    northbound.start()
    waiting = {unit.key: unit for unit in units}
    deadline = time.monotonic() + PATIENCE_S
    try:
        while waiting:
            assert time.monotonic() < deadline, f"not written: {sorted(waiting)[:5]}"
            try:
                outcomes = await northbound.apply(1, list(waiting.values()))
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            waiting = {k: u for k, u in waiting.items() if outcomes.get(k) is not Outcome.DONE}
    finally:
        await northbound.close()

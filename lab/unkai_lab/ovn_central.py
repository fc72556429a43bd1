"""OVN's programs in the control cell: started in order, killed one by one, and started again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unkai_lab.errors import LabError
from unkai_lab.ovn import (
    CENTRAL_PROGRAMS,
    NORTHBOUND,
    NORTHD,
    SCHEMAS,
    SOUTHBOUND,
    OvnDatabase,
    first_transaction,
    northd_command,
    ovn_folder,
    ovn_socket,
    server_command,
)
from unkai_lab.readiness import accepts, wait_until
from unkai_lab.site import Site
from unkai_lab.spec import CONTROL

_START_S = 60.0


class OvnCentral:
    """OVN's programs in the control cell."""

    def __init__(self, site: Site, tell: Callable[[str], None]) -> None:
        self._site = site
        self._paths = site.paths
        self._tell = tell

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        for database in (NORTHBOUND, SOUTHBOUND):
            self._start_database(database)
        self._start(NORTHD, northd_command(self._paths), ovn_folder(self._paths) / f"{NORTHD}.ctl")
        self._tell("OVN's databases and ovn-northd answer")

    def kill(self, program: str, signal_number: int = signal.SIGKILL) -> None:
        """End one of OVN's programs: `ovn-nb`, `ovn-sb`, `ovn-northd`; the data stay."""
        if program not in CENTRAL_PROGRAMS:
            raise LabError(f"{program} is none of {', '.join(CENTRAL_PROGRAMS)}")
        self._site.kill(CONTROL, program, signal_number)

    def ctl(self, database: OvnDatabase, *arguments: str, timeout_s: int = 20) -> str:
        """Run ovn-nbctl or ovn-sbctl as root; return what it printed."""
        program = "ovn-nbctl" if database is NORTHBOUND else "ovn-sbctl"
        way = f"--db=unix:{ovn_socket(self._paths, database)}"
        argv = [program, f"--timeout={timeout_s}", way, *arguments]
        return self._site.run(CONTROL, argv, timeout_s=timeout_s + 5).stdout

    def _start_database(self, database: OvnDatabase) -> None:
        file = ovn_folder(self._paths) / f"{database.program}.db"
        if not file.exists():
            half = file.with_suffix(".new")
            half.unlink(missing_ok=True)
            first = first_transaction(self._site.spec, database)
            schema = str(SCHEMAS / database.schema)
            self._site.run(CONTROL, ["ovsdb-tool", "create", str(half), schema])
            self._site.run(CONTROL, ["ovsdb-tool", "transact", str(half), first])
            half.rename(file)
        socket = ovn_socket(self._paths, database)
        self._start(database.program, server_command(self._paths, database), socket)

    def _start(self, program: str, argv: list[str], socket: Path) -> None:
        process = self._site.start(CONTROL, program, argv)
        wait_until(
            partial(accepts, socket),
            f"{program} listens",
            deadline_s=_START_S,
            process=process,
            log=self._paths.log(CONTROL, program),
        )

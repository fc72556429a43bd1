"""A lab's cells on this machine: making them, entering them, and the programs in them.

This is the layer that acts; what to do in which order is `lab.py`'s. Every act can be repeated.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from unkai_lab import cgroups
from unkai_lab.cells import (
    HOLDER,
    Cell,
    Started,
    clean_environment,
    start_holder,
    start_program,
)
from unkai_lab.configuration import host_mounts
from unkai_lab.errors import LabError
from unkai_lab.journal import Journal, ProcessId, StartedProcess
from unkai_lab.readiness import wait_until
from unkai_lab.spec import FLEET, LabPaths, LabSpec

_KVM = Path("/dev/kvm")


class Site:
    """The cells of one lab."""

    def __init__(self, spec: LabSpec, paths: LabPaths) -> None:
        self.spec = spec
        self.paths = paths
        self.journal = Journal(paths.journal)
        self._hierarchies = cgroups.find_hierarchies()
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def cell(self, name: str) -> Cell:
        """Return a cell of this lab; raise `InvalidArgument` when it has no such."""
        self.spec.address(name)
        groups = cgroups.CellGroups.of(self._hierarchies, self.paths.group, name)
        if name not in self.spec.host_names:
            return Cell(name, groups, host_name=f"{self.spec.name}-{name}")
        return Cell(name, groups, host_mounts(self.paths.cell(name), with_kvm=_KVM.exists()))

    def make_groups(self, name: str) -> None:
        """Make a cell's cgroups, throttled as the spec says; a host's count its disk's bytes."""
        groups = self.cell(name).groups
        cgroups.make_groups(groups, self.journal.will_make_group)
        if name in self.spec.host_names:
            cgroups.throttle(groups, self.spec.cpu_quota_cores, self.spec.memory_limit_bytes)
            disk = cgroups.disk_of(self.paths.folder)
            if disk:
                cgroups.count_disk(groups, disk)

    def boot(self, name: str) -> None:
        """Make a cell's namespaces: it has booted, with a new boot id, and runs nothing yet."""
        (self.paths.cell(name) / "boot-id").write_text(f"{uuid.uuid4()}\n")
        holder = start_holder(self.cell(name), self.paths.log(name, HOLDER))
        self._record(name, HOLDER, holder)

    def holder(self, name: str) -> ProcessId:
        """Return a cell's first process; raise `LabError` while the cell is down."""
        holder = self.running(name, HOLDER)
        if holder is None:
            raise LabError(
                f"{name} is down",
                reason="LAB_CELL_DOWN",
                fix="see 'unkai lab status'; 'unkai lab reboot HOST' starts a host",
            )
        return holder

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Return a command that runs `argv` in a cell; when it is ended, so is `argv`."""
        return self.cell(name).enter(self.holder(name), argv)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of programs in a cell: our commands come first in PATH."""
        environment = clean_environment()
        programs = Path(sys.executable).parent
        environment["PATH"] = f"{programs}:{environment.get('PATH', '/usr/bin:/bin')}:/usr/sbin"
        if name == FLEET:
            environment["UNKAI_AGENT_SOCKET"] = str(self.paths.cell(FLEET) / "agent.sock")
        return environment

    def run(
        self, name: str, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a short program in a cell; raise `LabError` when it fails and `check` is set."""
        return self._finish(name, argv, self.command(name, argv), timeout_s, check=check)

    def run_on_network(self, name: str, argv: Sequence[str]) -> None:
        """Run a short program on a cell's network, where pids are the machine's."""
        command = self.cell(name).enter_network(self.holder(name), argv)
        self._finish(name, argv, command, 30.0, check=True)

    def _finish(
        self,
        name: str,
        argv: Sequence[str],
        command: Sequence[str],
        timeout_s: float,
        *,
        check: bool,
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                env=self.environment(name),
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{argv[0]} in {name} did not end within {timeout_s:g} s") from error
        if check and done.returncode:
            output = (done.stderr or done.stdout).strip()
            raise LabError(f"'{' '.join(argv)}' in {name} failed ({done.returncode}): {output}")
        return done

    def start(
        self, name: str, program: str, argv: Sequence[str], *, is_monitor: bool = False
    ) -> ProcessId:
        """Start a program in the background, unless it runs.

        `is_monitor`: what is started forks the program, and forks it again after a crash.
        """
        running = self.running(name, program)
        if running:
            return running
        command = self.cell(name).enter(self.holder(name), argv, stays=True)
        log = self.paths.log(name, program)
        started = start_program(command, log, self.environment(name))
        if started is None:
            raise LabError.of_log(f"{program} in {name} ended at once", log)
        return self._record(name, program, started, is_monitor=is_monitor)

    def running(self, name: str, program: str) -> ProcessId | None:
        """Return the process that was started as the program, None when it does not run.

        A monitor's child, which does the work, is `worker`'s.
        """
        started = self.journal.newest(name, program)
        return started.process if started and started.process.is_alive() else None

    def worker(self, name: str, program: str) -> ProcessId | None:
        """Return the process that does the program's work, None when none does."""
        started = self.journal.newest(name, program)
        return started.worker() if started else None

    def kill(self, name: str, program: str, signal_number: int = signal.SIGKILL) -> None:
        """Signal a program and wait for its end; nothing is done when it does not run.

        A monitor ends with it, whatever the signal: nothing starts the program again.
        """
        started = self.journal.newest(name, program)
        if started is None or not started.process.is_alive():
            return
        if started.is_monitor:
            started.process.kill(signal.SIGSTOP)  # so that no other child comes meanwhile
        worker = started.worker()
        if worker is not None:
            worker.kill(signal_number)
        if started.is_monitor:
            started.process.kill(signal.SIGKILL)
        wait_until(
            lambda: not (started.process.is_alive() or (worker and worker.is_alive())),
            f"{program} in {name} ends after {signal.Signals(signal_number).name}",
            deadline_s=20.0,
            log=self.paths.log(name, program),
        )
        self.reap()

    def kill_cell(self, name: str) -> None:
        """End everything in a cell at once, as pulling the plug does."""
        cgroups.kill_all(self.cell(name).groups.folders())
        # The first process leaves its groups before it has waited for all others of its cell.
        first = self.journal.newest(name, HOLDER)
        if first is not None:
            wait_until(lambda: not first.process.is_alive(), f"{name} is down")
        self.reap()

    def pids(self, name: str) -> list[int]:
        """Return the processes of a cell."""
        return cgroups.pids(self.cell(name).groups.unified)

    def reap(self) -> None:
        """Take notice of children that ended, so that none stays a zombie."""
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]

    def _record(
        self, name: str, program: str, started: Started, *, is_monitor: bool = False
    ) -> ProcessId:
        with self._lock:
            self._children.append(started.waiter)
        self.journal.started(StartedProcess(name, program, started.process, is_monitor))
        return started.process


def installed(program: str) -> str:
    """Return the path of one of our commands, beside the running interpreter.

    Raise `LabError` when it is not installed there.
    """
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise LabError(
            f"the command {program} is not installed beside {sys.executable}",
            fix="install the extra 'lab'",
        )
    return str(path)

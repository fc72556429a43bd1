"""What the lab makes outside its folder, written down before it is made.

One JSON object a line, appended in one write: a process killed at any instruction leaves whole
lines and at most one torn one, which stands for something not yet made. `down` undoes
what it finds here. A pid alone may have been given to another program since, so a process is
recorded with its start time (`/proc/PID/stat`, field 22), and only that pair is ever signalled.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: its pid, and when it started in clock ticks since boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a live process, None when there is none."""
        ticks = _start_ticks(pid)
        return None if ticks is None else cls(pid, ticks)

    def is_alive(self) -> bool:
        """Say whether exactly this process runs; a zombie does not."""
        return _start_ticks(self.pid) == self.start_ticks

    def children(self) -> list[ProcessId]:
        """Return its children of now (proc_pid_task_children(5)); those of other threads not."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return []
        found = [ProcessId.of(int(pid)) for pid in text.split()]
        return [child for child in found if child is not None] if self.is_alive() else []

    def kill(self, signal_number: int) -> bool:
        """Signal exactly this process; False when it is gone.

        The pidfd is opened before the start time is compared, so the signal cannot reach a
        process that got the pid in between.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(descriptor, signal_number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A program the lab started in a cell."""

    cell: str
    program: str
    process: ProcessId
    is_monitor: bool = False
    """Its child is the program; it starts another when that one crashes."""

    def worker(self) -> ProcessId | None:
        """Return the process that is the program, None when there is none."""
        if not self.is_monitor:
            return self.process if self.process.is_alive() else None
        return next(iter(self.process.children()), None)


class Journal:
    """Append-only list of what was made; safe for threads, one process at a time writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def will_make_group(self, path: Path) -> None:
        """Record a cgroup about to be made."""
        self._append({"kind": "cgroup", "path": str(path)})

    def started(self, process: StartedProcess) -> None:
        """Record a program; until then it is found by the cgroup it was started in."""
        self._append(
            {
                "kind": "process",
                "cell": process.cell,
                "program": process.program,
                "pid": process.process.pid,
                "start_ticks": process.process.start_ticks,
                "is_monitor": process.is_monitor,
            }
        )

    def groups(self) -> list[Path]:
        """Return every recorded cgroup, oldest first."""
        return [Path(e["path"]) for e in self._entries() if e["kind"] == "cgroup"]

    def processes(self) -> list[StartedProcess]:
        """Return every recorded program, oldest first; most of them may be gone."""
        return [
            StartedProcess(
                e["cell"],
                e["program"],
                ProcessId(e["pid"], e["start_ticks"]),
                e.get("is_monitor", False),
            )
            for e in self._entries()
            if e["kind"] == "process"
        ]

    def newest(self, cell: str, program: str) -> StartedProcess | None:
        """Return the newest start of a program, None when it was never started."""
        for started in reversed(self.processes()):
            if (started.cell, started.program) == (cell, program):
                return started
        return None

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        with self._lock, self._path.open("a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    """Read a line; None for a torn or empty one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold spaces and brackets: fields are counted from its last bracket.
    fields = text.rpartition(")")[2].split()
    # A thread that is still in the kernel, on a busy disk, keeps the process's sockets open.
    is_over = fields[0] in ("Z", "X") and int(fields[17]) <= 1
    return None if is_over else int(fields[19])

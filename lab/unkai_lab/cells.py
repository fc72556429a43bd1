"""Cells: namespaces kept by one sleeping process, and programs started in them.

A cell's first process makes its namespaces and private mounts and then sleeps; nothing is pinned
by a bind mount, so when the last process of a cell ends, its network, its mounts and its name are
gone, whatever killed them. Programs enter by `nsenter`, after joining the cell's cgroups.

That process is number 1 of the cell's process ids, and takes in what its parent left, as on any
host: a QEMU that ends is gone at once. The machine's own number 1 may take its time, and libvirt
waits for the pid of a dead QEMU to vanish. The trap: entering process ids takes a fork, so the
child of `nsenter` is the program, and it is that one's pid, as seen from outside, that counts.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unkai_lab.cgroups import CellGroups
from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId

HOLDER = "holder"
"""Name of a cell's first process in the journal."""
_READY = "ready"
_HOLDER_DEADLINE_S = 15.0
# $1 is the number of groups, then the groups, then the program with its arguments.
_JOIN = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1/cgroup.procs"; shift; n=$((n-1)); done; exec "$@"'  # noqa: E501 - one line of shell
_NAMESPACES = ("--net", "--mount", "--uts", "--pid", "--ipc")
_PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class PrivateMount:
    """A path that the cell sees differently from the machine."""

    target: str
    source: str = ""
    """What is bound over it; empty: an empty tmpfs."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's static side: its name, its groups and what it sees."""

    name: str
    groups: CellGroups
    mounts: tuple[PrivateMount, ...] = ()
    host_name: str = ""

    def holder_script(self) -> str:
        """Return the shell text that the first process runs in the new namespaces."""
        # The shell's number as seen from outside: /proc is still the machine's.
        lines = ["set -eu", "read -r outside _ </proc/self/stat", "mount --make-rprivate /"]
        lines.append("mount -t proc -o nosuid,nodev,noexec proc /proc")
        for mount in self.mounts:
            target, source = shlex.quote(mount.target), shlex.quote(mount.source)
            lines.append(
                f"mount --bind {source} {target}"
                if mount.source
                else f"mount -t tmpfs -o mode=755,nosuid,nodev tmpfs {target}"
            )
        if any(mount.target == "/run" for mount in self.mounts):
            lines.append("mkdir -m 1777 /run/lock")
        lines += [
            f"hostname {shlex.quote(self.host_name or self.name)}",
            "ip link set lo up",
            f'echo "{_READY} $outside"',
            # With CHLD ignored the kernel itself reaps what this process takes in (wait(2)). The
            # pipe must close, or the maker's end would wait for ever.
            "exec env --ignore-signal=CHLD sleep infinity >/dev/null",
        ]
        return "\n".join(lines)

    def join(self, argv: Sequence[str]) -> list[str]:
        """Return a command that joins the cell's groups and then becomes `argv`."""
        folders = [str(folder) for folder in self.groups.folders()]
        return ["/bin/sh", "-euc", _JOIN, "unkai-lab", str(len(folders)), *folders, *argv]

    def enter(self, holder: ProcessId, argv: Sequence[str], *, stays: bool = False) -> list[str]:
        """Return a command that joins groups and namespaces and runs `argv` as its child.

        The child ends with the command, unless it `stays`.
        """
        end = [] if stays else ["setpriv", "--pdeathsig", "KILL", "--"]
        return self._enter(holder, _NAMESPACES, [*end, *argv])

    def enter_network(self, holder: ProcessId, argv: Sequence[str]) -> list[str]:
        """Return a command that becomes `argv` on the cell's network alone.

        Pids and files are ours there, so that other cells can be named by them.
        """
        return self._enter(holder, ("--net",), argv)

    def _enter(
        self, holder: ProcessId, namespaces: Sequence[str], argv: Sequence[str]
    ) -> list[str]:
        if not holder.is_alive():
            raise LabError(
                f"cell {self.name} is not up",
                reason="LAB_CELL_DOWN",
                fix="see 'unkai lab status'",
            )
        return self.join(["nsenter", "--target", str(holder.pid), *namespaces, "--", *argv])


@dataclass(frozen=True, slots=True)
class Started:
    """A program in a cell, and the process of ours that waits for it outside."""

    process: ProcessId
    waiter: subprocess.Popen[bytes]


def start_holder(cell: Cell, log: Path, deadline_s: float = _HOLDER_DEADLINE_S) -> Started:
    """Make the cell's namespaces; return their first process once all is in place."""
    make = ["unshare", *_NAMESPACES, "--fork", "--kill-child"]
    with log.open("ab") as log_file:
        waiter = subprocess.Popen(
            cell.join([*make, "/bin/sh", "-c", cell.holder_script()]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
            env=clean_environment(),
        )
    assert waiter.stdout is not None
    with waiter.stdout as pipe:
        word, _, number = _first_line(pipe, deadline_s).decode().partition(" ")
    process = ProcessId.of(int(number)) if word == _READY else None
    if process is None:
        waiter.kill()
        waiter.wait()
        raise LabError.of_log(f"the namespaces of {cell.name} could not be made", log)
    return Started(process, waiter)


def start_program(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Started | None:
    """Start a command made by `Cell.enter` in the background, its output going to a log.

    Returns None when the program ended at once.
    """
    with log.open("ab") as log_file:
        waiter = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
            cwd="/",
        )
    children = Path(f"/proc/{waiter.pid}/task/{waiter.pid}/children")
    while waiter.poll() is None:
        # proc_pid_task(5); the waiter has this one child in all its life.
        for child in children.read_text().split():
            if process := ProcessId.of(int(child)):
                return Started(process, waiter)
        time.sleep(_PAUSE_S)
    return None


def clean_environment() -> dict[str, str]:
    """Return the caller's environment without settings meant for another cloud or program."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UNKAI_", "LIBVIRT_", "VIRSH_", "ETCD", "GRPC_"))
    }


def _first_line(pipe: IO[bytes], deadline_s: float) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return os.read(pipe.fileno(), 64) if selector.select(deadline_s) else b""

"""Cells: namespaces kept by one sleeping process, and programs started in them.

A cell's first process makes its namespaces and private mounts and then sleeps; nothing is pinned
by a bind mount, so when the last process of a cell ends, its network, its mounts and its name are
gone, whatever killed them. Programs enter by `nsenter`, after joining the cell's cgroups.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unkai_lab.cgroups import CellGroups
from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId

HOLDER = "holder"
"""Name of a cell's first process in the journal."""
_READY = b"ready\n"
_HOLDER_DEADLINE_S = 15.0
# $1 is the number of groups, then the groups, then the program with its arguments.
_JOIN = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1/cgroup.procs"; shift; n=$((n-1)); done; exec "$@"'  # noqa: E501 - one line of shell
_NAMESPACES = ("--net", "--mount", "--uts")


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
        lines = ["set -eu", "mount --make-rprivate /"]
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
            f"echo {_READY.decode().strip()}",
            # The pipe must close, or the maker's end would wait for ever.
            "exec sleep infinity >/dev/null",
        ]
        return "\n".join(lines)

    def join(self, argv: Sequence[str]) -> list[str]:
        """Return a command that joins the cell's groups and then becomes `argv`."""
        folders = [str(folder) for folder in self.groups.folders()]
        return ["/bin/sh", "-euc", _JOIN, "unkai-lab", str(len(folders)), *folders, *argv]

    def enter(self, holder: ProcessId, argv: Sequence[str]) -> list[str]:
        """Return a command that joins groups and namespaces and then becomes `argv`."""
        if not holder.is_alive():
            raise LabError(
                f"cell {self.name} is not up",
                reason="LAB_CELL_DOWN",
                fix="see 'unkai lab status'",
            )
        return self.join(["nsenter", "--target", str(holder.pid), *_NAMESPACES, "--", *argv])


def start_holder(
    cell: Cell, log: Path, deadline_s: float = _HOLDER_DEADLINE_S
) -> subprocess.Popen[bytes]:
    """Make the cell's namespaces; return their first process once all is in place."""
    with log.open("ab") as log_file:
        holder = subprocess.Popen(
            cell.join(["unshare", *_NAMESPACES, "/bin/sh", "-c", cell.holder_script()]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
            env=clean_environment(),
        )
    assert holder.stdout is not None
    with holder.stdout as pipe:
        if _first_line(pipe, deadline_s) != _READY:
            holder.kill()
            holder.wait()
            raise LabError.of_log(f"the namespaces of {cell.name} could not be made", log)
    return holder


def start_program(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a command in the background, its output going to a log."""
    with log.open("ab") as log_file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
            cwd="/",
        )


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

"""Control groups: which processes belong to a cell, what they use, and how they are ended.

A cell has one group in the cgroup2 hierarchy, and one in each of the v1 hierarchies memory, blkio,
cpu and cpuacct where the machine mounts them (a hybrid machine keeps its controllers there). All
of a cell's processes are born in them and cannot leave, QEMUs too, because libvirt is told to keep
its hands off cgroups. So a cell's processes are exactly its group's, also after a crash.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId

PARENT = "unkai-lab"
V1_CONTROLLERS = ("memory", "blkio", "cpu", "cpuacct")
_V2_CONTROLLERS = ("cpu", "memory", "io")
_QUOTA_PERIOD_US = 100_000
_BEYOND_REACH_BPS = 1_000_000_000_000
_KILL_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the machine's cgroup hierarchies are mounted."""

    unified: Path
    """cgroup2, with or without controllers."""
    v1: tuple[tuple[str, Path], ...] = ()
    """Controller and mount point of each v1 hierarchy the lab uses."""

    def roots(self) -> list[Path]:
        """Return the distinct mount points, cgroup2 first."""
        return list(dict.fromkeys([self.unified, *(path for _, path in self.v1)]))


@dataclass(frozen=True, slots=True)
class CellGroups:
    """The groups of one cell."""

    unified: Path
    v1: tuple[tuple[str, Path], ...] = ()

    @classmethod
    def of(cls, hierarchies: Hierarchies, lab_group: str, cell: str) -> CellGroups:
        """Return the paths; makes nothing."""
        below = Path(PARENT) / lab_group / cell
        return cls(
            hierarchies.unified / below,
            tuple((controller, root / below) for controller, root in hierarchies.v1),
        )

    def folders(self) -> list[Path]:
        """Return the distinct folders, cgroup2 first."""
        return list(dict.fromkeys([self.unified, *(path for _, path in self.v1)]))

    def controller(self, name: str) -> Path | None:
        """Return the folder of a v1 controller, None where the machine has it in cgroup2."""
        return dict(self.v1).get(name)


def parse_mounts(mountinfo: str) -> Hierarchies:
    """Read `/proc/self/mountinfo` (proc_pid_mountinfo(5)); raise `LabError` without cgroup2."""
    unified: Path | None = None
    v1: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind == "cgroup2" and unified is None:
            unified = Path(fields[4])
        elif kind == "cgroup":
            for controller in set(options.split(",")).intersection(V1_CONTROLLERS):
                v1.setdefault(controller, Path(fields[4]))
    if unified is None:
        raise LabError(
            "this machine has no cgroup2 hierarchy mounted",
            fix="mount one: 'mount -t cgroup2 none /sys/fs/cgroup/unified'",
        )
    return Hierarchies(unified, tuple((c, v1[c]) for c in V1_CONTROLLERS if c in v1))


def find_hierarchies() -> Hierarchies:
    """Return this machine's hierarchies."""
    return parse_mounts(Path("/proc/self/mountinfo").read_text())


def make_groups(groups: CellGroups, will_make: Callable[[Path], None]) -> None:
    """Make a cell's groups; `will_make` is told of each first."""
    for folder in groups.folders():
        will_make(folder)
        _make(folder)
    _delegate(groups.unified)


def throttle(groups: CellGroups, cpu_cores: float, memory_bytes: int) -> None:
    """Limit what a cell may take; 0 leaves a resource unlimited."""
    cpu, memory = groups.controller("cpu"), groups.controller("memory")
    quota_us = int(cpu_cores * _QUOTA_PERIOD_US)
    if quota_us and cpu:
        (cpu / "cpu.cfs_period_us").write_text(str(_QUOTA_PERIOD_US))
        (cpu / "cpu.cfs_quota_us").write_text(str(quota_us))
    elif quota_us:
        (groups.unified / "cpu.max").write_text(f"{quota_us} {_QUOTA_PERIOD_US}")
    if memory_bytes and memory:
        (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
    elif memory_bytes:
        (groups.unified / "memory.max").write_text(str(memory_bytes))


def count_disk(groups: CellGroups, disk: str) -> None:
    """Have a cell's bytes on a disk (`MAJ:MIN`) counted, by a limit beyond reach.

    v1 blkio counts nothing of a group that has no limit on the device (seen on Linux 6.18).
    """
    blkio = groups.controller("blkio")
    if blkio:
        for way in ("read", "write"):
            file = blkio / f"blkio.throttle.{way}_bps_device"
            file.write_text(f"{disk} {_BEYOND_REACH_BPS}\n")


def disk_of(folder: Path, sys_dev: Path = Path("/sys/dev/block")) -> str | None:
    """Return the whole disk, `MAJ:MIN`, that a folder lies on; None when it is on none."""
    device = folder.stat().st_dev
    here = sys_dev / f"{os.major(device)}:{os.minor(device)}"
    if not here.exists():
        return None
    # A partition's folder lies in that of its disk (Documentation/ABI/stable/sysfs-block).
    whole = here.resolve()
    whole = whole.parent if (whole / "partition").exists() else whole
    return (whole / "dev").read_text().strip()


def pids(folder: Path) -> list[int]:
    """Return the processes of a group and the groups below it."""
    found: list[int] = []
    for path in _tree(folder):
        try:
            text = (path / "cgroup.procs").read_text()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            continue
        found += [int(line) for line in text.split()]
    # 0 stands for a process outside the reader's pid namespace.
    return sorted({pid for pid in found if pid > 0})


def kill_all(folders: Sequence[Path], deadline_s: float = _KILL_DEADLINE_S) -> None:
    """End every process of these groups, whatever it forks meanwhile; raise when some stay."""
    end = time.monotonic() + deadline_s
    while True:
        alive = {pid: folder for folder in folders for pid in pids(folder)}
        if not alive:
            return
        if time.monotonic() > end:
            raise LabError(
                f"processes {', '.join(map(str, sorted(alive)))} do not end after SIGKILL",
                fix="see what they wait for in /proc/PID/stack",
            )
        for folder in folders:
            _kill_once(folder)
        time.sleep(0.01)


def remove(folders: Sequence[Path], deadline_s: float = 5.0) -> None:
    """Remove empty groups with all below them, and the parents that are empty then."""
    end = time.monotonic() + deadline_s
    for folder in folders:
        for path in reversed(_tree(folder)):
            _remove_one(path, end)
        # The lab's own group and the one above all labs: others may still be in them.
        for parent in (folder.parent, folder.parent.parent):
            if PARENT not in parent.parts:
                break
            try:
                parent.rmdir()
            except OSError:
                break


def _make(folder: Path) -> None:
    """Make a group and its parents, while another lab's `down` may be removing the parents."""
    for _ in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            continue
        return
    raise LabError(f"the control group {folder} cannot be made")


def _delegate(unified: Path) -> None:
    """Turn on the cgroup2 controllers down to a cell, where cgroup2 has them."""
    root = next(p.parent for p in unified.parents if p.name == PARENT)
    available = (root / "cgroup.controllers").read_text().split()
    wanted = [name for name in _V2_CONTROLLERS if name in available]
    if not wanted:
        return
    for folder in (root, root / PARENT, unified.parent):
        control = folder / "cgroup.subtree_control"
        missing = set(wanted) - set(control.read_text().split())
        if missing:
            control.write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _tree(folder: Path) -> list[Path]:
    """Return a group and all groups below it, parents first."""
    return [Path(path) for path, _, _ in os.walk(folder)]


def _kill_once(folder: Path) -> None:
    killer = folder / "cgroup.kill"
    if killer.exists():
        killer.write_text("1")
        return
    for pid in pids(folder):
        process = ProcessId.of(pid)
        if process and pid in pids(folder):
            process.kill(signal.SIGKILL)


def _remove_one(folder: Path, end: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # A process just killed leaves its group a moment after it leaves the list.
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise LabError(f"the control group {folder} cannot be removed: {error}") from error
            time.sleep(0.01)
        else:
            return

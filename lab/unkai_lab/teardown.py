"""Taking a lab down from what the kernel and the journal say, whatever state it is in.

A cell's processes are its cgroups'; its namespaces, mounts and network interfaces end with them.
So `down` needs no cooperation of any program, works on half a lab as on a whole one, and can be
repeated after it was killed itself: the folder with the journal goes last.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import nullcontext, suppress
from pathlib import Path

from unkai_lab import cgroups
from unkai_lab.errors import LabError
from unkai_lab.journal import Journal
from unkai_lab.lock import hold
from unkai_lab.readiness import wait_until
from unkai_lab.spec import DEFAULT_ROOT, LabPaths


def take_down(paths: LabPaths, *, is_held: bool = False) -> bool:
    """Remove all of a lab; False when there was nothing. `is_held`: the caller has the lock."""
    existed = paths.folder.exists()
    try:
        with nullcontext() if is_held or not existed else hold(paths.folder):
            _end_processes(paths)
            groups = _groups(paths)
            existed = existed or any(folder.exists() for folder in groups)
            cgroups.remove(groups)
            _remove_folder(paths.folder)
    except FileNotFoundError:
        # Another `down` was quicker.
        return False
    left = leftovers(paths)
    if left:
        raise LabError("the lab left something behind: " + "; ".join(left))
    return existed


def leftovers(paths: LabPaths) -> list[str]:
    """Say what of a lab is there: processes, cgroups, mounts, files; empty when nothing is."""
    groups = [folder for folder in _groups(paths) if folder.exists()]
    processes = {pid for folder in groups for pid in cgroups.pids(folder)} | _strays(paths)
    found = [f"folder {paths.folder}"] if paths.folder.exists() else []
    found += [f"cgroup {folder}" for folder in groups]
    found += [f"process {pid}" for pid in sorted(processes)]
    found += [f"mount {mount}" for mount in _mounts_below(paths.folder)]
    return found


def _strays(paths: LabPaths) -> set[int]:
    """Find processes by the lab's name in their cgroups and by its folder in their mounts."""
    needles = (f"/{paths.group}", f" {paths.folder}/")
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (process / "cgroup").read_text() + (process / "mountinfo").read_text()
            if any(needle in text for needle in needles):
                found.add(int(process.name))
    return found


def _end_processes(paths: LabPaths) -> None:
    cgroups.kill_all(_groups(paths))
    # A program that left its cgroup is still known by pid and start time.
    escaped = [s.process for s in Journal(paths.journal).processes() if s.process.is_alive()]
    for process in escaped:
        process.kill(signal.SIGKILL)
    wait_until(
        lambda: not any(process.is_alive() for process in escaped),
        "all programs of the lab end after SIGKILL",
    )


def _groups(paths: LabPaths) -> list[Path]:
    """Return the lab's group in each hierarchy, and what the journal says beside them.

    The first kind finds all even when the journal is lost.
    """
    roots = cgroups.find_hierarchies().roots()
    named = [root / cgroups.PARENT / paths.group for root in roots]
    return list(dict.fromkeys([*named, *Journal(paths.journal).groups()]))


def _remove_folder(folder: Path) -> None:
    for mount in _mounts_below(folder):
        subprocess.run(["umount", "--lazy", mount], check=True, timeout=10)
    if folder.exists():
        shutil.rmtree(folder)
    if folder.parent == DEFAULT_ROOT:
        with suppress(OSError):
            folder.parent.rmdir()


def _mounts_below(folder: Path) -> list[str]:
    """Return mount points in or below a folder in our own mount namespace, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((p for p in points if Path(p).is_relative_to(folder)), reverse=True)

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
    found = [f"folder {paths.folder}"] if paths.folder.exists() else []
    for folder in _groups(paths):
        found += [f"cgroup {folder}"] if folder.exists() else []
        found += [f"process {pid} in {folder}" for pid in cgroups.pids(folder)]
    found += [f"mount {mount}" for mount in _mounts_below(paths.folder)]
    needle = f"/{paths.group}/"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cgroup").read_text() + (process / "mountinfo").read_text()
        except OSError:
            continue
        if needle in text or f" {paths.folder}/" in text:
            found.append(f"process {process.name} with the lab's cgroup or mounts")
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

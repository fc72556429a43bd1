"""Faults dealt to programs from outside: halted, kept from the processors, disks full or broken.

The network's faults are in `proxy.py` and `partitions.py`, those at a chosen point of a program's
work in `trapped.py` (a process) and `tripwire.py` (in one process), a wrong clock in `clocks.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unkai_lab.lab import Lab


@contextmanager
def halted(pid: int) -> Iterator[None]:
    """Stop a process with SIGSTOP, as a machine that swaps or a hypervisor that pauses it does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        _wait_state(pid, stopped=True)
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


@contextmanager
def hung_libvirt(lab: Lab, host: str) -> Iterator[None]:
    """Let a host's libvirtd answer nothing while its sockets stay open; its guests run on."""
    process = lab.site.running(host, "libvirtd")
    assert process is not None, f"libvirtd of {host} does not run"
    with halted(process.pid):
        yield


@contextmanager
def busy_processors(programs: int = 6) -> Iterator[None]:
    """Let programs compute without end, so that threads are cut where they seldom are."""
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(programs)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait(timeout=10)


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped (proc_pid_stat(5), state T)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] == "T"


def _wait_state(pid: int, *, stopped: bool) -> None:
    end = time.monotonic() + 5
    while is_stopped(pid) is not stopped:
        if not Path(f"/proc/{pid}").exists() or time.monotonic() > end:
            raise AssertionError(f"process {pid} is not stopped")
        time.sleep(0.005)


@contextmanager
def small_disk(folder: Path, size_bytes: int, *, inodes: int = 0) -> Iterator[Path]:
    """Mount a small disk on a folder; needs root. `inodes`: how many files it holds; 0: many."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=0755" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, timeout=10
    )
    try:
        yield folder
    finally:
        # Lazy: a program under test may still have a file open there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


def fill(folder: Path, *, leave_bytes: int = 0) -> Path:
    """Fill the disk below a folder up to what shall be left; return the file that fills it."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    wanted = room.f_bavail * room.f_frsize - leave_bytes
    with ballast.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(wanted, 1))
        except OSError:
            ballast.unlink()
            raise
    return ballast


def unreadable(disk: Path, *, first_sector: int = 0) -> str:
    """Return a name of a disk image for QEMU under which reading its sector fails with EIO.

    The block layer that fails is QEMU's own for tests, blkdebug (docs/devel/blkdebug.txt).
    """
    rules = disk.with_name(disk.name + ".blkdebug")
    lines = ["[inject-error]", 'event = "read_aio"', 'errno = "5"', 'immediately = "on"']
    lines += [f'sector = "{first_sector}"'] if first_sector else []
    rules.write_text("\n".join(lines) + "\n")
    return f"blkdebug:{rules}:{disk}"

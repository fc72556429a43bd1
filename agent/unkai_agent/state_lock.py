"""One agent to a state folder: a second would sweep what the first is making.

The lock is the kernel's, on the folder itself: it takes no room on a full disk, and ends with the
process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unkai_wire.errors import FailedPrecondition

_WAIT_S = 5.0
"""A predecessor that was killed may take a moment to be gone."""
_POLL_S = 0.1


@contextmanager
def only_agent_of(folder: Path, *, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold the folder while the context lasts; `FailedPrecondition` / STATE_IN_USE if one does."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end_s = time.monotonic() + wait_s
        while not _taken(lock):
            if time.monotonic() >= end_s:
                raise FailedPrecondition(
                    f"another agent uses {folder}",
                    reason="STATE_IN_USE",
                    fix="stop it first ('systemctl stop unkai-agent'), or set another state_dir",
                    metadata={"state_dir": str(folder)},
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder_of(folder: Path) -> int | None:
    """Return the process that holds the folder, as `/proc/locks` tells it (proc(5)); None: none."""
    try:
        found = folder.stat()
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in locks.splitlines():
        fields = line.split()
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF"; one that waits has an arrow.
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
            return int(fields[4]) or None  # 0: it is in another pid namespace
    return None

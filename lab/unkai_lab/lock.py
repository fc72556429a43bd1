"""One command at a time on one lab: an advisory lock on its folder, gone with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unkai_lab.errors import LabError

_DEADLINE_S = 60.0


@contextmanager
def hold(folder: Path, deadline_s: float = _DEADLINE_S) -> Iterator[None]:
    """Hold the lab; raise FileNotFoundError when the folder is not, or no longer, there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + deadline_s
        while not _try(descriptor):
            if time.monotonic() > end:
                raise LabError(
                    f"another command is at work on lab {folder.name}",
                    reason="LAB_BUSY",
                    fix="wait for it to end, then try again",
                )
            time.sleep(0.05)
        # `down` may have removed the folder that was opened, and `up` have made a new one.
        if os.stat(folder).st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError(folder)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Waiting for something to become true, with a deadline and a clear end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25


def wait_until(
    is_true: Callable[[], bool],
    claim: str,
    *,
    deadline_s: float = 10.0,
    process: ProcessId | None = None,
    log: Path | None = None,
) -> None:
    """Wait until it is true; raise `LabError` at the deadline, or when `process` ends first.

    `claim` is what shall become true, as a sentence: "etcd answers".
    """
    end = time.monotonic() + deadline_s
    pause_s = _FIRST_PAUSE_S
    while not is_true():
        if process and not process.is_alive():
            raise _failed(f"before '{claim}' became true its process ended", log)
        if time.monotonic() > end:
            raise _failed(f"not true within {deadline_s:g} s: {claim}", log)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def accepts(path: Path) -> bool:
    """Say whether somebody listens on a unix socket; a file left by a dead program does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _failed(message: str, log: Path | None) -> LabError:
    return LabError.of_log(message, log) if log else LabError(message)

"""Where log lines go: a stream that may fail, and must never fail who writes to it.

A log file on a full disk, a closed standard error or a reader that went away costs the lines that
could not be written, and nothing else: what is logged in the midst of a request or of a machine's
work is no reason to fail either.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


def standard_error() -> LastingStream:
    """Return standard error for logs; where a standard stream is closed, it leads nowhere.

    Else the next file opened, a database perhaps, would get that number, and be written to by
    whatever a library says on standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for as long as we live
    return LastingStream(sys.stderr)


class LastingStream:
    """A text stream's writing half. What it cannot write is lost, and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0
        """Writes that failed."""

    def write(self, text: str) -> int:
        """Write if that is possible now."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Have it written if that is possible now."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1

    def isatty(self) -> bool:
        """Tell whether somebody watches a terminal."""
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

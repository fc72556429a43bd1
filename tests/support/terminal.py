"""A person at a terminal: a command on a pseudo terminal of its own, keys typed, output seen."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

UNKAI = (sys.executable, "-m", "unkai_cli")
CTRL_BRACKET = b"\x1d"
_LEADING = ("env", "--default-signal=TTOU", "setsid", "--ctty")
"""Becomes a command that leads a session on the terminal it is given."""
_STEP_BYTES = 1024
"""A terminal takes no more than 4 KiB that nobody has read (n_tty)."""


class Terminal:
    """One command that leads a session on a terminal, as a shell's foreground job does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self._ours, theirs = pty.openpty()
        self.shown = b""
        self.before = termios.tcgetattr(self._ours)
        # Nothing of ours runs between fork and exec: beside grpc's threads that may hang.
        self.process = subprocess.Popen(
            [*_LEADING, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        # Held open: when the last holder closes a terminal, its settings are those of a new one.
        self._theirs = theirs

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)

    @property
    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._ours)

    @property
    def is_raw(self) -> bool:
        """Tell whether keys are neither echoed nor understood by the terminal."""
        return not self.settings[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    def type(self, keys: bytes) -> None:
        """Type keys as fast as they are taken; what is shown meanwhile is read."""
        while keys:
            readable, writable, _ = select.select([self._ours], [self._ours], [], 30)
            assert readable or writable, "the terminal takes nothing more"
            if readable:
                self._read()
            elif writable:
                keys = keys[os.write(self._ours, keys[:_STEP_BYTES]) :]

    def shows(self, text: bytes, *, within_s: float = 30.0, times: int = 1) -> bytes:
        """Wait until a text has been shown so often; return all that was."""
        self.until(lambda: self.shown.count(text) >= times, within_s, text)
        return self.shown

    def until(self, probe: Callable[[], Any], within_s: float = 30.0, claim: object = "") -> None:
        """Wait until the probe is true, while what is shown is read."""
        end = time.monotonic() + within_s
        while not probe():
            assert time.monotonic() < end, f"not within {within_s:g} s: {claim!r}; {self.shown!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self._read()

    def signal(self, number: int) -> None:
        """Send the command a signal."""
        self.process.send_signal(number)

    def ends(self, within_s: float = 30.0) -> int:
        """Wait until the command has ended; return its exit code."""
        self.until(lambda: self.process.poll() is not None, within_s, "it ends")
        while select.select([self._ours], [], [], 0.1)[0]:
            self._read()
        return int(self.process.returncode)

    def is_stopped(self) -> bool:
        """Tell whether the command is stopped, as by SIGTSTP."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    def _read(self) -> None:
        self.shown += os.read(self._ours, 65536)

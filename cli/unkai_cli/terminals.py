"""A person's terminal while a console has it: raw, and always given back.

In raw mode every key is a byte for the guest, Ctrl-C and Ctrl-Z too. The terminal belongs to the
shell, so it is given back whatever ends us: an error, a signal, being stopped from outside. Only
SIGKILL leaves it raw; `reset` mends that.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

DEFAULT_ESCAPE = "^]"
"""As telnet and virsh have it."""
_KEY = re.compile(r"(?:\^|ctrl-)([@-_a-z])", re.IGNORECASE)
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


def control_key(text: str) -> int | None:
    """Return the byte of a key written `^]` or `ctrl-]`; None for `none`.

    Raise `ValueError` for anything else.
    """
    if text.lower() == "none":
        return None
    if (match := _KEY.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no control key; write ^] or ctrl-a, or none")
    return ord(match[1].upper()) ^ 0x40


def key_text(key: int) -> str:
    """Return a control key as people write it: `Ctrl-]`."""
    return f"Ctrl-{chr(key ^ 0x40)}"


class RawTerminal:
    """Standard input's terminal in raw mode; of anything else nothing is changed.

    Use it in the main thread: only there may handlers of signals be set.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> RawTerminal:
        if self.is_terminal:
            import termios

            self._before = termios.tcgetattr(sys.stdin.fileno())
            for number in _ENDING:
                self._take_over(number, self._end)
            self._take_over(signal.SIGTSTP, self._pause)
            self._set_raw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.is_terminal:
            return
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _take_over(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        before = signal.getsignal(number)
        if before not in (signal.SIG_IGN, None):  # what is ignored (nohup) stays ignored
            signal.signal(number, handler)
            self._handlers[number] = before

    def _set_raw(self) -> None:
        import termios
        import tty

        tty.setraw(sys.stdin.fileno(), termios.TCSADRAIN)  # what was typed ahead is kept

    def _give_back(self) -> None:
        import termios

        if self._before is not None:
            # Not to wait for output to drain: a terminal that is held or gone would keep us here.
            with suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self._before)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._give_back()
        raise SystemExit(128 + number)

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        """Be stopped as any program; the shell has its terminal for that time."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
        self._set_raw()

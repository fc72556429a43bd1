"""A shell in a guest, on its serial console: commands go in, what they printed comes out."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import TYPE_CHECKING

from tests.support.terminal import CTRL_BRACKET, Terminal
from unkai_lab.site import installed

if TYPE_CHECKING:
    from types import TracebackType

    from unkai_lab.lab import Lab

_PROMPT = re.compile(rb":[^\s:]*# ")
_ANNOUNCED = re.compile(r"^\n?unkai-tiny: .*\n", re.MULTILINE)
"""What the guest itself says on its console at any moment, and no command has printed."""


class CommandFailed(AssertionError):
    """A command in a guest ended with another status than 0."""


class GuestShell:
    """root's shell on one guest of the image tiny."""

    def __init__(self, lab: Lab, name: str, project: str = "") -> None:
        self.name = name
        self._numbers = count()
        command = [installed("unkai"), "instance", "console", name, "--force"]
        command += ["--project", project] if project else []
        environment = {**os.environ, "UNKAI_SOCKET": str(lab.paths.scheduler_socket)}
        self._terminal = Terminal(command, environment)
        self._terminal.shows(b"connected to ", within_s=60)
        self._log_in()

    def _log_in(self) -> None:
        terminal = self._terminal
        terminal.type(b"\n")
        try:
            terminal.until(self._is_asked, 5.0, claim="a prompt")
        except AssertionError:
            # Whoever was here before has left a shell without one.
            terminal.type(b"exit\n")
            terminal.until(self._is_asked, claim="a prompt")
        if not _PROMPT.search(terminal.shown):
            terminal.type(b"root\n")
            terminal.until(lambda: _PROMPT.search(terminal.shown), claim="a shell")
        self.run("stty -echo cols 500; dmesg -n 1; PS1=")

    def _is_asked(self) -> bool:
        shown = self._terminal.shown
        return b"login:" in shown or _PROMPT.search(shown) is not None

    def ask(self, command: str, within_s: float = 30.0) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed."""
        number = next(self._numbers)
        self._terminal.shown = b""
        self._terminal.type(f"{command}\necho done''-{number}-$?-\n".encode())
        end = re.compile(rb"done-%d-(\d+)-" % number)
        self._terminal.until(
            lambda: end.search(self._terminal.shown),
            claim=f"{command!r} ends on {self.name}",
            within_s=within_s,
        )
        found = end.search(self._terminal.shown)
        assert found
        printed = self._terminal.shown[: found.start()].decode(errors="replace")
        return int(found[1]), _ANNOUNCED.sub("", printed.replace("\r", ""))

    def run(self, command: str, within_s: float = 30.0) -> str:
        """Run a command that must succeed; return what it printed."""
        status, text = self.ask(command, within_s)
        if status:
            raise CommandFailed(f"{self.name}: {command!r} ended with {status}: {text}")
        return text

    def succeeds(self, command: str, within_s: float = 30.0) -> bool:
        """Run a command; tell whether it ended well."""
        return self.ask(command, within_s)[0] == 0

    def begin(self, command: str) -> None:
        """Let a command run beside the shell, not as its child.

        busybox's ash ends at the next key once a child of it has ended while it waited for keys.
        """
        self.run(f"( ( {command} ) </dev/null >/dev/null 2>&1 & )")

    def close(self) -> None:
        """Log out, and leave the console."""
        self._terminal.shown = b""
        self._terminal.type(b"exit\n")
        self._terminal.shows(b"login:")
        self._terminal.type(CTRL_BRACKET)
        self._terminal.ends()

    def __enter__(self) -> GuestShell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

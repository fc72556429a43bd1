"""Story: a person works on a guest's console, by the scheduler and on the host alone.

1. The last lines, login, the window's size, Ctrl-C. 2. A paste of 64 KiB. 3. Leaving.
4. The scheduler is killed and comes back. 5. Somebody else takes the console over.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from tests.support.acceptance import seeded
from tests.support.terminal import CTRL_BRACKET, Terminal
from tests.support.user import User
from unkai_lab.lab import Lab
from unkai_lab.site import installed

PASTE_BYTES = 64 << 10
PROMPT = b":/root# "


@pytest.fixture(scope="module")
def guest(lab_user: User) -> Any:
    """A guest at its login prompt."""
    made = lab_user.launch("desk")
    lab_user.wait_log(made.id, "login:")
    return made


def _open(lab: Lab, guest: Any, way: str, *options: str) -> Terminal:
    ways = {
        "scheduler": {"UNKAI_SOCKET": str(lab.paths.scheduler_socket)},
        "host": {
            "UNKAI_SOCKET": "/nowhere",
            "UNKAI_AGENT_SOCKET": str(lab.agent_socket(guest.host_name)),
        },
    }
    command = [installed("unkai"), "instance", "console", guest.name, *options]
    if way == "host":
        command.append("--on-host")
    terminal = Terminal(command, {**os.environ, **ways[way]})
    terminal.shows(b"connected to desk; Ctrl-] leaves\r\n")
    return terminal


def _log_in(terminal: Terminal) -> None:
    terminal.shown = b""
    terminal.type(b"\n")
    terminal.until(
        lambda: b"login:" in terminal.shown or PROMPT in terminal.shown, claim="a prompt"
    )
    if PROMPT not in terminal.shown:
        terminal.type(b"root\n")
        terminal.shows(PROMPT)


@pytest.mark.parametrize("way", ["scheduler", "host"])
def test_a_person_logs_in_and_works(lab: Lab, guest: Any, way: str) -> None:
    with _open(lab, guest, way, "--log", "3") as terminal:
        assert b"login: " in terminal.shown
        _log_in(terminal)

        terminal.type(b"resize; stty -a\n")
        terminal.shows(b"\x1b[6n")  # the guest asks the terminal, which answers
        terminal.type(b"\x1b[43;132R")
        terminal.shows(b"rows 43; columns 132")

        # Said by the one who is to be interrupted: what a shell gets while it forks may be lost.
        terminal.type(b"sh -c \"echo sl''eeps; exec sleep 1000\"\n")
        terminal.shows(b"sleeps\r\n")
        terminal.shown = b""
        terminal.type(b"\x03")
        terminal.shows(PROMPT)
        terminal.type(b"echo $((40 + 2))-again\n")
        terminal.shows(b"42-again")

        text = seeded(f"paste by {way}").randbytes(PASTE_BYTES).replace(CTRL_BRACKET, b"~")
        terminal.type(b"stty raw -echo; echo g''o; head -c %d | md5sum; stty sane\n" % PASTE_BYTES)
        terminal.shows(b"go\n")
        terminal.type(text)
        terminal.shows(hashlib.md5(text, usedforsecurity=False).hexdigest().encode(), within_s=60)

        terminal.shown = b""
        terminal.type(b"exit\n")
        terminal.shows(b"login: ")  # whoever comes next finds it in the log
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0
        assert terminal.settings == terminal.before


def test_a_console_outlives_a_scheduler_that_is_killed(lab: Lab, guest: Any) -> None:
    with _open(lab, guest, "scheduler", "--reconnect") as terminal:
        _log_in(terminal)
        lab.kill_scheduler()
        terminal.shows(b"trying again; Ctrl-] leaves")
        lab.start_scheduler()
        terminal.shows(b"connected to desk", within_s=60)
        terminal.type(b"echo $((40 + 3))-after\n")
        terminal.shows(b"43-after")
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0


def test_a_console_in_use_is_taken_over_by_force_alone(lab: Lab, guest: Any) -> None:
    with _open(lab, guest, "host") as first:
        with pytest.raises(AssertionError, match="CONSOLE_IN_USE"):
            _open(lab, guest, "scheduler")
        with _open(lab, guest, "scheduler", "--force") as second:
            assert first.ends() == 4
            assert b"somebody else has taken the console over" in first.shown
            assert first.settings == first.before
            second.type(CTRL_BRACKET)
            assert second.ends() == 0

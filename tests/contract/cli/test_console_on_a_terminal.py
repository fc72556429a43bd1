"""The console on a person's terminal: raw while it lasts, given back whatever ends it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.console_agent import ConsoleAgent
from tests.support.terminal import CTRL_BRACKET, UNKAI, Terminal
from unkai_wire.errors import Conflict

CONSOLE = (*UNKAI, "instance", "console", "db", "--on-host")
ALL_BYTES = bytes(range(256))


def _connected(*options: str) -> Terminal:
    terminal = Terminal([*CONSOLE, *options])
    terminal.shows(b"connected to db")
    terminal.until(lambda: terminal.shown.endswith(b"\r\n"), claim="the whole line")
    assert terminal.is_raw
    return terminal


def test_the_key_that_leaves_is_shown_and_the_terminal_given_back(agent: ConsoleAgent) -> None:
    with _connected() as terminal:
        assert b"connected to db; Ctrl-] leaves\r\n" in terminal.shown
        terminal.type(b"\x03\x1a\x1c")  # Ctrl-C, Ctrl-Z and Ctrl-\ are the guest's
        terminal.shows(b"ins-ccc3 \x03\x1a\x1c")
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0
        assert terminal.settings == terminal.before


def test_another_key_may_leave(agent: ConsoleAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_CONSOLE_ESCAPE", "ctrl-a")
    with _connected() as terminal:
        assert b"; Ctrl-A leaves" in terminal.shown
        terminal.type(CTRL_BRACKET)
        terminal.shows(b"ins-ccc3 " + CTRL_BRACKET)
        terminal.type(b"bye")
        terminal.until(lambda: agent.typed == CTRL_BRACKET + b"bye", claim="bye is typed")
        terminal.type(b"\x01lost")
        assert terminal.ends() == 0
    assert agent.typed == CTRL_BRACKET + b"bye"


def test_a_key_that_cannot_be_is_refused_before_anything_is_done(agent: ConsoleAgent) -> None:
    with Terminal([*CONSOLE, "-e", "F1"]) as terminal:
        assert terminal.ends() == 2
        assert b"'F1' is no control key; write ^] or ctrl-a, or none" in terminal.shown
    assert agent.opened == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_given_back(
    agent: ConsoleAgent, number: signal.Signals
) -> None:
    with _connected() as terminal:
        terminal.signal(number)
        assert terminal.ends() == 128 + number
        assert terminal.settings == terminal.before


def test_stopped_from_outside_it_lends_the_terminal_back_until_it_goes_on(
    agent: ConsoleAgent,
) -> None:
    with _connected() as terminal:
        terminal.signal(signal.SIGTSTP)
        terminal.until(terminal.is_stopped, claim="stopped")
        assert terminal.settings == terminal.before
        terminal.signal(signal.SIGCONT)
        terminal.until(lambda: terminal.is_raw, claim="raw again")
        terminal.type(b"x")
        terminal.shows(b"ins-ccc3 x")


def test_a_lost_agent_is_an_error_and_the_terminal_is_given_back(agent: ConsoleAgent) -> None:
    with _connected() as terminal:
        agent.stop()
        assert terminal.ends() == 6
        assert terminal.settings == terminal.before


def test_what_the_guest_closes_is_told(agent: ConsoleAgent) -> None:
    with _connected() as terminal:
        agent.closing.set()
        assert terminal.ends() == 0
        assert b"the console of db was closed" in terminal.shown
        assert terminal.settings == terminal.before


def test_a_long_paste_into_a_slow_guest_arrives_whole(agent: ConsoleAgent) -> None:
    agent.pause_s = 0.002
    text = (ALL_BYTES.replace(CTRL_BRACKET, b"") + "雲海 Ünkai €\n".encode()) * 1000
    with _connected() as terminal:
        terminal.type(text)
        terminal.until(lambda: len(agent.typed) >= len(text), 60, "all is typed")
        assert agent.typed == text
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0


def test_with_no_key_to_leave_every_byte_is_the_guests(agent: ConsoleAgent) -> None:
    with _connected("--escape", "none") as terminal:
        assert b"leaves" not in terminal.shown
        terminal.type(ALL_BYTES)
        terminal.until(lambda: len(agent.typed) >= 256, claim="all is typed")
        assert agent.typed == ALL_BYTES
        agent.closing.set()
        assert terminal.ends() == 0


def test_the_last_lines_of_the_log_come_first(agent: ConsoleAgent) -> None:
    with _connected("--log", "2") as terminal:
        assert terminal.shown == b"ready\r\nlogin: connected to db; Ctrl-] leaves\r\n"


def test_asked_to_it_joins_the_console_again(agent: ConsoleAgent) -> None:
    with _connected("--reconnect", "--force") as terminal:
        agent.stop()
        terminal.shows(b"trying again; Ctrl-] leaves")
        terminal.type(b"typed blindly")
        agent.start()
        terminal.shows(b"connected to db", times=2)
        terminal.type(b"again")
        terminal.shows(b"ins-ccc3 again")
        agent.closing.set()  # the guest goes off, and comes back
        terminal.shows(b"the console of db was closed; trying again")
        agent.closing.clear()
        terminal.shows(b"connected to db", times=3)
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0
        assert terminal.settings == terminal.before
    assert agent.typed == b"again"
    assert agent.opened == [("ins-ccc3", True), ("ins-ccc3", False), ("ins-ccc3", False)]


def test_one_may_leave_while_nothing_answers(agent: ConsoleAgent) -> None:
    with _connected("--reconnect") as terminal:
        agent.stop()
        terminal.shows(b"trying again")
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0
        assert terminal.settings == terminal.before


def test_who_is_taken_over_is_told_and_does_not_fight(agent: ConsoleAgent) -> None:
    with _connected("--reconnect") as terminal:
        agent.error = Conflict("somebody else has taken it over", reason="CONSOLE_TAKEN_OVER")
        agent.closing.set()
        assert terminal.ends() == 4
        assert b"somebody else has taken it over" in terminal.shown
        assert terminal.settings == terminal.before
    assert len(agent.opened) == 1


def test_the_log_can_be_read_on_the_host_alone(agent: ConsoleAgent) -> None:
    with Terminal([*UNKAI, "instance", "logs", "db", "--on-host"]) as terminal:
        assert terminal.ends() == 0
        assert terminal.shown == b"booting\r\r\nready\r\r\nlogin: "
    assert os.environ["UNKAI_SOCKET"] == "/nowhere/api.sock"

"""Locks, waits and the text of errors."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from unkai_lab.errors import LabError, tail
from unkai_lab.journal import ProcessId
from unkai_lab.lock import hold
from unkai_lab.readiness import accepts, wait_until

DEAD = ProcessId(2**22 + 1, 1)


def test_a_lab_is_held_by_one_command_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(LabError, match="another command"), hold(tmp_path, 0):
        pass
    with hold(tmp_path, 0):
        pass


def test_a_lab_removed_while_waiting_for_it_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    with hold(folder):
        shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError), hold(folder):
        pass


def test_waiting_ends_at_once_when_it_is_true() -> None:
    wait_until(lambda: True, "nothing is wrong", deadline_s=0)


def test_a_program_that_ended_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text("starting\ncannot bind 10.0.0.1:7444\n")
    with pytest.raises(LabError) as caught:
        wait_until(lambda: False, "the agent serves", process=DEAD, log=log)
    assert "the agent serves" in caught.value.message
    assert "its process ended" in caught.value.message
    assert "  | cannot bind 10.0.0.1:7444" in caught.value.message
    assert caught.value.metadata == {"log": str(log)}


def test_a_deadline_says_what_did_not_become_true() -> None:
    with pytest.raises(LabError, match="not true within 0 s: etcd commits"):
        wait_until(lambda: False, "etcd commits", deadline_s=0)


def test_the_tail_of_a_long_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = tail(log).splitlines()
    assert lines[-1] == "  | line 99999"
    assert len(lines) == 15


def test_a_missing_log_has_no_tail(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""


def test_a_socket_left_by_a_dead_program_does_not_accept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not accepts(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert accepts(path)
    assert path.exists()
    assert not accepts(path)

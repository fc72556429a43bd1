"""A scheduler that hangs is not waited for without end, even on its own machine's socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command_line import unkai
from unkai_cli import channels, client

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_ACK = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
"""Empty HTTP/2 frames (RFC 9113, section 6.5)."""


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A socket behind which somebody shakes hands, and then says nothing any more."""
    path = tmp_path / "hung.sock"
    callers: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    callers.append(caller)
                    caller.sendall(SETTINGS + SETTINGS_ACK)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)
    for caller in callers:
        caller.close()


@pytest.mark.timeout(30)
def test_a_watch_of_a_hung_scheduler_ends(hung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [(name, 200 if name.endswith("_ms") else value) for name, value in channels.KEEPALIVE]
    monkeypatch.setattr(channels, "KEEPALIVE", quick)
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("UNKAI_SOCKET", str(hung))
    outcome = unkai("event", "watch")
    assert outcome.code == 6, outcome.err

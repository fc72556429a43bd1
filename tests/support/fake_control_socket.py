"""A stand-in for ovs-vswitchd and ovn-controller: a pid file, and a control socket that answers.

It says its version as Open vSwitch's `unixctl` does, or hangs: then it lets connect, as a stopped
process does, and answers nobody until it wakes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path


class FakeProgram:
    """One program, from a test's side; runs from the start."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pid_file = folder / f"{name}.pid"
        self._socket = folder / f"{name}.{os.getpid()}.ctl"
        self._awake = threading.Event()
        self._awake.set()
        self._listener: socket.socket | None = None
        self.run()

    def run(self) -> None:
        """Start it."""
        self._socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._socket))
        self._listener.listen(2)
        self._pid_file.write_text(f"{os.getpid()}\n")
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def die(self) -> None:
        """End it as a crash does: its files stay."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def hang(self) -> None:
        """Let it stand still."""
        self._awake.clear()

    def wake(self) -> None:
        """Let it go on."""
        self._awake.set()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                self._awake.wait()
                made, _ = listener.accept()
            except OSError:
                return
            with made, contextlib.suppress(OSError):  # who asked may have gone
                self._answer(made)

    def _answer(self, made: socket.socket) -> None:
        self._awake.wait()
        asked = json.loads(made.recv(65536) or b"{}")
        if asked.get("method") == "version":
            said = {"id": asked["id"], "error": None, "result": "(Open vSwitch) 3.1.0\n"}
            made.sendall(json.dumps(said).encode())

"""The tools that deal faults do what they say: a fault that does not happen proves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.clocks import NOTICED_S, SteppedClock
from tests.support.faults import fill, halted, is_stopped, small_disk, unreadable
from tests.support.proxy import TcpProxy, proxied
from tests.support.trapped import Trap

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.getsockname())
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(4096):
                    connection.sendall(piece)
            except OSError:
                return

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def through() -> Iterator[tuple[TcpProxy, str]]:
    with closing(Echo()) as echo, proxied(echo.address, seed=7) as (proxy, address):
        yield proxy, address


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 10.0)


def first_byte(address: str) -> bytes:
    with connect(address) as connection:
        return connection.recv(1)


def ask(connection: socket.socket, text: bytes) -> float:
    """Send a text and read it back; return how long that took."""
    begun = time.monotonic()
    connection.sendall(text)
    assert connection.recv(4096) == text
    return time.monotonic() - begun


def test_a_proxy_in_a_good_mood_forwards_both_ways(through: tuple[TcpProxy, str]) -> None:
    proxy, address = through
    with connect(address) as connection:
        ask(connection, b"one")
        ask(connection, b"two")
    assert proxy.accepted == 1


def test_a_proxy_that_delays_delays_each_way(through: tuple[TcpProxy, str]) -> None:
    proxy, address = through
    with connect(address) as connection:
        proxy.delay(0.2)
        assert ask(connection, b"late") >= 0.4
        proxy.heal()
        assert min(ask(connection, b"soon") for _ in range(5)) < 0.4


def test_a_proxy_that_cuts_ends_connections_and_refuses_new_ones(
    through: tuple[TcpProxy, str],
) -> None:
    proxy, address = through
    with connect(address) as connection:
        ask(connection, b"one")
        proxy.cut()
        with pytest.raises(ConnectionError):
            connection.recv(1)
    with pytest.raises(ConnectionError):
        first_byte(address)
    proxy.heal()
    with connect(address) as connection:
        ask(connection, b"again")


def test_a_proxy_that_swallows_says_nothing_and_delivers_once_healed(
    through: tuple[TcpProxy, str],
) -> None:
    proxy, address = through
    with connect(address) as connection, connect(address) as other:
        ask(connection, b"one")
        proxy.swallow()
        connection.settimeout(0.3)
        connection.sendall(b"lost?")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(4096) == b"lost?"
        ask(other, b"me too")


def test_a_proxy_that_reorders_lets_connections_overtake_each_other(
    through: tuple[TcpProxy, str],
) -> None:
    proxy, address = through
    proxy.reorder(0.2)
    arrived: list[int] = []
    connections = [connect(address) for _ in range(12)]

    def read(number: int) -> None:
        assert connections[number].recv(1)
        arrived.append(number)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(12)]
    for reader, connection in zip(readers, connections, strict=True):
        reader.start()
        connection.sendall(b"x")
    for reader in readers:
        reader.join(5)
    for connection in connections:
        connection.close()
    assert sorted(arrived) == list(range(12))
    assert arrived != list(range(12))


def test_a_halted_process_goes_on_afterwards() -> None:
    script = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with halted(process.pid):
            assert is_stopped(process.pid)
        assert not is_stopped(process.pid)
        process.stdout.readline()
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_small_disk_is_full_when_it_is_filled(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as folder:
        fill(folder, leave_bytes=64 << 10)
        with pytest.raises(OSError, match="No space left"):
            (folder / "more").write_bytes(bytes(256 << 10))
    assert not (tmp_path / "disk" / "ballast").exists()


def test_an_unreadable_disk_fails_where_it_is_read_and_not_before(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"\xa5" * (1 << 20))
    named = unreadable(disk, first_sector=1024)

    def read(offset: int) -> str:
        command = ["qemu-io", "-f", "raw", "-r", "-c", f"read -P 0xa5 {offset} 512", named]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False
        ).stdout

    assert "512/512 bytes" in read(0)
    assert "Input/output error" in read(1024 * 512)


def test_a_stepped_clock_steps_the_wall_clock_of_one_process_and_no_monotonic_one(
    tmp_path: Path,
) -> None:
    clock = SteppedClock.make(tmp_path)
    script = (
        "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    )
    with subprocess.Popen(
        [*clock.wrapper, sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def clocks() -> tuple[float, float]:
            print(file=process.stdin, flush=True)
            wall, monotonic = process.stdout.readline().split()  # type: ignore[union-attr]
            return float(wall) - time.time(), float(monotonic) - time.monotonic()

        for step_s in (0.0, 3600.0, -3600.0):
            clock.step(step_s)
            end = time.monotonic() + NOTICED_S + 5
            wall_s, monotonic_s = clocks()
            while abs(wall_s - step_s) > 2 and time.monotonic() < end:
                time.sleep(0.1)
                wall_s, monotonic_s = clocks()
            assert wall_s == pytest.approx(step_s, abs=2)
            assert monotonic_s == pytest.approx(0, abs=2)
        process.stdin.close()


TRAPPED = """
import pathlib, signal, sys, threading
from tests.support.trapped import Trap
armed, passed = pathlib.Path(sys.argv[1]), open(sys.argv[2], "wb", buffering=0)
trap = Trap("here", signal.SIGSTOP, armed)
def work():
    trap.pass_by("here")
    for _ in range(50_000):
        passed.write(b"x")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_a_trap_stops_the_thread_that_meets_it_before_its_next_step(tmp_path: Path) -> None:
    # Five times: after a signal to the whole process the thread goes on in two of five.
    for _ in range(5):
        trap = Trap("here", signal.SIGSTOP, tmp_path / "armed")
        passed = tmp_path / "passed"
        trap.arm()
        command = [sys.executable, "-c", TRAPPED, str(trap.file), str(passed)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                end = time.monotonic() + 20
                while not (trap.has_gone_off and is_stopped(process.pid)):
                    assert time.monotonic() < end, "it has not stopped"
                    time.sleep(0.01)
                assert passed.stat().st_size == 0
            finally:
                process.kill()


async def test_a_trap_goes_off_once_at_its_point_and_only_when_armed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[int] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: signals.append(number))

    class Store:
        async def lead(self, term: int, work: object) -> object:
            assert callable(work)
            return work("connection")

    trap = Trap("in lead", signal.SIGSTOP, tmp_path / "armed")
    store = trap.around(Store())
    await store.lead(1, lambda conn: conn)
    assert signals == []
    trap.arm()
    assert not trap.has_gone_off
    assert await store.lead(1, lambda conn: conn) == "connection"
    assert trap.has_gone_off
    await store.lead(1, lambda conn: conn)
    assert signals == [signal.SIGSTOP]

"""A server that one broken call has ended is made anew, whatever else is under way."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from unkai_wire import lasting_server
from unkai_wire.lasting_server import LastingServer
from unkai_wire.tls import TlsFiles

BROKEN_CALL = """
import sys
import grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    try:
        channel.unary_unary(b"/a/\\xff\\xfe")(b"", timeout=10)
    except grpc.RpcError as error:
        print(error.code())
"""
"""The name of its method is not UTF-8. From a process of its own, as it would come."""


class Handler(grpc.GenericRpcHandler):
    """Serves `/a/stream`, which goes on for ever, `/a/echo`, and calls of any other name."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def stream(_request: bytes, _context: object) -> AsyncIterator[bytes]:
            while True:
                yield b"news"
                await asyncio.sleep(0.1)

        async def echo(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        async def answer(_request: bytes, _context: object) -> bytes:
            return b"well"

        if details.method == "/a/stream":
            return grpc.unary_stream_rpc_method_handler(stream)
        if details.method == "/a/echo":
            return grpc.stream_stream_rpc_method_handler(echo)
        return grpc.unary_unary_rpc_method_handler(answer)


def make() -> grpc.aio.Server:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    return server


class PlainText(TlsFiles):
    """Listens without TLS, when the certificate can be read."""

    def listen(self, server: grpc.aio.Server, address: str) -> int:
        self.certificate.read_bytes()
        return server.add_insecure_port(address)


class Site:
    """A server at both of its doors."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "certificate"
        self.certificate.touch()
        self.path = folder / "run" / "door.sock"
        self.server = LastingServer(make)
        tls = PlainText(self.certificate, self.certificate, self.certificate)
        self.port = self.server.listen("127.0.0.1:0", tls)
        self.server.listen_locally(self.path)
        self.tcp, self.unix = f"127.0.0.1:{self.port}", f"unix:{self.path}"

    def listeners(self) -> int:
        """Count who listens at the TCP port (proc(5): state 0A is LISTEN)."""
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path("/proc/self/net", name).read_text().splitlines()
        ]
        return sum(line[1].endswith(f":{self.port:04X}") and line[3] == "0A" for line in lines)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Site]:
    site = Site(folder)
    await site.server.start()
    try:
        yield site
    finally:
        async with asyncio.timeout(20):
            await site.server.stop(0)


async def break_it(address: str) -> None:
    command = [sys.executable, "-c", BROKEN_CALL, address]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
    )
    assert "StatusCode" in done.stdout, done.stderr


async def served_again(address: str) -> None:
    """Call until a call is answered; those before end as UNAVAILABLE, or are cut off."""
    ends = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    async with asyncio.timeout(20):
        while True:
            async with grpc.aio.insecure_channel(address) as channel:
                call = channel.unary_unary("/a/call")(b"", timeout=5)
                if await call.code() is grpc.StatusCode.OK:
                    return
                assert await call.code() in ends
            await asyncio.sleep(0.05)


async def lives(echo: Any, word: bytes) -> None:
    """See that a call under way is answered; what was sent before is no proof."""
    await echo.write(word)
    assert await echo.read() == word


async def tries_failed(log: pytest.LogCaptureFixture, site: Site) -> None:
    """Wait until a door could not be opened, and for two tries more."""
    async with asyncio.timeout(20):
        while True:
            if "door_stays_shut" in log.text:
                break
            await asyncio.sleep(0.02)
    await asyncio.sleep(3 * lasting_server._AGAIN_S)
    assert log.text.count("door_stays_shut") == 1, log.text
    assert site.server.restarts == 0


async def lose_certificate(log: pytest.LogCaptureFixture, site: Site) -> None:
    """Shut the door by TCP, and let it stay shut."""
    site.certificate.unlink()
    await break_it(site.tcp)
    await tries_failed(log, site)


@pytest.mark.parametrize("door", ["tcp", "unix"])
@pytest.mark.parametrize("streams", [0, 3])
async def test_a_broken_call_shuts_its_door_for_a_moment_whatever_else_goes_on(
    tmp_path: Path, streams: int, door: str
) -> None:
    async with serving(tmp_path) as site:
        address, other = (site.tcp, site.unix) if door == "tcp" else (site.unix, site.tcp)
        async with (
            grpc.aio.insecure_channel(address) as channel,
            grpc.aio.insecure_channel(other) as away,
        ):
            watches = [channel.unary_stream("/a/stream")(b"") for _ in range(streams)]
            untouched = away.stream_stream("/a/echo")()
            await lives(untouched, b"before")
            for watch in watches:
                assert await watch.read() == b"news"
            for count in (1, 2):
                await break_it(address)
                await served_again(address)
                assert site.server.restarts == count
            await lives(untouched, b"after")
            for watch in (*watches, untouched):
                watch.cancel()
    assert list(site.path.parent.iterdir()) == []


@pytest.mark.parametrize("lost", ["file", "folder"])
async def test_a_lost_socket_is_opened_again_and_cuts_no_call_by_tcp(
    tmp_path: Path, lost: str
) -> None:
    async with serving(tmp_path) as site, grpc.aio.insecure_channel(site.tcp) as channel:
        untouched = channel.stream_stream("/a/echo")()
        await lives(untouched, b"before")
        if lost == "file":
            site.path.unlink()
        else:
            shutil.rmtree(site.path.parent)
        await served_again(site.unix)
        await lives(untouched, b"after")
        assert (site.server.restarts, site.listeners()) == (1, 1)
        assert [(file, file.stat().st_mode & 0o777) for file in site.path.parent.iterdir()] == [
            (site.path, 0o600)
        ]
        untouched.cancel()


async def test_a_socket_that_cannot_be_opened_is_tried_until_it_can_and_leaves_no_listener(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as site:
        shutil.rmtree(site.path.parent)
        site.path.parent.touch()
        await tries_failed(caplog, site)
        await served_again(site.tcp)
        site.path.parent.unlink()
        await served_again(site.unix)
        assert site.listeners() == 1
    assert site.listeners() == 0


async def test_a_socket_that_somebody_else_took_is_told_once_and_opened_again_when_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as site:
        with socket.socket(socket.AF_UNIX) as other:
            theirs = site.path.with_name("theirs")
            other.bind(str(theirs))
            other.listen()
            theirs.replace(site.path)
            await tries_failed(caplog, site)
            assert "another program serves it" in caplog.text
            await served_again(site.tcp)
        await served_again(site.unix)


async def test_a_door_whose_certificate_is_away_for_a_while_is_opened_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as site:
        await lose_certificate(caplog, site)
        site.certificate.touch()
        await served_again(site.tcp)
        assert (site.server.restarts, site.listeners()) == (1, 1)


async def test_stop_ends_a_server_whose_door_cannot_be_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as site:
        await lose_certificate(caplog, site)
    assert (site.listeners(), site.path.exists()) == (0, False)


async def test_who_is_cancelled_while_a_server_stops_can_stop_it_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, grpc.aio.insecure_channel(site.tcp) as channel:
        watch = channel.unary_stream("/a/stream")(b"")
        assert await watch.read() == b"news"
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await site.server.stop(0.5)
        async with asyncio.timeout(20):
            await site.server.stop(0.5)
        assert (site.listeners(), site.path.exists()) == (0, False)


async def test_stop_comes_through_at_any_moment_of_a_restart(tmp_path: Path) -> None:
    async def stopped_after(number: int) -> bool:
        folder = tmp_path / str(number)
        folder.mkdir()
        async with serving(folder) as site:
            site.path.unlink()
            await asyncio.sleep(number * 2 * lasting_server._LOOK_S / 20)
        return site.path.exists()

    assert not any(await asyncio.gather(*(stopped_after(number) for number in range(20))))


async def test_a_file_that_somebody_else_put_there_is_not_removed(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        site.path.unlink()
        site.path.touch()
    assert site.path.exists()

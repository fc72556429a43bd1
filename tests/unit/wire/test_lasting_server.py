"""A server that one broken call has ended is made anew, whatever else is under way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from unkai_wire.lasting_server import LastingServer

BROKEN_CALL = """
import sys
import grpc

with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
    try:
        channel.unary_unary(b"/a/\\xff\\xfe")(b"", timeout=10)
    except grpc.RpcError as error:
        print(error.code())
"""
"""The name of its method is not UTF-8. From a process of its own, as it would come."""


class Handler(grpc.GenericRpcHandler):
    """Serves `/a/stream`, which goes on for ever, and calls of any other name."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def stream(_request: bytes, _context: object) -> AsyncIterator[bytes]:
            while True:
                yield b"news"
                await asyncio.sleep(0.1)

        async def answer(_request: bytes, _context: object) -> bytes:
            return b"well"

        if details.method == "/a/stream":
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


def make() -> grpc.aio.Server:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    return server


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[LastingServer]:
    server = LastingServer(make)
    server.listen_locally(path)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def break_it(path: Path) -> None:
    command = [sys.executable, "-c", BROKEN_CALL, str(path)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
    )
    assert "StatusCode" in done.stdout, done.stderr


async def served_again(path: Path) -> None:
    """Call until a call is answered; those before end as UNAVAILABLE, or are cut off."""
    ends = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    async with asyncio.timeout(20):
        while True:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                call = channel.unary_unary("/a/call")(b"", timeout=5)
                if await call.code() is grpc.StatusCode.OK:
                    return
                assert await call.code() in ends
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("streams", [0, 1, 3])
async def test_a_broken_call_shuts_the_door_for_a_moment_whatever_else_goes_on(
    tmp_path: Path, streams: int
) -> None:
    path = tmp_path / "door.sock"
    async with serving(path) as server, grpc.aio.insecure_channel(f"unix:{path}") as channel:
        watches = [channel.unary_stream("/a/stream")(b"") for _ in range(streams)]
        for watch in watches:
            assert await watch.read() == b"news"
        for count in (1, 2):
            await break_it(path)
            await served_again(path)
            assert server.restarts == count
        for watch in watches:
            watch.cancel()


async def test_a_door_whose_file_somebody_removed_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    async with serving(path) as server:
        path.unlink()
        await served_again(path)
        assert server.restarts == 1

"""A server gives strangers little time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from unkai_scheduler import certificates
from unkai_wire import tls
from unkai_wire.tls import TlsFiles


async def test_who_connects_and_says_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_MS", 500)
    bundle = certificates.init(tmp_path / "ca").issue_scheduler("s1", ["127.0.0.1"])
    certificate, key, ca = bundle.write(tmp_path / "s1")
    server = grpc.aio.server(options=tls.server_options())
    credentials = TlsFiles(ca, certificate, key).server_credentials()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            assert await reader.read(1) == b""
    finally:
        writer.close()
        await server.stop(None)

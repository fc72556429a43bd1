"""A guest's side of the metadata service: requests as bytes, on a socket."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

HOST = "169.254.169.254"


@dataclass(frozen=True)
class Said:
    """What was answered."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    connection: socket.socket,
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
) -> Said:
    """Ask once on a connected socket, which is closed afterwards."""
    all_headers = {"Host": HOST, "Connection": "close"} | (headers or {})
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in all_headers.items()), "", ""]
    return said(await exchange(connection, "\r\n".join(lines).encode()))


async def exchange(connection: socket.socket, text: bytes) -> bytes:
    """Send bytes, and return all that comes until the other side ends."""
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        async with asyncio.timeout(30):
            writer.write(text)
            return await reader.read()
    finally:
        writer.close()


def said(text: bytes) -> Said:
    """Read an answer."""
    head, _, body = text.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in rest)
    return Said(int(first.split()[1]), {k.lower(): v for k, _, v in pairs}, body)

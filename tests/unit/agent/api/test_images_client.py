"""Fetching images: any scheduler will do, and one that breaks off is followed by the next."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from unkai.storage.v1 import image_service_pb2 as pb
from unkai.storage.v1 import image_service_pb2_grpc
from unkai_agent.api.images_client import ImagesClient
from unkai_scheduler.certificates import Authority, init
from unkai_wire.errors import NotFound, Unavailable
from unkai_wire.rpc_errors import ErrorInterceptor
from unkai_wire.tls import TlsFiles

CONTENT = bytes(range(256)) * 40


@dataclass
class Images(image_service_pb2_grpc.ImageServiceServicer):
    """One scheduler's images, which may break off after so many bytes."""

    breaks_after: int | None = None
    has_bytes: bool = True
    offsets: list[int] = field(default_factory=list)

    async def DownloadImage(
        self, request: pb.DownloadImageRequest, context: Any
    ) -> AsyncIterator[pb.DownloadImageResponse]:
        if request.image_id != "img":
            raise NotFound.of("image", request.image_id)
        self.offsets.append(request.offset_bytes)
        if not self.has_bytes:
            raise NotFound("the image store has no img", reason="IMAGE_BYTES_NOT_FOUND")
        sent = 0
        for start in range(request.offset_bytes, len(CONTENT), 1000):
            chunk = CONTENT[start : start + 1000]
            if self.breaks_after is not None and sent >= self.breaks_after:
                raise Unavailable("the scheduler goes away")
            sent += len(chunk)
            yield pb.DownloadImageResponse(chunk=chunk)


def _files(folder: Path, stem: str) -> TlsFiles:
    return TlsFiles(folder / "ca.crt", folder / f"{stem}.crt", folder / f"{stem}.key")


@asynccontextmanager
async def schedulers(
    folder: Path, authority: Authority, *images: Images
) -> AsyncIterator[list[str]]:
    authority.issue_scheduler("s").write(folder)
    servers, addresses = [], []
    for one in images:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        image_service_pb2_grpc.add_ImageServiceServicer_to_server(one, server)
        port = server.add_secure_port(
            "127.0.0.1:0", _files(folder, "scheduler").server_credentials()
        )
        await server.start()
        servers.append(server)
        addresses.append(f"127.0.0.1:{port}")
    try:
        yield addresses
    finally:
        for server in servers:
            await server.stop(0)


@asynccontextmanager
async def a_client(
    folder: Path, authority: Authority, addresses: list[str], *, seed: int = 1
) -> AsyncIterator[ImagesClient]:
    (folder / "host").mkdir()
    authority.issue_host("h").write(folder / "host")
    yield ImagesClient(lambda: addresses, _files(folder / "host", "host"), rng=random.Random(seed))


async def test_what_one_scheduler_began_the_next_goes_on_with(tmp_path: Path) -> None:
    authority = init(tmp_path / "ca")
    images = [Images(breaks_after=3000), Images(breaks_after=4000), Images(breaks_after=5000)]
    async with (
        schedulers(tmp_path, authority, *images) as addresses,
        a_client(tmp_path, authority, addresses) as client,
    ):
        got = b"".join([chunk async for chunk in client.fetch("img", 0)])
    assert got == CONTENT
    offsets = sorted(offset for one in images for offset in one.offsets)
    assert offsets[0] == 0
    assert len(offsets) == 3
    assert offsets[1] > 0


async def test_an_image_that_does_not_exist_is_asked_for_once(tmp_path: Path) -> None:
    authority = init(tmp_path / "ca")
    async with (
        schedulers(tmp_path, authority, Images(), Images()) as addresses,
        a_client(tmp_path, authority, addresses) as client,
    ):
        with pytest.raises(NotFound):
            [chunk async for chunk in client.fetch("img-none", 0)]


@pytest.mark.parametrize("seed", range(4))
async def test_bytes_that_one_scheduler_lacks_are_asked_of_the_next(
    tmp_path: Path, seed: int
) -> None:
    authority = init(tmp_path / "ca")
    images = [Images(has_bytes=False), Images()]
    async with (
        schedulers(tmp_path, authority, *images) as addresses,
        a_client(tmp_path, authority, addresses, seed=seed) as client,
    ):
        got = b"".join([chunk async for chunk in client.fetch("img", 0)])
    assert got == CONTENT


async def test_bytes_that_no_scheduler_has_are_not_found(tmp_path: Path) -> None:
    authority = init(tmp_path / "ca")
    images = [Images(has_bytes=False), Images(has_bytes=False)]
    async with (
        schedulers(tmp_path, authority, *images) as addresses,
        a_client(tmp_path, authority, addresses) as client,
    ):
        with pytest.raises(NotFound) as caught:
            [chunk async for chunk in client.fetch("img", 0)]
    assert caught.value.reason == "IMAGE_BYTES_NOT_FOUND"
    assert [one.offsets for one in images] == [[0], [0]], "each was asked once"


@pytest.mark.parametrize("addresses", [[], ["127.0.0.1:1"]])
async def test_no_scheduler_is_said_so(tmp_path: Path, addresses: list[str]) -> None:
    authority = init(tmp_path / "ca")
    async with a_client(tmp_path, authority, addresses) as client:
        with pytest.raises(Unavailable) as caught:
            [chunk async for chunk in client.fetch("img", 0)]
    assert caught.value.reason == "IMAGE_UNREACHABLE"

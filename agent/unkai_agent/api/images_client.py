"""Fetch image bytes from any scheduler, with the host's certificate.

The one call an agent makes to schedulers. When one breaks off, the next goes on at the byte
reached; the cache checks the whole by its SHA-256, so a lying scheduler changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import structlog
from prometheus_client import Counter

from unkai.storage.v1 import image_service_pb2 as pb
from unkai.storage.v1 import image_service_pb2_grpc
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable, UnkaiError
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import SCHEDULER_TLS_NAME, TlsFiles, channel_options

_LOG = structlog.get_logger("unkai.agent.images")
FETCHED = Counter("unkai_agent_image_fetched_bytes_total", "Bytes of images fetched.")
BROKEN = Counter(
    "unkai_agent_image_fetch_failures_total",
    "Fetches from a scheduler that broke off, by reason.",
    ["reason"],
)
_SILENCE_S = 15.0
"""A scheduler that sends nothing for so long is given up."""
_FINAL = (NotFound, FailedPrecondition)
"""Answers that another scheduler would give, too; but see `_LACKS`."""
_LACKS = "IMAGE_BYTES_NOT_FOUND"
"""One scheduler's answer alone: it may be of a version that looks elsewhere for the bytes, or have
another place to keep them."""


class ImagesClient:
    """`fetch` is a `storage.driver.FetchImage`."""

    def __init__(
        self, schedulers: Callable[[], Sequence[str]], tls: TlsFiles, *, rng: random.Random
    ) -> None:
        """Ask the addresses (`IP:PORT`) that `schedulers` knows when a fetch begins."""
        self._schedulers = schedulers
        self._tls = tls
        self._rng = rng

    async def fetch(self, image_id: str, offset: int) -> AsyncIterator[bytes]:
        """Yield an image's bytes from `offset` on; `Unavailable` when no scheduler sends them now.

        Raises `NotFound` where each says that it has none.
        """
        addresses = list(self._schedulers())
        self._rng.shuffle(addresses)
        last: UnkaiError | None = None
        lacking = 0
        for address in addresses:
            try:
                async for chunk in self._download(address, image_id, offset):
                    offset += len(chunk)
                    FETCHED.inc(len(chunk))
                    yield chunk
            except UnkaiError as error:
                BROKEN.labels(error.reason).inc()
                if isinstance(error, _FINAL) and error.reason != _LACKS:
                    raise
                _LOG.info("image_fetch_broke_off", scheduler=address, reason=error.reason)
                lacking += error.reason == _LACKS
                last = error
            else:
                return
        if last is not None and lacking == len(addresses):
            raise last
        raise Unavailable(
            f"image {image_id} cannot be fetched: "
            + (last.message if last else "no scheduler is known yet"),
            reason="IMAGE_UNREACHABLE",
            fix="it is tried again by itself; look at the schedulers if this goes on",
            metadata={"image_id": image_id},
        ) from last

    async def _download(self, address: str, image_id: str, offset: int) -> AsyncIterator[bytes]:
        # A connection for each: images come seldom, and one kept open is felt by an idle host.
        channel = grpc.aio.secure_channel(
            address, self._tls.channel_credentials(), options=channel_options(SCHEDULER_TLS_NAME)
        )
        async with channel:
            async for chunk in _chunks(channel, address, image_id, offset):
                yield chunk


async def _chunks(
    channel: grpc.aio.Channel, address: str, image_id: str, offset: int
) -> AsyncIterator[bytes]:
    stub = image_service_pb2_grpc.ImageServiceStub(channel)
    call = stub.DownloadImage(pb.DownloadImageRequest(image_id=image_id, offset_bytes=offset))
    try:
        while True:
            async with asyncio.timeout(_SILENCE_S):
                message = await call.read()
            if not isinstance(message, pb.DownloadImageResponse):
                return  # grpc.aio.EOF
            yield message.chunk
    except TimeoutError as error:
        raise Unavailable(
            f"scheduler {address} sent nothing for {_SILENCE_S:.0f} s",
            reason="SCHEDULER_SILENT",
            metadata={"address": address},
        ) from error
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()

"""Image bytes in a directory or an S3 bucket, by `obstore`: the real `ImageStore`.

Bytes are written under a key of their own below `partial/` and moved to their place when all of
them are there, so that a key appears whole or not at all; what a crash leaves below `partial/` is
swept at start. Memory is bounded by the parts under way. The trap: a local directory's engine
does not flush to the disk by itself, so this adapter does, before the key appears.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable, UnkaiError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_BYTES = 1 << 20
"""Largest piece handed out: a gRPC message of ours."""
_PART_BYTES = 16 << 20
"""Size of a part of an upload: S3 allows 10,000 parts, so objects of up to 160 GB."""
_PARTS_AT_ONCE = 2
_PARTIAL = "partial"


class ObstoreImages:
    """Implements `ImageStore` over one obstore store."""

    def __init__(self, store: ObjectStore, *, directory: Path | None = None) -> None:
        self._store = store
        self._directory = directory

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the bytes under the key, replacing what was there; return their number."""
        partial = f"{_PARTIAL}/{key}.{secrets.token_hex(8)}"
        moved = False
        try:
            size = await self._write(partial, chunks)
            await self._flush(partial)
            with _translated(key):
                await obstore.rename_async(self._store, partial, key)
            moved = True
            await self._flush_directory()
        finally:
            if not moved:
                await asyncio.shield(self._discard(partial))
        return size

    async def _write(self, partial: str, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        writer = obstore.open_writer_async(
            self._store, partial, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            async for chunk in chunks:
                with _translated(partial):
                    await writer.write(chunk)
                size += len(chunk)
        finally:
            # Closing also ends what was begun: an S3 upload left open would be charged for ever.
            with _translated(partial):
                await writer.close()
        return size

    async def _discard(self, partial: str) -> None:
        with suppress(UnkaiError):  # the sweep at the next start removes it
            await self.delete(partial)

    async def _flush(self, key: str) -> None:
        if self._directory is not None:
            await asyncio.to_thread(_fsync, self._directory / key)

    async def _flush_directory(self) -> None:
        if self._directory is not None:
            await asyncio.to_thread(_fsync, self._directory)

    async def get(self, key: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from an offset on, in pieces of at most 1 MiB."""
        size = await self.size(key)
        if offset_bytes >= size:
            return
        with _translated(key):
            options: Any = {"range": {"offset": offset_bytes}} if offset_bytes else None
            result = await obstore.get_async(self._store, key, options=options)
            async for piece in result.stream(min_chunk_size=CHUNK_BYTES):
                view = memoryview(piece)
                for start in range(0, len(view), CHUNK_BYTES):
                    yield bytes(view[start : start + CHUNK_BYTES])

    async def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        with _translated(key):
            return int((await obstore.head_async(self._store, key))["size"])

    async def delete(self, key: str) -> None:
        """Remove the key; removing what is not there is fine."""
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except NotFound:
            return

    async def _all_keys(self) -> tuple[str, ...]:
        with _translated(""):
            pages = obstore.list(self._store)
            return tuple([str(meta["path"]) async for page in pages for meta in page])

    async def sweep(self) -> int:
        """Remove what broken uploads left; return how many. Call it before serving."""
        left = [key for key in await self._all_keys() if key.startswith(f"{_PARTIAL}/")]
        for key in left:
            await self.delete(key)
        return len(left)

    async def list(self) -> list[str]:
        """Return all keys."""
        return [key for key in await self._all_keys() if not key.startswith(f"{_PARTIAL}/")]


def open_image_store(url: str) -> ObstoreImages:
    """Open `file:///directory` (made when missing) or `s3://bucket/prefix`."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        directory = Path(unquote(parts.path))
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        return ObstoreImages(LocalStore(prefix=directory), directory=directory)
    if parts.scheme == "s3" and parts.netloc:
        return ObstoreImages(S3Store.from_url(url))
    raise FailedPrecondition(
        f"images.url {url!r} is neither file:///DIRECTORY nor s3://BUCKET/PREFIX",
        reason="IMAGE_STORE_URL",
        metadata={"url": url},
    )


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn the engine's errors into ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(
            f"the image store has no {key}",
            reason="IMAGE_BYTES_NOT_FOUND",
            fix="upload the image again",
            metadata={"key": key},
            resource_kind="image_bytes",
            resource=key,
        ) from error
    except (BaseError, OSError) as error:
        if "No space left" in str(error) or "StorageFull" in str(error):
            raise FailedPrecondition(
                "the image store is full",
                reason="STORE_FULL",
                fix="remove images that nobody needs, or give the store more room",
            ) from error
        raise Unavailable(
            "the image store does not answer", reason="IMAGE_STORE_UNAVAILABLE"
        ) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Image bytes in a directory or an S3 bucket, by `obstore`: the real `ImageStore`.

A key appears whole or not at all. S3 shows an object once its parts are put together, so bytes go
straight to their key: moving them there would be a copy, and S3 copies no more than 5 GiB at once.
A directory's engine does not flush to the disk before a file appears, so there bytes are written
below `partial/`, flushed by us, then moved. What a crash leaves there goes with its key (`delete`);
what nobody knows a key of is swept at a start.
Memory is bounded by the parts under way. What a crash leaves of an upload to S3 is no object and
cannot be listed here: the bucket's own rule drops it (docs/howto/install.md).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable, UnkaiError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = structlog.get_logger()

CHUNK_BYTES = 1 << 20
"""Largest piece handed out: a gRPC message of ours."""
_PART_BYTES = 16 << 20
"""Size of a part of an upload: S3 allows 10,000 parts, so objects of up to 160 GB."""
_PARTS_AT_ONCE = 2
_RANGE_BYTES = 2 << 20
"""How much is asked for, and held, at once: the engine gives up a request after 30 s, and a reader
of the whole may be slower than that."""
_PARTIAL = "partial"


class ObstoreImages:
    """Implements `ImageStore` over one obstore store."""

    def __init__(
        self, store: ObjectStore, *, directory: Path | None = None, reserve_bytes: int = 0
    ) -> None:
        self._store = store
        self._directory = directory
        self._reserve_bytes = reserve_bytes

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the bytes under the key, replacing what was there; return their number."""
        if self._directory is None:
            return await self._write(key, chunks)
        return await self._put_in_directory(self._directory, key, chunks)

    async def _put_in_directory(
        self, directory: Path, key: str, chunks: AsyncIterator[bytes]
    ) -> int:
        partial = f"{_PARTIAL}/{key}.{secrets.token_hex(8)}"
        moved = False
        try:
            size = await self._write(partial, self._leaving_room(directory, chunks))
            with _writing():
                await asyncio.to_thread(_fsync, directory / partial)
                await obstore.rename_async(self._store, partial, key)
                moved = True
                await asyncio.to_thread(_fsync, directory)
        finally:
            if not moved:
                await asyncio.shield(self._discard(partial))
        return size

    async def _leaving_room(
        self, directory: Path, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Pass the chunks on; raise STORE_FULL before they take what the disk must keep free."""
        since_look = _PART_BYTES
        async for chunk in chunks:
            since_look += len(chunk)
            if since_look > _PART_BYTES:
                since_look = 0
                if await asyncio.to_thread(_free_bytes, directory) < self._reserve_bytes:
                    raise _full()
            yield chunk

    async def _write(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Write all chunks; when one fails, drop those before it."""
        size = 0
        writer = obstore.open_writer_async(
            self._store, key, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            async for chunk in chunks:
                with _writing():
                    await writer.write(chunk)
                size += len(chunk)
        except BaseException as error:
            # Closing it would make an object of the parts sent so far.
            with suppress(BaseError, OSError):
                await writer.__aexit__(type(error), error, error.__traceback__)
            raise
        with _writing():
            await writer.close()
        return size

    async def _discard(self, partial: str) -> None:
        with suppress(UnkaiError):  # whoever deletes the key removes it
            await self._remove(partial)

    async def get(self, key: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from an offset on, in pieces of at most 1 MiB."""
        size = await self.size(key)
        for start in range(offset_bytes, size, _RANGE_BYTES):
            with _translated(key):
                piece = await obstore.get_range_async(
                    self._store, key, start=start, end=min(start + _RANGE_BYTES, size)
                )
            view = memoryview(piece)
            for begin in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[begin : begin + CHUNK_BYTES])

    async def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        with _translated(key):
            return int((await obstore.head_async(self._store, key))["size"])

    async def delete(self, key: str) -> None:
        """Remove the key and what is left of its puts; removing what is not there is fine."""
        if self._directory is not None:
            await asyncio.to_thread(_remove_parts, self._directory / _PARTIAL, key)
        await self._remove(key)

    async def _remove(self, key: str) -> None:
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except NotFound:
            return

    async def sweep(self, under_way: Callable[[], Awaitable[Collection[str]]]) -> int:
        """Remove what broken puts left in a directory; return how many files that were.

        `under_way`: tells the keys that somebody puts, or is to delete. It is asked after what is
        there was looked at, so that no put begun meanwhile, here or elsewhere, loses its file.
        """
        if self._directory is None:
            return 0
        with _writing():
            parts = await asyncio.to_thread(_parts, self._directory / _PARTIAL)
            keys = await under_way() if parts else ()
            dead = [path for path in parts if _key_of(path) not in keys]
            await asyncio.to_thread(_unlink, dead)
        return len(dead)

    async def list(self) -> list[str]:
        """Return all keys."""
        with _translated(""):
            pages = obstore.list(self._store)
            keys = [str(meta["path"]) async for page in pages for meta in page]
        return [key for key in keys if not key.startswith(f"{_PARTIAL}/")]


def open_image_store(url: str, *, reserve_bytes: int = 0) -> ObstoreImages:
    """Open `file:///directory` (made when missing) or `s3://bucket/prefix`.

    `reserve_bytes`: what uploads leave free on the directory's disk.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        directory = Path(unquote(parts.path))
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        return ObstoreImages(
            LocalStore(prefix=directory), directory=directory, reserve_bytes=reserve_bytes
        )
    if parts.scheme == "s3" and parts.netloc:
        try:
            return ObstoreImages(S3Store.from_url(url))
        except (BaseError, ValueError) as error:
            raise _bad_url(url) from error
    raise _bad_url(url)


def _bad_url(url: str) -> FailedPrecondition:
    return FailedPrecondition(
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
        raise _trouble(error) from error


@contextmanager
def _writing() -> Iterator[None]:
    """Turn the engine's errors into ours where nothing can be missing but the store itself."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _trouble(error) from error


def _trouble(error: Exception) -> UnkaiError:
    if "No space left" in str(error) or "StorageFull" in str(error):
        return _full()
    _log.warning("image_store_failing", error=str(error).partition("\n")[0])
    return Unavailable(
        "the image store does not answer",
        reason="IMAGE_STORE_UNAVAILABLE",
        fix="look at the store, or at the disk it is on; the scheduler's log has the cause",
    )


def _full() -> FailedPrecondition:
    return FailedPrecondition(
        "the image store is full",
        reason="STORE_FULL",
        fix="remove images that nobody needs, or give the store more room",
    )


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parts(folder: Path) -> list[Path]:
    """Return a folder's files, also those the engine does not list: parts under way end in `#1`."""
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except FileNotFoundError:
        return []


def _key_of(part: Path) -> str:
    """Return the key that a file below `partial/` was to become."""
    return part.name.rpartition(".")[0]


def _remove_parts(folder: Path, key: str) -> None:
    with _writing():
        _unlink([path for path in _parts(folder) if _key_of(path) == key])


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)

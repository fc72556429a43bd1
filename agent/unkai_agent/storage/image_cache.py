"""The images that disks of this host stand on, each fetched once and kept under its SHA-256.

A file here is whole, has the bytes its name says, and was looked at by `image_header` before it
got its name; nothing is ever written to it again. Disks fail and people err, so it is read through
and hashed once more before its first use after each start of the agent, and whenever the system
says that it was changed since. Damaged, it is fetched anew and put in the damaged one's place,
where the disks on it find the good bytes at their next start; running guests keep what they have
open. Its modification time is when a disk was last made from it.

Which disks stand on it is not recorded here: `qcow2.py` reads that off the disks, so there is no
index to go stale. Removing one that is in use is refused there, not here.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from unkai_agent.domain.clock import Clock
from unkai_agent.domain.machines import ImageFormat, ImageRef
from unkai_agent.storage import files, image_header
from unkai_agent.storage.driver import FetchImage, ToldBytes
from unkai_agent.storage.refusals import (
    check_sha256,
    disk_full,
    fetch_stalled,
    image_corrupt,
    image_refused,
    is_sha256,
)
from unkai_agent.storage.single_flight import SingleFlight

_MAX_FETCHES = 2
"""Images fetched at once: more would only share the same network and disk."""
_READ_BYTES = 8 << 20
"""Read and hashed in one go in a thread: some 20 ms, so that others get their turn."""
_STALL_S = 30.0
"""A fetch that brings nothing for so long is given up."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the system tells of a file without reading it; a write changes it."""

    inode: int
    size_bytes: int
    write_time_ns: int
    change_time_ns: int


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One image in the cache."""

    sha256: str
    format: ImageFormat
    path: Path
    size_bytes: int
    use_time: datetime


class ImageCache:
    """The folder of images. Its methods may run at once; fetches of one image are one."""

    def __init__(
        self,
        folder: Path,
        fetch: FetchImage,
        *,
        ownership: files.Ownership,
        threads: files.Threads,
        clock: Clock,
        stall_s: float = _STALL_S,
    ) -> None:
        self._folder = folder
        self._fetch = fetch
        self._ownership = ownership
        self._threads = threads
        self._clock = clock
        self._stall_s = stall_s
        self._flights = SingleFlight()
        self._slots = asyncio.Semaphore(_MAX_FETCHES)
        self._reading = asyncio.Semaphore(1)
        self._hearers: dict[str, list[ToldBytes]] = {}
        """Who wants to hear how far a fetch is, by SHA-256."""
        self._sound: dict[Path, _Mark] = {}
        """As they were when their bytes were last known to be right."""
        self._damaged: dict[Path, _Mark] = {}
        """As they were when they were found damaged: not read again to learn the same."""
        files.make_folder(folder, ownership)
        files.sweep_parts(folder)

    def path(self, image: ImageRef) -> Path:
        """Return where the image is, or shall be."""
        sha256 = check_sha256(image.sha256)
        return self._folder / f"{sha256}.{image.format.value}"

    async def ensure(self, image: ImageRef, told: ToldBytes | None = None) -> None:
        """Have the image, fetching it if need be; errors as the port says."""
        if told is None:
            return await self._ensure(image)
        hearers = self._hearers.setdefault(image.sha256, [])
        hearers.append(told)
        try:
            return await self._ensure(image)
        finally:
            hearers.remove(told)
            if not hearers:
                self._hearers.pop(image.sha256, None)

    async def _ensure(self, image: ImageRef) -> None:
        path = self.path(image)

        async def fetch_unless_sound() -> None:
            with files.storage_errors(f"image {image.image_id}"):
                sound = await self._is_sound(path, image)
            if not sound:
                async with self._slots:
                    await self._fetch_to(path, image)

        await self._flights.run(image.sha256, fetch_unless_sound)

    def entries(self) -> list[CacheEntry]:
        """Return the entries by SHA-256. Blocks."""
        with os.scandir(self._folder) as found:
            entries = [_entry(Path(file.path)) for file in found if file.is_file()]
        return sorted((e for e in entries if e is not None), key=lambda e: e.sha256)

    def find(self, sha256: str) -> CacheEntry | None:
        """Return one entry. Blocks."""
        if not is_sha256(sha256):
            return None
        candidates = (_entry(self._folder / f"{sha256}.{fmt.value}") for fmt in ImageFormat)
        return next((entry for entry in candidates if entry is not None), None)

    def holds(self, path: Path) -> bool:
        """Tell whether a path is one that an image of ours can have, there or not."""
        name, _, suffix = path.name.partition(".")
        known = suffix in {fmt.value for fmt in ImageFormat}
        return path.parent == self._folder and known and is_sha256(name)

    def touch(self, path: Path) -> None:
        """Note that a disk was made from the image now. Blocks."""
        was_sound = self._sound.get(path) == _mark(path)
        now_s = self._clock().timestamp()
        os.utime(path, (now_s, now_s), follow_symlinks=False)
        if was_sound and (mark := _mark(path)) is not None:
            self._sound[path] = mark

    def remove(self, sha256: str) -> None:
        """Drop an entry that may be there. Blocks."""
        for fmt in ImageFormat:
            path = self._folder / f"{sha256}.{fmt.value}"
            files.remove_file(path)
            self._sound.pop(path, None)
            self._damaged.pop(path, None)
        files.sync(self._folder)

    async def _is_sound(self, path: Path, image: ImageRef) -> bool:
        """Tell whether the image is there with all its bytes; they are read only where need be."""
        mark = await self._threads.run(lambda: _mark(path))
        if mark is None or mark.size_bytes != image.size_bytes:
            return False
        if self._sound.get(path) == mark:
            return True
        if self._damaged.get(path) == mark:
            return False
        async with self._reading:
            try:
                digest = await self._digest(path)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                digest = "unreadable"
        if digest == image.sha256:
            self._sound[path] = mark
            return True
        self._damaged[path] = mark
        _log.error("image_damaged", image_id=image.image_id, sha256=image.sha256, found=digest)
        return False

    async def _digest(self, path: Path) -> str:
        """Hash a file, a piece at a time: whoever waits for it may be called off in between."""
        digest = hashlib.sha256()
        file = await self._threads.run(lambda: files.open_to_read(path))
        try:
            while piece := await self._threads.run(partial(file.read, _READ_BYTES)):
                await self._threads.run(partial(digest.update, piece))
        finally:
            file.close()
        return digest.hexdigest()

    async def _fetch_to(self, path: Path, image: ImageRef) -> None:
        what = f"image {image.image_id}"
        # A fetch given up on a disk that hung uses the same names, and may go on once it answers.
        await self._threads.ended()
        writer = _PartWriter(files.part_of(path), image)
        with files.storage_errors(what):
            try:
                await self._threads.run(writer.open)
                async for chunk in self._chunks(image):
                    await self._threads.run(partial(writer.write, chunk))
                    for told in self._hearers.get(image.sha256, ()):
                        told(writer.length)
                await self._threads.run(partial(self._accept, writer, path))
            finally:
                await self._threads.run(writer.discard)
        _log.info("image_cached", image_id=image.image_id, size_bytes=image.size_bytes)

    async def _chunks(self, image: ImageRef) -> AsyncIterator[bytes]:
        """Yield what the fetch brings; a silence longer than `stall_s` ends it."""
        chunks = self._fetch(image.image_id, 0)
        try:
            while True:
                try:
                    async with asyncio.timeout(self._stall_s):
                        chunk = await anext(chunks, None)
                except TimeoutError as error:
                    raise fetch_stalled(image) from error
                if chunk is None:
                    return
                yield chunk
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    def _accept(self, writer: _PartWriter, path: Path) -> None:
        """Check all that can be checked, then give the file its name."""
        writer.check()
        self._ownership.lend_readable(writer.part)
        self.touch(writer.part)
        files.put_in_place(writer.part, path)
        if (mark := _mark(path)) is not None:
            self._sound[path] = mark


class _PartWriter:
    """Writes an image's bytes beside their place, hashing as it goes. Blocks."""

    def __init__(self, part: Path, image: ImageRef) -> None:
        self.part = part
        self._image = image
        self._hash = hashlib.sha256()
        self.length = 0
        self._fd: int | None = None

    def open(self) -> None:
        """Make the file, if there is room for all of it."""
        if files.available_bytes(self.part.parent) < self._image.size_bytes:
            raise disk_full(f"image {self._image.image_id}")
        files.remove_file(self.part)
        self._fd = files.create(self.part)

    def write(self, chunk: bytes) -> None:
        """Add bytes; more than announced is corrupt at once."""
        self.length += len(chunk)
        if self.length > self._image.size_bytes:
            raise image_corrupt(self._image, f"more than {self._image.size_bytes} bytes came")
        self._hash.update(chunk)
        if self._fd is None:
            raise RuntimeError("write before open")
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def check(self) -> None:
        """Raise unless these are the bytes, and bytes of an image that may be built on."""
        image = self._image
        if self.length != image.size_bytes:
            raise image_corrupt(image, f"{self.length} bytes came, not {image.size_bytes}")
        if self._hash.hexdigest() != image.sha256:
            raise image_corrupt(image, f"their SHA-256 is {self._hash.hexdigest()}")
        head = files.read_head(self.part, image_header.HEAD_BYTES) or b""
        try:
            problem = image_header.refusal(image_header.parse(head, self.length), image)
        except image_header.HeaderError as error:
            raise image_refused(image, str(error)) from error
        if problem:
            raise image_refused(image, problem)

    def discard(self) -> None:
        """Close the file, and remove it unless it got its name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        files.remove_file(self.part)


def _mark(path: Path) -> _Mark | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return _Mark(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _entry(path: Path) -> CacheEntry | None:
    sha256, _, suffix = path.name.partition(".")
    try:
        image_format = ImageFormat(suffix)
        status = os.lstat(path)
    except (ValueError, FileNotFoundError):
        return None
    if not is_sha256(sha256):
        return None
    use_time = datetime.fromtimestamp(status.st_mtime, UTC)
    return CacheEntry(sha256, image_format, path, status.st_size, use_time)

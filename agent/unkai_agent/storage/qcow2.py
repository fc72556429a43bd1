"""Disks as qcow2 files on this host: copy-on-write overlays over cached images.

    <root>/images/<sha256>.<format>          the cache (`image_cache.py`); read by many disks
    <root>/machines/<instance id>/           `<disk>.qcow2`, `seed.iso`, `console.log`

The files are the only truth: which disk stands on which image is read off the disk's own header
each time, by our reader, and believed only when it names a file of our cache. A disk is made under
a `.part` name and renamed, so it is there whole or not at all, and one that is there is never made
anew. The trap: QEMU owns the disks and may write anything into them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from unkai_agent.domain.clock import Clock
from unkai_agent.domain.machines import DiskSpec, ImageFormat, ImageRef, SeedSpec
from unkai_agent.domain.ports import PortSpec
from unkai_agent.storage import files, image_header, qemu_img, seed
from unkai_agent.storage.driver import CachedImage, Disk, FetchImage, ToldBytes
from unkai_agent.storage.image_cache import ImageCache
from unkai_agent.storage.refusals import (
    check_disk_name,
    check_disk_size,
    disk_corrupt,
    disk_missing,
    image_in_use,
    image_not_cached,
    image_refused,
)
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id, is_id

_THREADS = 4
"""File work at once; one slow fsync leaves room for the others."""

_log = structlog.get_logger()


class Qcow2Storage:
    """The port `StorageDriver` on a folder. Belongs to one event loop."""

    def __init__(self, root: Path, fetch: FetchImage, owner: str | None, clock: Clock) -> None:
        """Open the store, sweeping what a crash left half-made.

        `owner` is the user that QEMU runs as: disks are given to it, images and seeds lent. It is
        ignored where we are not root.
        """
        root = root.absolute()
        self._ownership = files.Ownership.of_user(owner)
        self._machines = root / "machines"
        self._root = root
        self._threads = files.Threads(_THREADS)
        self._pins: Counter[str] = Counter()
        """Disks being made from each image: it is not evicted meanwhile."""
        self._evicting: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        with files.storage_errors("its own folders"):
            root.mkdir(mode=0o711, parents=True, exist_ok=True)
            # QEMU must be able to pass through, whatever umask or packaging made of it.
            root.chmod(root.stat().st_mode & 0o7777 | 0o111)
            files.make_folder(self._machines, self._ownership)
            self._sweep()
            self._cache = ImageCache(
                root / "images",
                fetch,
                ownership=self._ownership,
                threads=self._threads,
                clock=clock,
            )

    async def ensure_image(self, image: ImageRef, told: ToldBytes | None = None) -> None:
        await self._cache.ensure(image, told)

    async def list_images(self) -> Sequence[CachedImage]:
        with files.storage_errors("the image cache"):
            return await self._threads.run(self._list_images)

    async def evict_image(self, sha256: str) -> None:
        if self._pins[sha256]:
            raise image_in_use(sha256, self._pins[sha256])
        self._evicting.add(sha256)
        try:
            with files.storage_errors("the image cache"):
                await self._threads.run(lambda: self._evict(sha256))
        finally:
            self._evicting.discard(sha256)

    async def get_disk(self, instance_id: str, name: str) -> Disk | None:
        path = self._disk_path(instance_id, name)
        with files.storage_errors(f"disk {name} of {instance_id}"):
            return await self._threads.run(lambda: self._read_disk(path))

    async def create_disk(self, instance_id: str, spec: DiskSpec) -> Disk:
        path = self._disk_path(instance_id, spec.name)
        what = f"disk {spec.name} of {instance_id}"
        async with self._lock(instance_id):
            await self._threads.ended()
            with files.storage_errors(what), self._pinned(spec.image):
                disk = await self._threads.run(lambda: self._adopt(path, spec))
                if disk is not None:
                    return disk
                if spec.must_exist:
                    raise disk_missing(instance_id, spec.name)
                size_bytes = await self._threads.run(lambda: self._new_size(spec))
                await self._make_disk(path, spec.image, size_bytes, what)
                made = await self._threads.run(lambda: self._read_disk(path))
        if made is None:
            raise disk_missing(instance_id, spec.name)
        _log.info("disk_created", instance_id=instance_id, disk=spec.name, size_bytes=size_bytes)
        return made

    async def ensure_seed(
        self, instance_id: str, spec: SeedSpec, ports: Sequence[PortSpec] = ()
    ) -> Path:
        path = self._folder(instance_id) / "seed.iso"

        def ensure() -> None:
            content = seed.render(instance_id, spec, ports)
            if files.read_head(path, len(content) + 1) == content:
                self._ownership.lend_readable(path)
                return
            with files.folder_made(path.parent, self._ownership):
                files.write_whole(path, content, self._ownership.lend_readable)

        async with self._lock(instance_id):
            await self._threads.ended()
            with files.storage_errors(f"seed disk of {instance_id}"):
                await self._threads.run(ensure)
        return path

    async def console_log(self, instance_id: str) -> Path:
        folder = self._folder(instance_id)
        async with self._lock(instance_id):
            with files.storage_errors(f"console log of {instance_id}"):
                await self._threads.run(lambda: files.make_folder(folder, self._ownership))
        return folder / "console.log"

    async def remove(self, instance_id: str) -> None:
        folder = self._folder(instance_id)
        async with self._lock(instance_id):
            await self._threads.ended()
            with files.storage_errors(f"removing what {instance_id} stored"):
                await self._threads.run(lambda: files.remove_folder(folder))

    async def list_machines(self) -> Mapping[str, Set[str]]:
        with files.storage_errors("the machines' folders"):
            return await self._threads.run(self._list_machines)

    async def available_bytes(self) -> int:
        with files.storage_errors("its own folders"):
            return await self._threads.run(lambda: files.available_bytes(self._root))

    async def close(self) -> None:
        self._threads.close()

    # What follows blocks, and runs in threads.

    def _adopt(self, path: Path, spec: DiskSpec) -> Disk | None:
        """Return the disk that is there, made sure that QEMU can open it.

        It is taken as it is: growing it is not for here, since a guest may be running on it.
        """
        disk = self._read_disk(path)
        if disk is None:
            return None
        if disk.backing_path is not None and disk.backing_path != self._cache.path(spec.image):
            raise _corrupt(path, "it stands on another image than the one asked for")
        self._ownership.give_writable(path)
        return disk

    def _read_disk(self, path: Path) -> Disk | None:
        head = files.read_head(path, image_header.HEAD_BYTES)
        if head is None:
            return None
        try:
            header = image_header.parse(head, len(head))
        except image_header.HeaderError as error:
            raise _corrupt(path, str(error)) from error
        if header.format is not ImageFormat.QCOW2 or header.has_data_file:
            raise _corrupt(path, "it is not a qcow2 disk of ours")
        disk = Disk(path, header.format.value, header.virtual_size_bytes)
        if not header.backing_file:
            return disk
        # QEMU can write this name, so it is believed only within the cache, and the format is
        # taken from the cache's name for the file.
        backing = Path(os.path.normpath(path.parent / header.backing_file))
        if not self._cache.holds(backing):
            raise _corrupt(path, "it stands on a file that is no image of the cache")
        return Disk(path, disk.format, disk.size_bytes, backing, backing.suffix[1:])

    def _new_size(self, spec: DiskSpec) -> int:
        """Return the size for a new disk; the image must be in the cache and fit."""
        entry = self._cache.find(spec.image.sha256)
        if entry is None or entry.format is not spec.image.format:
            raise image_not_cached(spec.image)
        head = files.read_head(entry.path, image_header.HEAD_BYTES) or b""
        try:
            least_bytes = image_header.parse(head, entry.size_bytes).virtual_size_bytes
        except image_header.HeaderError as error:
            raise image_refused(spec.image, str(error)) from error
        return check_disk_size(spec, least_bytes)

    async def _make_disk(self, path: Path, image: ImageRef, size_bytes: int, what: str) -> None:
        """Make the disk beside its place, then rename it. Leaves nothing when it fails."""
        part = files.part_of(path)
        base = self._cache.path(image)
        made_folder = await self._threads.run(
            lambda: files.make_folder(path.parent, self._ownership)
        )

        def clear() -> None:
            files.remove_file(part)
            if made_folder and not path.exists():
                with suppress(OSError):
                    path.parent.rmdir()

        def finish() -> None:
            self._ownership.give_writable(part)
            files.put_in_place(part, path)
            self._cache.touch(base)

        try:
            await self._threads.run(partial(files.remove_file, part))
            await qemu_img.create_overlay(
                part,
                # Relative, so that a store that is moved as a whole stays in order.
                base=f"../../{base.parent.name}/{base.name}",
                base_format=image.format,
                size_bytes=size_bytes,
                what=what,
            )
            await self._threads.run(finish)
        finally:
            await self._threads.run(clear)

    def _list_images(self) -> list[CachedImage]:
        counts = self._counts()
        return [
            CachedImage(entry.sha256, entry.size_bytes, counts[entry.path], entry.use_time)
            for entry in self._cache.entries()
        ]

    def _counts(self) -> Counter[Path]:
        """Count the disks on each image; a disk that cannot be read stands on none we know."""
        counts: Counter[Path] = Counter()
        for path in self._machines.glob("*/*.qcow2"):
            with suppress(FailedPrecondition):
                counts.update(self._backing(path))
        return counts

    def _backing(self, path: Path) -> list[Path]:
        disk = self._read_disk(path)
        return [disk.backing_path] if disk is not None and disk.backing_path is not None else []

    def _evict(self, sha256: str) -> None:
        entry = self._cache.find(sha256)
        if entry is None:
            return
        # A disk that cannot be read may stand on this image: then nothing is dropped.
        backings = [b for path in self._machines.glob("*/*.qcow2") for b in self._backing(path)]
        if entry.path in backings:
            raise image_in_use(sha256, backings.count(entry.path))
        self._cache.remove(sha256)
        _log.info("image_evicted", sha256=sha256, size_bytes=entry.size_bytes)

    def _list_machines(self) -> dict[str, Set[str]]:
        return {
            folder.name: self._readable_disks(folder)
            for folder in sorted(self._machines.iterdir())
            if is_id("instance", folder.name) and any(folder.iterdir())
        }

    def _readable_disks(self, folder: Path) -> Set[str]:
        names = set()
        for path in folder.glob("*.qcow2"):
            with suppress(FailedPrecondition, OSError):
                if self._read_disk(path) is not None:
                    names.add(path.stem)
        return names

    def _sweep(self) -> None:
        for folder in self._machines.iterdir():
            files.sweep_parts(folder)
            with suppress(OSError):
                folder.rmdir()  # only an empty one goes

    def _folder(self, instance_id: str) -> Path:
        return self._machines / check_id("instance", instance_id, "instance_id")

    def _disk_path(self, instance_id: str, name: str) -> Path:
        return self._folder(instance_id) / f"{check_disk_name(name)}.qcow2"

    @contextmanager
    def _pinned(self, image: ImageRef) -> Iterator[None]:
        """Keep an image from being evicted while a disk is made from it."""
        if image.sha256 in self._evicting:
            raise image_not_cached(image)
        self._pins[image.sha256] += 1
        try:
            yield
        finally:
            self._pins[image.sha256] -= 1
            if not self._pins[image.sha256]:
                del self._pins[image.sha256]

    def _lock(self, instance_id: str) -> asyncio.Lock:
        """Return the instance's lock; it lives as long as somebody holds or awaits it."""
        return self._locks.setdefault(instance_id, asyncio.Lock())


def _corrupt(path: Path, problem: str) -> FailedPrecondition:
    return disk_corrupt(path.parent.name, path.stem, problem)

"""The port to where disks live. Implemented by `qcow2.py` (with `image_cache.py`) and `fake.py`.

Every method may run twice. Methods raise `FailedPrecondition` / DISK_FULL when there is no room,
leaving nothing half-made behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from unkai_agent.domain.machines import DiskSpec, ImageRef, SeedSpec
from unkai_agent.domain.ports import PortSpec

FetchImage = Callable[[str, int], AsyncIterator[bytes]]
"""`fetch(image_id, offset_bytes)` yields an image's bytes from any scheduler."""

ToldBytes = Callable[[int], None]
"""Hears how many bytes have come so far; called in the event loop, and must return at once."""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """One image in the cache."""

    sha256: str
    size_bytes: int
    disk_count: int
    use_time: datetime


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it is on this host."""

    path: Path
    format: str
    size_bytes: int
    """Size as the guest sees it."""
    backing_path: Path | None = None
    """The cached image it stands on; told to the hypervisor, which must never find it by itself."""
    backing_format: str = ""
    """`qcow2` or `raw`; empty without a backing file."""


class StorageDriver(Protocol):
    """Disks, seeds and the image cache of this host."""

    async def ensure_image(self, image: ImageRef, told: ToldBytes | None = None) -> None:
        """Have the image in the cache: fetch it if need be, checking SHA-256 while writing.

        `told` hears how many bytes have come, also where another call fetches them.

        Concurrent calls for one image fetch it once. Raises `FailedPrecondition` /
        IMAGE_CORRUPT when the bytes are not those named, IMAGE_REFUSED when they are and hold
        what no image may (a backing file, a data file, encryption); nothing is kept of them.
        """

    async def list_images(self) -> Sequence[CachedImage]:
        """Return the cache's entries by sha256."""

    async def evict_image(self, sha256: str) -> None:
        """Drop an entry; `FailedPrecondition` / IMAGE_IN_USE while a disk stands on it."""

    async def get_disk(self, instance_id: str, name: str) -> Disk | None:
        """Return the disk, or None when it is not there."""

    async def create_disk(self, instance_id: str, spec: DiskSpec) -> Disk:
        """Make the disk as an overlay over the cached image, or adopt the one that is there.

        A size of 0 means the image's own. Raises `FailedPrecondition`: IMAGE_NOT_CACHED;
        DISK_MISSING when the spec says MUST_EXIST and there is none; DISK_TOO_SMALL;
        DISK_CORRUPT when what is there is no disk of ours.
        """

    async def ensure_seed(
        self, instance_id: str, spec: SeedSpec, ports: Sequence[PortSpec] = ()
    ) -> Path:
        """Write the seed disk (NoCloud, label CIDATA) if its content differs; return its path."""

    async def console_log(self, instance_id: str) -> Path:
        """Return the path for the console's log, its folder made."""

    async def remove(self, instance_id: str) -> None:
        """Remove all that was stored for the machine."""

    async def list_machines(self) -> Mapping[str, Set[str]]:
        """Return the instance ids something is stored for, with the disks of each by name.

        A disk that cannot be read is left out; `get_disk` says what is wrong with it.
        """

    async def available_bytes(self) -> int:
        """Return the bytes free where disks are kept."""

    async def close(self) -> None:
        """Let go of threads. Disks stay."""

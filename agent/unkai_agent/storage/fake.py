"""Storage made of nothing, for tests and for fleets of simulated hosts.

Passes the same contract suite as `qcow2.py`. Disks, seeds and images are entries in memory and
take room from `capacity_bytes` in name; the paths it gives lead nowhere, but for the folder of a
console's log, which is made. With a `fetch`, image bytes are really fetched and checked, then
thrown away; without one every image is simply there. `faults` is the menu of what may go wrong;
each entry acts until it is used up or taken back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from unkai_agent.domain.clock import Clock, system_clock
from unkai_agent.domain.machines import DiskSpec, ImageFormat, ImageRef, SeedSpec
from unkai_agent.domain.ports import PortSpec
from unkai_agent.storage import image_header
from unkai_agent.storage.driver import CachedImage, Disk, FetchImage, ToldBytes
from unkai_agent.storage.refusals import (
    check_disk_name,
    check_disk_size,
    check_sha256,
    disk_corrupt,
    disk_full,
    disk_missing,
    image_corrupt,
    image_in_use,
    image_not_cached,
    image_refused,
)
from unkai_agent.storage.single_flight import SingleFlight
from unkai_wire.errors import UnkaiError
from unkai_wire.ids import check_id

_OVERLAY_BYTES = 196_624
"""What a fresh overlay takes."""
_SEED_BYTES = 67_584
"""What a small seed takes."""


@dataclass(slots=True)
class Faults:
    """What shall go wrong. All off by default."""

    full: bool = False
    """Nothing new has room."""
    corrupt_images: set[str] = field(default_factory=set)
    """Ids of images whose bytes arrive damaged."""
    delay_s: float = 0.0
    """Every call that writes takes so much longer."""
    disk_errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next calls of `create_disk`, one each."""
    image_errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next fetches of an image, one each."""
    damaged_disks: set[str] = field(default_factory=set)
    """Ids of instances whose disks' headers say nothing any more."""


@dataclass(slots=True)
class _Image:
    size_bytes: int
    virtual_size_bytes: int
    format: ImageFormat
    use_time: datetime


@dataclass(slots=True)
class _Store:
    """What one machine has stored."""

    disks: dict[str, tuple[Disk, str]] = field(default_factory=dict)
    """Disk and the SHA-256 it stands on, by name."""
    seed: SeedSpec | None = None
    ports: tuple[PortSpec, ...] = ()
    """As the seed tells of them."""


class FakeStorage:
    """The port `StorageDriver` in memory."""

    def __init__(
        self,
        root: Path,
        fetch: FetchImage | None = None,
        *,
        capacity_bytes: int = 1 << 40,
        clock: Clock = system_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.faults = Faults()
        self._root = root
        self._fetch = fetch
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._sleep = sleep
        self._images: dict[str, _Image] = {}
        self._machines: dict[str, _Store] = {}
        self._flights = SingleFlight()
        self._hearers: dict[str, list[ToldBytes]] = {}

    async def ensure_image(self, image: ImageRef, told: ToldBytes | None = None) -> None:
        check_sha256(image.sha256)

        async def fetch_if_missing() -> None:
            if image.sha256 not in self._images:
                await self._fetch_image(image)
                for hearer in self._hearers.get(image.sha256, ()):
                    hearer(image.size_bytes)

        hearers = self._hearers.setdefault(image.sha256, [])
        hearers += [told] if told else []
        try:
            await self._flights.run(image.sha256, fetch_if_missing)
        finally:
            if told:
                hearers.remove(told)

    async def list_images(self) -> Sequence[CachedImage]:
        return [
            CachedImage(sha256, image.size_bytes, self._disks_on(sha256), image.use_time)
            for sha256, image in sorted(self._images.items())
        ]

    async def evict_image(self, sha256: str) -> None:
        if disks := self._disks_on(sha256):
            raise image_in_use(sha256, disks)
        self._images.pop(sha256, None)

    async def get_disk(self, instance_id: str, name: str) -> Disk | None:
        _check(instance_id, name)
        found = self._store(instance_id).disks.get(name)
        if found is not None and instance_id in self.faults.damaged_disks:
            raise disk_corrupt(instance_id, name, "it was damaged by order")
        return found[0] if found else None

    async def create_disk(self, instance_id: str, spec: DiskSpec) -> Disk:
        _check(instance_id, spec.name)
        await self._delay()
        if self.faults.disk_errors:
            raise self.faults.disk_errors.pop(0)
        found = self._store(instance_id).disks.get(spec.name)
        if found is not None:
            if found[1] != spec.image.sha256:
                raise disk_corrupt(
                    instance_id,
                    spec.name,
                    "it stands on another image than the one asked for",
                )
            return found[0]
        if spec.must_exist:
            raise disk_missing(instance_id, spec.name)
        image = self._images.get(spec.image.sha256)
        if image is None or image.format is not spec.image.format:
            raise image_not_cached(spec.image)
        size_bytes = check_disk_size(spec, image.virtual_size_bytes)
        self._take(_OVERLAY_BYTES, f"disk {spec.name} of {instance_id}")
        base = self._root / "images" / f"{spec.image.sha256}.{image.format.value}"
        path = self._root / "machines" / instance_id / f"{spec.name}.qcow2"
        disk = Disk(path, ImageFormat.QCOW2.value, size_bytes, base, image.format.value)
        store = self._machines.setdefault(instance_id, _Store())
        store.disks[spec.name] = (disk, spec.image.sha256)
        image.use_time = self._clock()
        return disk

    async def ensure_seed(
        self, instance_id: str, spec: SeedSpec, ports: Sequence[PortSpec] = ()
    ) -> Path:
        _check(instance_id)
        await self._delay()
        if self._store(instance_id).seed is None:
            self._take(_SEED_BYTES, f"seed disk of {instance_id}")
        store = self._machines.setdefault(instance_id, _Store())
        store.seed, store.ports = spec, tuple(ports)
        return self._root / "machines" / instance_id / "seed.iso"

    async def console_log(self, instance_id: str) -> Path:
        _check(instance_id)
        folder = self._root / "machines" / instance_id
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        return folder / "console.log"

    async def remove(self, instance_id: str) -> None:
        _check(instance_id)
        await self._delay()
        self._machines.pop(instance_id, None)
        await asyncio.to_thread(_clear_console, self._root / "machines" / instance_id)

    async def list_machines(self) -> Mapping[str, Set[str]]:
        damaged = self.faults.damaged_disks
        return {
            instance_id: frozenset() if instance_id in damaged else frozenset(store.disks)
            for instance_id, store in sorted(self._machines.items())
        }

    async def available_bytes(self) -> int:
        return 0 if self.faults.full else self._capacity_bytes - self._used_bytes()

    async def close(self) -> None:
        """Nothing to let go of."""

    def lose_disk(self, instance_id: str, name: str) -> None:
        """Let a disk vanish behind everybody's back."""
        del self._machines[instance_id].disks[name]

    def seed_of(self, instance_id: str) -> SeedSpec | None:
        """Return what the machine's seed disk says."""
        return self._store(instance_id).seed

    def ports_of(self, instance_id: str) -> tuple[PortSpec, ...]:
        """Return the ports that the machine's seed disk tells of."""
        return self._store(instance_id).ports

    def _store(self, instance_id: str) -> _Store:
        return self._machines.get(instance_id) or _Store()

    def _disks_on(self, sha256: str) -> int:
        stores = self._machines.values()
        return sum(base == sha256 for store in stores for _, base in store.disks.values())

    async def _fetch_image(self, image: ImageRef) -> None:
        await self._delay()
        if self.faults.image_errors:
            raise self.faults.image_errors.pop(0)
        if image.image_id in self.faults.corrupt_images:
            raise image_corrupt(image, "they were damaged by order")
        self._take(image.size_bytes, f"image {image.image_id}")
        if self._fetch is not None:
            await _check_bytes(image, self._fetch)
        self._images[image.sha256] = _Image(
            image.size_bytes, image.virtual_size_bytes, image.format, self._clock()
        )

    async def _delay(self) -> None:
        if self.faults.delay_s:
            await self._sleep(self.faults.delay_s)

    def _used_bytes(self) -> int:
        disks = sum(len(store.disks) for store in self._machines.values())
        seeds = sum(store.seed is not None for store in self._machines.values())
        images = sum(image.size_bytes for image in self._images.values())
        return images + disks * _OVERLAY_BYTES + seeds * _SEED_BYTES

    def _take(self, size_bytes: int, what: str) -> None:
        if self.faults.full or self._used_bytes() + size_bytes > self._capacity_bytes:
            raise disk_full(what)


async def _check_bytes(image: ImageRef, fetch: FetchImage) -> None:
    """Fetch the bytes and check all that the real cache checks, keeping none."""
    digest, head, length = hashlib.sha256(), b"", 0
    async for chunk in fetch(image.image_id, 0):
        digest.update(chunk)
        length += len(chunk)
        head += chunk[: image_header.HEAD_BYTES - len(head)]
        if length > image.size_bytes:
            raise image_corrupt(image, f"more than {image.size_bytes} bytes came")
    if length != image.size_bytes:
        raise image_corrupt(image, f"{length} bytes came, not {image.size_bytes}")
    if digest.hexdigest() != image.sha256:
        raise image_corrupt(image, f"their SHA-256 is {digest.hexdigest()}")
    try:
        problem = image_header.refusal(image_header.parse(head, length), image)
    except image_header.HeaderError as error:
        raise image_refused(image, str(error)) from error
    if problem:
        raise image_refused(image, problem)


def _check(instance_id: str, disk: str = "root") -> None:
    check_id("instance", instance_id, "instance_id")
    check_disk_name(disk)


def _clear_console(folder: Path) -> None:
    (folder / "console.log").unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()

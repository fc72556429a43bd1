"""The contract of `StorageDriver`, kept by qcow2 files and by the fake alike."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.images import MIB, ImageSource, an_image, qcow2_bytes, raw_bytes
from unkai_agent.domain.machines import DiskSpec, ImageFormat, ImageRef, SeedSpec
from unkai_agent.storage.driver import Disk, StorageDriver
from unkai_agent.storage.fake import FakeStorage
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_wire.errors import FailedPrecondition, InvalidArgument, Unavailable

INSTANCE = "ins-00000000000000000000000001"
OTHER = "ins-00000000000000000000000002"
START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class Harness:
    """A driver, where its bytes come from, and what a test may do to both."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.source = ImageSource()
        self.now = START
        self.folder = folder
        self.driver: StorageDriver
        self._ballast = folder / "ballast"
        if kind == "fake":
            self.driver = FakeStorage(
                folder, self.source.fetch, capacity_bytes=16 * MIB, clock=lambda: self.now
            )
        else:
            self.driver = Qcow2Storage(
                folder / "state", self.source.fetch, "libvirt-qemu", lambda: self.now
            )

    def fill(self) -> None:
        """Leave no room."""
        if isinstance(self.driver, FakeStorage):
            self.driver.faults.full = True
            return
        # In small pieces at the end, so that not even a small file fits.
        with self._ballast.open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        """Take the ballast away."""
        if isinstance(self.driver, FakeStorage):
            self.driver.faults.full = False
        else:
            self._ballast.unlink()

    def damage(self, disk: Disk) -> None:
        """Destroy the disk's header."""
        if isinstance(self.driver, FakeStorage):
            self.driver.faults.damaged_disks.add(disk.path.parent.name)
        else:
            disk.path.write_bytes(b"no disk")

    def files(self) -> set[str]:
        """Return all files there are, ballast aside; empty for the fake."""
        found = (p for p in self.folder.rglob("*") if p.is_file() and p != self._ballast)
        return {str(p.relative_to(self.folder)) for p in found}

    async def cached(self, fill: int = 1, size_bytes: int = 2 * MIB) -> ImageRef:
        """Have a raw image in the cache."""
        content = raw_bytes(size_bytes, fill)
        image = self.source.serve(an_image(content, ident=_image_id(fill)), content)
        await self.driver.ensure_image(image)
        return image


def _image_id(number: int) -> str:
    return f"img-{number:026d}"


def a_disk(image: ImageRef, size_bytes: int = 4 * MIB, *, must_exist: bool = False) -> DiskSpec:
    return DiskSpec("root", size_bytes, image, must_exist)


@pytest.fixture(params=["fake", pytest.param("qcow2", marks=pytest.mark.real)])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder; for the real driver a file system of 16 MiB of its own."""
    with ExitStack() as undo:
        if request.param == "qcow2":
            if shutil.which("qemu-img") is None or os.geteuid() != 0:
                pytest.skip("needs qemu-img, and root to mount a small file system")
            mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "tmpfs", str(tmp_path)]
            subprocess.run(mount, check=True)
            undo.callback(subprocess.run, ["umount", str(tmp_path)], check=True)
        yield tmp_path


@pytest.fixture
async def harness(request: pytest.FixtureRequest, room: Path) -> AsyncIterator[Harness]:
    made = Harness(request.node.callspec.params["room"], room)
    yield made
    await made.driver.close()


async def test_a_fetch_tells_everybody_who_waits_how_far_it_is(harness: Harness) -> None:
    content = raw_bytes(2 * MIB)
    image = harness.source.serve(an_image(content, ident=_image_id(7)), content)
    heard: list[list[int]] = [[], []]
    await asyncio.gather(*(harness.driver.ensure_image(image, ears.append) for ears in heard))
    for ears in heard:
        assert ears == sorted(ears)
        assert ears[-1] == len(content)
    again: list[int] = []
    await harness.driver.ensure_image(image, again.append)
    assert again == [], "nothing is fetched that is there"


async def test_an_image_is_fetched_once_and_listed(harness: Harness) -> None:
    image = await harness.cached()
    await harness.driver.ensure_image(image)

    assert harness.source.fetches == [image.image_id]
    [entry] = await harness.driver.list_images()
    assert (entry.sha256, entry.size_bytes, entry.disk_count) == (image.sha256, 2 * MIB, 0)


async def test_images_are_listed_by_sha256(harness: Harness) -> None:
    images = [await harness.cached(fill, MIB) for fill in (1, 2, 3)]
    listed = [entry.sha256 for entry in await harness.driver.list_images()]
    assert listed == sorted(image.sha256 for image in images)


async def test_concurrent_calls_fetch_an_image_once(harness: Harness) -> None:
    content = raw_bytes()
    image = harness.source.serve(an_image(content), content)
    await asyncio.gather(*(harness.driver.ensure_image(image) for _ in range(20)))
    assert len(harness.source.fetches) == 1


async def test_a_cancelled_fetch_is_taken_over_by_one_who_waits(harness: Harness) -> None:
    content = raw_bytes()
    image = harness.source.serve(an_image(content), content)
    harness.source.gate = asyncio.Event()
    first = asyncio.create_task(harness.driver.ensure_image(image))
    await harness.source.begun.wait()
    second = asyncio.create_task(harness.driver.ensure_image(image))
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    harness.source.gate.set()
    await second

    assert len(harness.source.fetches) == 2
    assert len(await harness.driver.list_images()) == 1


async def test_all_who_wait_learn_of_a_failed_fetch_and_a_retry_works(harness: Harness) -> None:
    content = raw_bytes()
    image = harness.source.serve(an_image(content), content)
    harness.source.fail_after_bytes = MIB
    calls = (harness.driver.ensure_image(image) for _ in range(5))
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert {getattr(r, "reason", r) for r in results} == {"SCHEDULER_UNREACHABLE"}
    assert all(isinstance(r, Unavailable) for r in results)
    assert len(harness.source.fetches) == 1
    assert harness.files() == set()

    await harness.driver.ensure_image(image)
    assert len(await harness.driver.list_images()) == 1


@pytest.mark.parametrize(
    "sent",
    [raw_bytes(fill=9), raw_bytes()[:-1], raw_bytes() + b"x", b""],
    ids=["other bytes", "too few", "too many", "none"],
)
async def test_of_corrupt_bytes_nothing_is_kept(harness: Harness, sent: bytes) -> None:
    image = harness.source.serve(an_image(raw_bytes()), sent)
    before = await harness.driver.available_bytes()
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.ensure_image(image)

    assert caught.value.reason == "IMAGE_CORRUPT"
    assert caught.value.metadata["image"] == image.image_id
    assert await harness.driver.list_images() == []
    assert harness.files() == set()
    assert await harness.driver.available_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (qcow2_bytes(backing=b"/etc/shadow", backing_format=b"raw"), ImageFormat.QCOW2),
        (qcow2_bytes(features=0b100), ImageFormat.QCOW2),
        (qcow2_bytes(encryption=2), ImageFormat.QCOW2),
        (qcow2_bytes(16 * MIB), ImageFormat.QCOW2),
        (qcow2_bytes(features=1 << 40), ImageFormat.QCOW2),
        (qcow2_bytes(version=7), ImageFormat.QCOW2),
        (qcow2_bytes(), ImageFormat.RAW),
        (raw_bytes(65536), ImageFormat.QCOW2),
    ],
    ids=["backing", "data file", "encrypted", "size", "features", "version", "raw", "not qcow2"],
)
async def test_an_image_that_does_not_stand_alone_is_refused(
    harness: Harness, content: bytes, said: ImageFormat
) -> None:
    image = harness.source.serve(
        an_image(content, image_format=said, virtual_size_bytes=8 * MIB), content
    )
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.ensure_image(image)
    assert caught.value.reason == "IMAGE_REFUSED"
    assert await harness.driver.list_images() == []
    assert harness.files() == set()


async def test_a_disk_stands_on_its_image(harness: Harness) -> None:
    image = await harness.cached()
    disk = await harness.driver.create_disk(INSTANCE, a_disk(image))

    assert (disk.format, disk.size_bytes) == ("qcow2", 4 * MIB)
    assert disk.backing_path is not None
    assert disk.backing_path.name == f"{image.sha256}.raw"
    assert disk.backing_format == "raw"
    assert await harness.driver.get_disk(INSTANCE, "root") == disk
    assert [entry.disk_count for entry in await harness.driver.list_images()] == [1]


async def test_a_disk_over_a_qcow2_image_has_its_virtual_size(harness: Harness) -> None:
    content = qcow2_bytes(8 * MIB)
    image = harness.source.serve(
        an_image(content, image_format=ImageFormat.QCOW2, virtual_size_bytes=8 * MIB), content
    )
    await harness.driver.ensure_image(image)
    disk = await harness.driver.create_disk(INSTANCE, a_disk(image, 0))
    assert (disk.size_bytes, disk.backing_format) == (8 * MIB, "qcow2")


async def test_a_disk_that_is_there_is_adopted(harness: Harness) -> None:
    image = await harness.cached()
    disk = await harness.driver.create_disk(INSTANCE, a_disk(image))
    again = await harness.driver.create_disk(INSTANCE, a_disk(image, 8 * MIB, must_exist=True))
    assert again == disk


async def test_a_disk_on_another_image_is_not_adopted(harness: Harness) -> None:
    await harness.driver.create_disk(INSTANCE, a_disk(await harness.cached(1)))
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.create_disk(INSTANCE, a_disk(await harness.cached(2)))
    assert caught.value.reason == "DISK_CORRUPT"


async def test_concurrent_creates_make_one_disk(harness: Harness) -> None:
    image = await harness.cached()
    calls = (harness.driver.create_disk(INSTANCE, a_disk(image)) for _ in range(8))
    assert len(set(await asyncio.gather(*calls))) == 1
    assert [entry.disk_count for entry in await harness.driver.list_images()] == [1]


async def test_a_disk_without_its_image_is_refused_and_leaves_nothing(harness: Harness) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.create_disk(INSTANCE, a_disk(an_image(raw_bytes())))
    assert caught.value.reason == "IMAGE_NOT_CACHED"
    assert await harness.driver.list_machines() == {}


async def test_a_disk_that_must_exist_is_never_made(harness: Harness) -> None:
    image = await harness.cached()
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.create_disk(INSTANCE, a_disk(image, must_exist=True))
    assert caught.value.reason == "DISK_MISSING"
    assert await harness.driver.get_disk(INSTANCE, "root") is None
    assert await harness.driver.list_machines() == {}


async def test_a_disk_smaller_than_its_image_is_refused(harness: Harness) -> None:
    image = await harness.cached()
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.create_disk(INSTANCE, a_disk(image, MIB))
    assert caught.value.reason == "DISK_TOO_SMALL"
    assert caught.value.metadata["least_bytes"] == str(2 * MIB)


async def test_making_a_disk_moves_the_images_use_time(harness: Harness) -> None:
    image = await harness.cached()
    harness.now += timedelta(hours=3)
    await harness.driver.create_disk(INSTANCE, a_disk(image))
    [entry] = await harness.driver.list_images()
    assert entry.use_time == START + timedelta(hours=3)


async def test_an_image_in_use_is_not_evicted(harness: Harness) -> None:
    image = await harness.cached()
    await harness.driver.create_disk(INSTANCE, a_disk(image))
    await harness.driver.create_disk(OTHER, a_disk(image))
    await harness.driver.remove(OTHER)
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.evict_image(image.sha256)
    assert (caught.value.reason, caught.value.metadata["disks"]) == ("IMAGE_IN_USE", "1")

    await harness.driver.remove(INSTANCE)
    await harness.driver.evict_image(image.sha256)
    await harness.driver.evict_image(image.sha256)
    assert await harness.driver.list_images() == []
    assert harness.files() == set()


async def test_removing_leaves_nothing_and_may_run_twice(harness: Harness) -> None:
    image = await harness.cached()
    await harness.driver.create_disk(INSTANCE, a_disk(image))
    await harness.driver.create_disk(OTHER, a_disk(image))
    await harness.driver.ensure_seed(INSTANCE, SeedSpec("web"))
    log = await harness.driver.console_log(INSTANCE)
    log.write_bytes(b"hello")
    assert list(await harness.driver.list_machines()) == [INSTANCE, OTHER]

    await harness.driver.remove(INSTANCE)
    await harness.driver.remove(INSTANCE)

    assert list(await harness.driver.list_machines()) == [OTHER]
    assert await harness.driver.get_disk(INSTANCE, "root") is None
    assert not log.parent.exists()


async def test_each_machine_is_listed_with_the_disks_that_can_be_read(harness: Harness) -> None:
    image = await harness.cached()
    disk = await harness.driver.create_disk(INSTANCE, a_disk(image))
    await harness.driver.ensure_seed(OTHER, SeedSpec("web"))
    assert await harness.driver.list_machines() == {INSTANCE: {"root"}, OTHER: set()}
    harness.damage(disk)
    assert await harness.driver.list_machines() == {INSTANCE: set(), OTHER: set()}


async def test_a_seed_has_one_path_whatever_it_says(harness: Harness) -> None:
    first = await harness.driver.ensure_seed(INSTANCE, SeedSpec("web"))
    again = await harness.driver.ensure_seed(INSTANCE, SeedSpec("web", user_data=b"#!/bin/sh\n"))
    assert first == again
    assert list(await harness.driver.list_machines()) == [INSTANCE]


async def test_without_room_for_an_image_nothing_is_kept(harness: Harness) -> None:
    await harness.cached(1)
    before = harness.files()
    with pytest.raises(FailedPrecondition) as caught:
        await harness.cached(2, 15 * MIB)
    assert caught.value.reason == "DISK_FULL"
    assert len(await harness.driver.list_images()) == 1
    assert harness.files() == before


async def test_a_full_disk_is_said_so_and_leaves_nothing_half_made(harness: Harness) -> None:
    image = await harness.cached()
    before = harness.files()
    harness.fill()
    for attempt in (
        harness.driver.create_disk(INSTANCE, a_disk(image)),
        harness.driver.ensure_seed(OTHER, SeedSpec("web")),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await attempt
        assert caught.value.reason == "DISK_FULL"
    assert harness.files() == before
    assert await harness.driver.list_machines() == {}
    assert await harness.driver.available_bytes() < MIB

    harness.clear()
    await harness.driver.create_disk(INSTANCE, a_disk(image))
    await harness.driver.ensure_seed(OTHER, SeedSpec("web"))
    assert list(await harness.driver.list_machines()) == [INSTANCE, OTHER]


async def test_what_is_stored_takes_room(harness: Harness) -> None:
    before = await harness.driver.available_bytes()
    await harness.cached()
    assert 2 * MIB <= before - await harness.driver.available_bytes() < 3 * MIB


@pytest.mark.parametrize("ident", ["", "..", "../../etc", "ins-1", "img-" + "0" * 26])
async def test_what_is_no_instance_id_is_refused(harness: Harness, ident: str) -> None:
    for attempt in (
        harness.driver.get_disk(ident, "root"),
        harness.driver.ensure_seed(ident, SeedSpec("web")),
        harness.driver.console_log(ident),
        harness.driver.remove(ident),
    ):
        with pytest.raises(InvalidArgument):
            await attempt


async def test_what_is_no_disk_name_or_hash_is_refused(harness: Harness) -> None:
    image = ImageRef(_image_id(1), "../x", 1, 1, ImageFormat.RAW)
    with pytest.raises(InvalidArgument):
        await harness.driver.get_disk(INSTANCE, "../root")
    with pytest.raises(InvalidArgument):
        await harness.driver.ensure_image(image)

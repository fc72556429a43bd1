"""What the real storage promises beyond the port: crashes, hostile files, whose files they are."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.support.images import MIB, ImageSource, an_image, open_folder, qcow2_bytes, raw_bytes
from unkai_agent.domain.machines import DiskSpec, ImageRef, SeedSpec
from unkai_agent.storage import files, image_cache, qemu_img
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_wire.errors import FailedPrecondition, Unavailable

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

INSTANCE = "ins-00000000000000000000000001"
QEMU_USER = "libvirt-qemu"


def the_clock() -> datetime:
    return datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that QEMU's user can pass through."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def source() -> ImageSource:
    return ImageSource()


@pytest.fixture
async def open_store(
    tmp_path: Path, source: ImageSource
) -> AsyncIterator[Callable[[], Qcow2Storage]]:
    """Open the store as an agent's start does; more than once is a restart."""
    opened: list[Qcow2Storage] = []

    def open_one() -> Qcow2Storage:
        owner = QEMU_USER if os.geteuid() == 0 else None
        opened.append(Qcow2Storage(tmp_path / "state", source.fetch, owner, the_clock))
        return opened[-1]

    yield open_one
    for storage in opened:
        await storage.close()


@pytest.fixture
async def storage(open_store: Callable[[], Qcow2Storage]) -> Qcow2Storage:
    return open_store()


@pytest.fixture
async def image(storage: Qcow2Storage, source: ImageSource) -> ImageRef:
    """A raw image in the cache."""
    content = raw_bytes()
    served = source.serve(an_image(content), content)
    await storage.ensure_image(served)
    return served


def a_disk(image: ImageRef) -> DiskSpec:
    return DiskSpec("root", 4 * MIB, image, must_exist=False)


def tree(tmp_path: Path) -> set[str]:
    return {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}


def parts(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.part"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=20, check=False
    )


def run_as(user: str, *command: str) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(user)
    return subprocess.run(
        command,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=os.getgrouplist(user, entry.pw_gid),
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=20,
        check=False,
    )


def as_qemu(*command: str) -> subprocess.CompletedProcess[str]:
    return run_as(QEMU_USER, *command)


def is_running(pid: str) -> bool:
    return Path("/proc", pid).exists()


def normal(path: str) -> Path:
    return Path(os.path.normpath(path))


async def test_a_restart_finds_everything_again(
    open_store: Callable[[], Qcow2Storage], storage: Qcow2Storage, image: ImageRef
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    restarted = open_store()
    assert await restarted.get_disk(INSTANCE, "root") == disk
    assert await restarted.list_images() == await storage.list_images()
    assert list(await restarted.list_machines()) == [INSTANCE]


async def test_the_next_start_sweeps_what_a_crash_left(
    open_store: Callable[[], Qcow2Storage], storage: Qcow2Storage, image: ImageRef, tmp_path: Path
) -> None:
    await storage.create_disk(INSTANCE, a_disk(image))
    before = tree(tmp_path)
    state = tmp_path / "state"
    (state / "images" / f".{'a' * 64}.qcow2.part").write_bytes(b"half")
    (state / "machines" / INSTANCE / ".root.qcow2.part").write_bytes(b"half")
    (state / "machines" / "ins-00000000000000000000000009").mkdir()

    open_store()

    assert tree(tmp_path) == before


async def test_a_kill_at_any_moment_leaves_whole_files_or_none(
    tmp_path: Path, open_store: Callable[[], Qcow2Storage]
) -> None:
    # The child ensures images and makes and removes disks without end; it says so after
    # each disk, and is killed some moments later.
    child = Path(__file__).parent / "storage_child.py"
    kills = int(os.environ.get("UNKAI_TEST_KILLS", "5"))
    whole = 0
    for round_number in range(kills):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, child, tmp_path / "state", str(round_number)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(1 + round_number % 4):
            await process.stdout.readline()
        await asyncio.sleep(0.013 * round_number % 0.05)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        storage = open_store()
        assert not parts(tmp_path)
        for path in (tmp_path / "state").rglob("*.qcow2"):
            shown = run("qemu-img", "check", "-f", "qcow2", path)
            assert shown.returncode == 0, shown.stderr
        for machine in await storage.list_machines():
            disk = await storage.get_disk(machine, "root")
            assert disk is None or disk.size_bytes == 4 * MIB
            whole += disk is not None
            await storage.remove(machine)
        for entry in await storage.list_images():
            assert entry.size_bytes == 2 * MIB
            await storage.evict_image(entry.sha256)
        assert tree(tmp_path) == {"state", "state/images", "state/machines"}
    assert whole > 0


async def test_a_cancelled_create_leaves_nothing_at_any_moment(
    storage: Qcow2Storage, image: ImageRef, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    whole_s = 0.0
    for _ in range(3):
        begun_s = time.monotonic()
        await storage.create_disk(INSTANCE, a_disk(image))
        whole_s = max(whole_s, time.monotonic() - begun_s)
        await storage.remove(INSTANCE)
    finished = 0
    for moment in range(40):
        task = asyncio.create_task(storage.create_disk(INSTANCE, a_disk(image)))
        if moment:  # the first is cancelled before it begins, the last when it should be done
            await asyncio.sleep(1.5 * whole_s * moment / 39)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        disk = await storage.get_disk(INSTANCE, "root")
        if isinstance(result, BaseException):
            assert isinstance(result, asyncio.CancelledError)
        finished += disk is not None
        assert not parts(tmp_path)
        await storage.remove(INSTANCE)
        assert tree(tmp_path) == before
    assert 0 < finished < 40


async def test_a_shortened_image_is_fetched_anew(
    storage: Qcow2Storage, image: ImageRef, source: ImageSource, tmp_path: Path
) -> None:
    cached = tmp_path / "state/images" / f"{image.sha256}.raw"
    os.truncate(cached, 100)
    await storage.ensure_image(image)
    assert len(source.fetches) == 2
    assert cached.read_bytes() == raw_bytes()


def _flip_a_byte(path: Path) -> None:
    """Damage a file where no header is, as root or a failing disk would: its size stays."""
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 0x10]))


async def test_a_cached_image_whose_bytes_changed_is_fetched_anew(
    storage: Qcow2Storage, image: ImageRef, source: ImageSource, tmp_path: Path
) -> None:
    cached = tmp_path / "state/images" / f"{image.sha256}.raw"
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    with cached.open("rb") as held:  # as the QEMU of a running guest holds it
        _flip_a_byte(cached)
        await storage.ensure_image(image)
        assert held.read() != raw_bytes()
    assert len(source.fetches) == 2
    assert cached.read_bytes() == raw_bytes()
    assert await storage.get_disk(INSTANCE, "root") == disk


async def test_damage_that_left_no_trace_is_found_at_the_first_use_after_a_restart(
    open_store: Callable[[], Qcow2Storage],
    storage: Qcow2Storage,
    image: ImageRef,
    source: ImageSource,
    tmp_path: Path,
) -> None:
    cached = tmp_path / "state/images" / f"{image.sha256}.raw"
    _flip_a_byte(cached)
    restarted = open_store()
    for _ in range(2):
        source.fail_after_bytes = 100
        with pytest.raises(Unavailable):
            await restarted.ensure_image(image)
    await restarted.ensure_image(image)
    assert cached.read_bytes() == raw_bytes()


async def test_a_cached_image_that_the_disk_cannot_read_is_fetched_anew(
    open_store: Callable[[], Qcow2Storage],
    storage: Qcow2Storage,
    image: ImageRef,
    source: ImageSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restarted = open_store()

    open_to_read, refused = files.open_to_read, 0

    def unreadable_at_first(path: Path) -> BinaryIO:
        nonlocal refused
        if refused:
            return open_to_read(path)
        refused += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "open_to_read", unreadable_at_first)
    await restarted.ensure_image(image)
    assert len(source.fetches) == 2


async def test_a_sound_image_is_read_through_once_a_start_and_when_it_was_touched(
    open_store: Callable[[], Qcow2Storage],
    storage: Qcow2Storage,
    image: ImageRef,
    source: ImageSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = tmp_path / "state/images" / f"{image.sha256}.raw"
    read: list[Path] = []
    open_to_read = files.open_to_read

    def noted(path: Path) -> BinaryIO:
        if path == cached:
            read.append(path)
        return open_to_read(path)

    monkeypatch.setattr(files, "open_to_read", noted)
    heads = 0
    for store in (storage, open_store()):
        for number in range(3):
            await store.ensure_image(image)
            await store.create_disk(f"{INSTANCE[:-1]}{number}", a_disk(image))
            heads += 1 if store is storage else 0
    # Each new disk looks at the image's head; the restarted store found its disks there.
    assert len(read) == heads + 1
    os.utime(cached)
    await storage.ensure_image(image)
    assert len(read) == heads + 2
    assert len(source.fetches) == 1


async def test_a_fetch_that_stalls_is_given_up(
    source: ImageSource, tmp_path: Path, storage: Qcow2Storage
) -> None:
    content = raw_bytes()
    image = source.serve(an_image(content), content)
    source.gate = asyncio.Event()
    threads = files.Threads(1)
    cache = image_cache.ImageCache(
        tmp_path / "other",
        source.fetch,
        ownership=files.Ownership(),
        threads=threads,
        clock=the_clock,
        stall_s=0.05,
    )
    with pytest.raises(Unavailable) as caught:
        await cache.ensure(image)
    threads.close()
    assert caught.value.reason == "IMAGE_FETCH_STALLED"
    assert list((tmp_path / "other").iterdir()) == []


async def test_a_disk_whose_header_names_a_foreign_file_is_refused(
    storage: Qcow2Storage, image: ImageRef
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    for name in (b"/etc/shadow", b"../../ledger/host.json", b"json:{}", b"../../images/../x"):
        disk.path.write_bytes(qcow2_bytes(backing=name, backing_format=b"raw"))
        with pytest.raises(FailedPrecondition) as caught:
            await storage.get_disk(INSTANCE, "root")
        assert caught.value.reason == "DISK_CORRUPT"


async def test_while_a_disk_cannot_be_read_no_image_is_evicted(
    storage: Qcow2Storage, image: ImageRef
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    disk.path.write_bytes(b"not a disk")
    with pytest.raises(FailedPrecondition):
        await storage.evict_image(image.sha256)
    assert len(await storage.list_images()) == 1


async def test_a_link_in_the_place_of_a_disk_is_not_followed(
    storage: Qcow2Storage, image: ImageRef, tmp_path: Path
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    target = tmp_path / "target"
    disk.path.rename(target)
    disk.path.symlink_to(target)
    (disk.path.parent / "folder").symlink_to(tmp_path / "state/images")
    mode = target.stat().st_mode
    with pytest.raises(Unavailable):
        await storage.create_disk(INSTANCE, a_disk(image))

    await storage.remove(INSTANCE)

    assert target.stat().st_mode == mode
    assert (tmp_path / "state/images" / f"{image.sha256}.raw").exists()


async def test_a_hung_qemu_img_is_killed(
    storage: Qcow2Storage, image: ImageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    stuck = programs / "qemu-img"
    stuck.write_text(f"#!/bin/sh\necho $$ > {programs}/pid\nexec sleep 100\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(qemu_img, "_TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable) as caught:
        await storage.create_disk(INSTANCE, a_disk(image))
    assert caught.value.reason == "STORAGE_FAILED"
    assert not is_running((programs / "pid").read_text().strip())
    shutil.rmtree(programs)
    assert tree(tmp_path) == before


async def test_qemu_img_reads_the_disk_as_we_do(storage: Qcow2Storage, image: ImageRef) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    shown = run("qemu-img", "info", "--output=json", "-f", "qcow2", disk.path)
    said = json.loads(shown.stdout)
    assert said["virtual-size"] == disk.size_bytes == 4 * MIB
    assert said["backing-filename-format"] == disk.backing_format == "raw"
    assert normal(said["full-backing-filename"]) == disk.backing_path


@needs_root
async def test_qemus_user_can_open_all_it_needs_and_change_only_its_disk(
    storage: Qcow2Storage, image: ImageRef
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    seed = await storage.ensure_seed(INSTANCE, SeedSpec("web"))
    base = disk.backing_path
    assert base is not None

    # The disk, through the image below it: what the guest reads is the image's, what it writes
    # stays in the disk.
    read = as_qemu("qemu-io", "-f", "qcow2", "-c", "read -P 1 0 4k", str(disk.path))
    assert (read.returncode, "pattern" in read.stdout) == (0, False), read.stdout + read.stderr
    written = as_qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4k", str(disk.path))
    assert written.returncode == 0, written.stderr
    assert as_qemu("cat", str(seed)).returncode == 0
    assert base.read_bytes() == raw_bytes()
    for command in (
        ["sh", "-c", f"echo x >> {base}"],
        ["sh", "-c", f"echo x >> {seed}"],
        ["chmod", "600", str(base)],
        ["rm", "-f", str(disk.path)],
        ["ls", str(base.parent.parent)],
        ["touch", str(disk.path.parent / "x")],
    ):
        assert as_qemu(*command).returncode != 0, command


@needs_root
async def test_strangers_can_read_neither_disk_nor_image_nor_seed(
    storage: Qcow2Storage, image: ImageRef
) -> None:
    disk = await storage.create_disk(INSTANCE, a_disk(image))
    seed = await storage.ensure_seed(INSTANCE, SeedSpec("web", user_data=b"secret"))
    assert disk.backing_path is not None
    for path in (disk.path, disk.backing_path, seed):
        assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO
        shown = run_as("nobody", "cat", str(path))
        assert shown.returncode != 0


async def test_a_seed_is_rewritten_only_when_it_says_something_else(
    storage: Qcow2Storage, tmp_path: Path
) -> None:
    path = await storage.ensure_seed(INSTANCE, SeedSpec("web"))
    first = path.stat()
    await storage.ensure_seed(INSTANCE, SeedSpec("web"))
    assert path.stat().st_ino == first.st_ino

    with path.open("rb") as held:  # as QEMU holds it
        old = held.read()
        await storage.ensure_seed(INSTANCE, SeedSpec("web", user_data=b"#!/bin/sh\n"))
        held.seek(0)
        assert held.read() == old
    assert path.read_bytes() != old

"""Files that are whole or not at all, and threads that finish what they began."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from unkai_agent.storage import files
from unkai_wire.errors import FailedPrecondition, InvalidArgument, Unavailable


def lend_nothing(_: Path) -> None:
    pass


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    files.write_whole(path, b"old", lend_nothing)
    files.write_whole(path, b"new", lend_nothing)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    files.write_whole(path, b"old", lend_nothing)

    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        files.write_whole(path, b"new", refuse)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_disk_full(number: int) -> None:
    with pytest.raises(FailedPrecondition) as caught, files.storage_errors("a disk"):
        raise OSError(number, os.strerror(number), "/secret/path")
    assert caught.value.reason == "DISK_FULL"
    assert "/secret/path" not in caught.value.message


def test_any_other_trouble_is_storage_failed() -> None:
    with pytest.raises(Unavailable) as caught, files.storage_errors("a disk"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/secret/path")
    assert caught.value.reason == "STORAGE_FAILED"
    assert "/secret/path" not in caught.value.message


def fail_in(folder: Path) -> None:
    with files.folder_made(folder, files.Ownership()):
        assert folder.is_dir()
        raise ValueError("no")


def test_a_folder_made_in_vain_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        fail_in(tmp_path / "ins")
    assert not (tmp_path / "ins").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "ins").mkdir()
    with pytest.raises(ValueError, match="no"):
        fail_in(tmp_path / "ins")
    assert (tmp_path / "ins").is_dir()


def test_a_link_is_neither_read_nor_lent(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"secret")
    target.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        files.read_head(link, 10)
    with pytest.raises(OSError, match="symbolic links"):
        files.Ownership().lend_readable(link)
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_file_that_vanishes_meanwhile_does_not_end_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ins"
    folder.mkdir()
    for name in ("console.log", "root.qcow2", "seed.iso"):
        (folder / name).touch()
    unlink = os.unlink

    def rotated(path: str, **at: int) -> None:
        unlink(path, **at)
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "unlink", rotated)
    files.remove_folder(folder)
    assert not folder.exists()


def test_what_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ins").mkdir()
    (tmp_path / "ins" / "root.qcow2").touch()

    def refused(path: str, **_: int) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError):
        files.remove_folder(tmp_path / "ins")


def test_only_parts_are_swept(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a.part", ".hidden", "disk.qcow2")]
    for path in [*kept, tmp_path / ".disk.qcow2.part"]:
        path.touch()
    files.sweep_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        files.Ownership.of_user("nobody-of-this-name")
    assert caught.value.reason == "NO_USER"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_disks_are_never_roots() -> None:
    with pytest.raises(InvalidArgument) as caught:
        files.Ownership.of_user("root")
    assert caught.value.reason == "QEMU_AS_ROOT"


def test_without_a_user_nothing_is_given_away() -> None:
    assert files.Ownership.of_user(None) == files.Ownership(None, None)


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    threads = files.Threads(1)
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(10)
        ended.set()

    task = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    threads.close()


async def test_a_disk_that_hangs_is_given_up_and_others_go_on() -> None:
    threads = files.Threads(2, deadline_s=0.2)
    go = threading.Event()

    with pytest.raises(Unavailable) as caught:
        await threads.run(lambda: go.wait(20))
    assert caught.value.reason == "STORAGE_HANGS"
    assert threads.hung == 1
    assert await threads.run(lambda: 7) == 7, "the other thread is free"

    go.set()
    await threads.ended()
    assert threads.hung == 0
    threads.close()


async def test_what_had_not_begun_when_it_was_given_up_never_acts() -> None:
    threads = files.Threads(1, deadline_s=0.2)
    go, acts = threading.Event(), []
    hanging = asyncio.create_task(threads.run(lambda: go.wait(20)))
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await threads.run(lambda: acts.append("late"))
    with pytest.raises(Unavailable):
        await hanging
    with pytest.raises(Unavailable):
        await threads.ended()
    go.set()
    await threads.ended()
    assert await threads.run(lambda: 7) == 7
    assert acts == []
    threads.close()


async def test_work_that_is_cancelled_twice_is_still_waited_for() -> None:
    threads = files.Threads(1)
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(20)

    task = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads.hung == 1
    go.set()
    await threads.ended()
    threads.close()

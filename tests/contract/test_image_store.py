"""What every place for image bytes must do, on each that we have."""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from tests.support.s3 import Bucket, a_bucket
from unkai_scheduler.images import obstore_adapter
from unkai_scheduler.images.obstore_adapter import ObstoreImages, open_image_store
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable

MIB = 1 << 20


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Serve a bucket, and say so by the environment, as an operator does."""
    with a_bucket() as (url, bucket):
        _point_to(monkeypatch, url)
        yield bucket


def _point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.fixture(params=["directory", "memory", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObstoreImages:
    if request.param == "memory":
        return ObstoreImages(MemoryStore())
    if request.param == "directory":
        return open_image_store(f"file://{tmp_path / 'images of ours'}")
    other = os.environ.get("UNKAI_TEST_S3")
    if other is None:
        request.getfixturevalue("bucket")
    else:
        _point_to(monkeypatch, other)
        made = urllib.request.Request(f"{other}/images", method="PUT")
        urllib.request.urlopen(made).close()
    return open_image_store(f"s3://images/{tmp_path.name}")


async def pieces(*chunks: bytes, broken: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if broken:
        raise ConnectionError("the sender is gone")


async def content(store: ObstoreImages, key: str, offset: int = 0) -> bytes:
    got = [chunk async for chunk in store.get(key, offset)]
    assert all(len(chunk) <= MIB for chunk in got)
    return b"".join(got)


def files_below(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def test_what_was_put_is_got_back_in_pieces(store: ObstoreImages) -> None:
    sent = [bytes([n]) * MIB for n in range(40)] + [b"end"]

    assert await store.put("img-1", pieces(*sent)) == 40 * MIB + 3

    assert await content(store, "img-1") == b"".join(sent)
    assert await store.size("img-1") == 40 * MIB + 3


async def test_reading_begins_at_any_offset(store: ObstoreImages) -> None:
    await store.put("img-1", pieces(b"0123456789"))

    assert await content(store, "img-1", 4) == b"456789"
    assert await content(store, "img-1", 10) == b""


async def test_an_empty_object_can_be_kept(store: ObstoreImages) -> None:
    assert await store.put("img-1", pieces()) == 0
    assert await content(store, "img-1") == b""


async def test_a_key_is_replaced_as_a_whole(store: ObstoreImages) -> None:
    await store.put("img-1", pieces(b"long before"))
    await store.put("img-1", pieces(b"now"))

    assert await content(store, "img-1") == b"now"


async def test_a_broken_put_leaves_what_was_there_and_nothing_else(
    store: ObstoreImages, tmp_path: Path
) -> None:
    await store.put("img-1", pieces(b"before"))

    with pytest.raises(ConnectionError):
        await store.put("img-1", pieces(b"x" * (20 * MIB), broken=True))
    with pytest.raises(ConnectionError):
        await store.put("img-2", pieces(b"half", broken=True))

    assert await content(store, "img-1") == b"before"
    assert await store.list() == ["img-1"]
    assert set(files_below(tmp_path)) <= {"img-1"}


async def test_removing_twice_is_fine(store: ObstoreImages) -> None:
    await store.put("img-1", pieces(b"x"))

    await store.delete("img-1")
    await store.delete("img-1")

    assert await store.list() == []


async def test_a_missing_key_is_not_found(store: ObstoreImages) -> None:
    with pytest.raises(NotFound):
        await store.size("img-1")
    with pytest.raises(NotFound):
        await content(store, "img-1")


async def test_an_upload_leaves_the_disk_its_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_image_store(f"file://{tmp_path}", reserve_bytes=100)
    free = iter([101, 100, 99])
    monkeypatch.setattr(obstore_adapter, "_free_bytes", lambda _directory: next(free))

    with pytest.raises(FailedPrecondition) as caught:
        await store.put("img-1", pieces(*[b"x" * MIB] * 60))

    assert caught.value.reason == "STORE_FULL"
    assert files_below(tmp_path) == []
    assert list(free) == []


DIES = """
import asyncio, os, sys
from unkai_scheduler.images.obstore_adapter import open_image_store

async def chunks():
    for _ in range(40):
        yield bytes(1 << 20)
    os._exit(0)

asyncio.run(open_image_store(sys.argv[1]).put("img-1", chunks()))
"""


async def _none() -> set[str]:
    return set()


async def _crash(folder: Path) -> None:
    """Die while a put is under way."""
    url = f"file://{folder}"
    dying = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, url)
    assert await dying.wait() == 0
    assert len(files_below(folder)) == 1


async def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    await _crash(tmp_path)
    (tmp_path / "partial" / "img-2.aa").write_bytes(b"all there, not yet moved")
    store = open_image_store(f"file://{tmp_path}")

    assert await store.list() == []
    assert await store.sweep(_none) == 2
    assert files_below(tmp_path) == []
    assert await store.sweep(_none) == 0


async def test_what_a_crash_left_half_written_goes_with_its_key(tmp_path: Path) -> None:
    await _crash(tmp_path)
    store = open_image_store(f"file://{tmp_path}")
    await store.put("img-1.2", pieces(b"of another put"))

    await store.delete("img-1")

    assert files_below(tmp_path) == ["img-1.2"]


async def test_a_sweep_leaves_the_puts_that_go_on_elsewhere(tmp_path: Path) -> None:
    """Also the one that began while the sweep looked."""
    url = f"file://{tmp_path}"
    here, elsewhere = open_image_store(url), open_image_store(url)
    under_way: dict[str, asyncio.Task[int]] = {}
    go = asyncio.Event()

    async def begin(key: str) -> None:
        began = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * (20 * MIB)
            began.set()
            await go.wait()
            yield b"end"

        under_way[key] = asyncio.ensure_future(elsewhere.put(key, chunks()))
        await began.wait()

    async def keys() -> set[str]:
        await begin("img-2.late")
        return set(under_way)

    async with asyncio.timeout(60):
        await begin("img-1.early")
        (tmp_path / "partial" / "img-3.dead.aa#1").write_bytes(b"half")
        swept = await here.sweep(keys)
        go.set()
        sizes = await asyncio.gather(*under_way.values())

    assert swept == 1
    assert sizes == [20 * MIB + 3] * 2
    assert sorted(files_below(tmp_path)) == ["img-1.early", "img-2.late"]


async def test_a_put_whose_key_was_deleted_fails_plainly(tmp_path: Path) -> None:
    store = open_image_store(f"file://{tmp_path}")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * (20 * MIB)
        await store.delete("img-1.given-up")
        yield b"end"

    with pytest.raises(Unavailable) as caught:
        await store.put("img-1.given-up", chunks())

    assert caught.value.reason == "IMAGE_STORE_UNAVAILABLE"
    assert files_below(tmp_path) == []


async def test_s3_keeps_no_parts_of_a_broken_put_and_copies_nothing(bucket: Bucket) -> None:
    store = open_image_store("s3://images/of/ours")
    await store.put("img-1", pieces(*[b"x" * MIB] * 40))
    with pytest.raises(ConnectionError):
        await store.put("img-2", pieces(*[b"x" * MIB] * 40, broken=True))

    assert {key: len(content) for key, content in bucket.objects.items()} == {
        "of/ours/img-1": 40 * MIB
    }
    assert bucket.uploads == {}
    assert bucket.copies == []


async def test_s3_keeps_no_parts_of_a_put_that_is_cancelled(bucket: Bucket) -> None:
    store = open_image_store("s3://images")
    waits = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * MIB
        waits.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(store.put("img-1", chunks()))
    await waits.wait()
    assert bucket.uploads
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert (bucket.uploads, bucket.objects) == ({}, {})


async def test_s3_is_asked_for_no_more_at_once_than_a_slow_reader_takes_in_time(
    bucket: Bucket,
) -> None:
    store = open_image_store("s3://images")
    await store.put("img-1", pieces(*[bytes([n]) * MIB for n in range(40)]))

    assert await content(store, "img-1", 3) == bucket.objects["img-1"][3:]
    assert bucket.longest_answer_bytes <= 2 * MIB


async def test_a_bucket_that_is_missing_or_refuses_is_unavailable(bucket: Bucket) -> None:
    missing, refusing = open_image_store("s3://elsewhere"), open_image_store("s3://images")
    with pytest.raises(Unavailable):
        await missing.put("img-1", pieces(b"x"))

    bucket.refuses = True
    for call in (refusing.put("img-1", pieces(b"x")), refusing.size("img-1"), refusing.list()):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == "IMAGE_STORE_UNAVAILABLE"


@pytest.mark.parametrize("url", ["ftp://somewhere/images", "s3://", "s3://no bucket/of ours"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        open_image_store(url)
    assert caught.value.reason == "IMAGE_STORE_URL"

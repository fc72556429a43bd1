"""What every place for image bytes must do, on each that we have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from unkai_scheduler.images.obstore_adapter import ObstoreImages, open_image_store
from unkai_wire.errors import FailedPrecondition, NotFound

MIB = 1 << 20


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObstoreImages:
    if request.param == "memory":
        return ObstoreImages(MemoryStore())
    return open_image_store(f"file://{tmp_path / 'images of ours'}")


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


async def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "img-1.aa").write_bytes(b"half")
    store = open_image_store(f"file://{tmp_path}")

    assert await store.list() == []
    assert await store.sweep() == 1
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_url_of_no_store_is_refused() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        open_image_store("ftp://somewhere/images")
    assert caught.value.reason == "IMAGE_STORE_URL"

"""What the image store fails is counted by reason; what a caller asks wrongly is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from unkai_scheduler.images.measured import MeasuredImageStore
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_wire.errors import FailedPrecondition, NotFound


async def pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


def failed(call: str, reason: str) -> float:
    labels = {"call": call, "reason": reason}
    return REGISTRY.get_sample_value("unkai_image_store_failures_total", labels) or 0.0


def calls(call: str) -> float:
    return REGISTRY.get_sample_value("unkai_image_store_seconds_count", {"call": call}) or 0.0


async def test_bytes_pass_through_and_each_call_is_timed(tmp_path: Path) -> None:
    store = MeasuredImageStore(open_image_store(f"file://{tmp_path}", reserve_bytes=0))
    before = {call: calls(call) for call in ("put", "get", "size", "list", "delete")}
    assert await store.put("img-1", pieces()) == 6
    assert b"".join([piece async for piece in store.get("img-1", 3)]) == b"two"
    assert await store.size("img-1") == 6
    assert await store.list() == ["img-1"]
    await store.delete("img-1")
    assert {call: calls(call) - count for call, count in before.items()} == dict.fromkeys(before, 1)


async def test_a_full_store_is_counted_and_a_missing_key_is_not(tmp_path: Path) -> None:
    store = MeasuredImageStore(open_image_store(f"file://{tmp_path}", reserve_bytes=1 << 60))
    before = failed("put", "STORE_FULL")
    with pytest.raises(FailedPrecondition):
        await store.put("img-1", pieces())
    assert failed("put", "STORE_FULL") == before + 1
    with pytest.raises(NotFound):
        await store.size("img-2")
    assert failed("size", "IMAGE_BYTES_NOT_FOUND") == 0

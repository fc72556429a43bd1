"""The image cache on a disk that hangs and comes back."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.images import ImageSource, an_image, raw_bytes
from unkai_agent.storage import files
from unkai_agent.storage.image_cache import ImageCache
from unkai_wire.errors import Unavailable


async def test_a_fetch_that_hung_puts_nothing_of_the_next_one_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, content = ImageSource(), raw_bytes()
    image = source.serve(an_image(content), content)
    threads = files.Threads(3, deadline_s=0.3)
    cache = ImageCache(
        tmp_path / "images",
        source.fetch,
        ownership=files.Ownership(),
        threads=threads,
        clock=lambda: datetime(2026, 11, 22, 9, 0, tzinfo=UTC),
    )
    hangs, go = threading.Event(), threading.Event()
    real_sync = files.sync

    def sync(path: Path) -> None:
        if path.name.endswith(files.PART_SUFFIX) and not hangs.is_set():
            hangs.set()
            go.wait(20)
        real_sync(path)

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(Unavailable) as caught:
        await cache.ensure(image)
    assert caught.value.reason == "STORAGE_HANGS"
    assert hangs.is_set()

    source.begun.clear()
    source.gate = asyncio.Event()
    second = asyncio.create_task(cache.ensure(image))
    await asyncio.sleep(0.1)
    go.set()
    await asyncio.wait_for(source.begun.wait(), 5)
    await asyncio.sleep(0.1)
    assert not cache.path(image).exists(), "the bytes are not all there yet"
    source.gate.set()
    await second
    assert cache.path(image).read_bytes() == content
    threads.close()

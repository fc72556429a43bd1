"""What every place for segments of the decision log must do, on each that we have."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from tests.support.s3 import Bucket, a_bucket
from unkai_scheduler.decision_log.fake import FakeSegments
from unkai_scheduler.decision_log.obstore_adapter import ObstoreSegments, open_segment_store
from unkai_scheduler.decision_log.port import SegmentStore
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable


def _point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.fixture(params=["fake", "directory", "memory", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SegmentStore:
    if request.param == "fake":
        return FakeSegments()
    if request.param == "memory":
        return ObstoreSegments(MemoryStore())
    if request.param == "directory":
        return open_segment_store(f"file://{tmp_path / 'decisions of ours'}")
    other = os.environ.get("UNKAI_TEST_S3")
    if other is None:
        url, _bucket = request.getfixturevalue("bucket")
        _point_to(monkeypatch, url)
    else:
        _point_to(monkeypatch, other)
        made = urllib.request.Request(f"{other}/images", method="PUT")
        urllib.request.urlopen(made).close()
    return open_segment_store(f"s3://images/{tmp_path.name}-decisions")


@pytest.fixture
def bucket() -> Iterator[tuple[str, Bucket]]:
    with a_bucket() as served:
        yield served


async def test_what_was_put_is_got_back_and_listed(store: SegmentStore) -> None:
    await store.put("a.segment", b"one")
    await store.put("b.segment", bytes(3 << 20))

    assert await store.get("a.segment") == b"one"
    assert await store.get("b.segment") == bytes(3 << 20)
    assert await store.list() == {"a.segment": 3, "b.segment": 3 << 20}


async def test_what_is_put_again_is_replaced(store: SegmentStore) -> None:
    await store.put("a.segment", b"one")
    await store.put("a.segment", b"another")

    assert await store.get("a.segment") == b"another"


async def test_what_is_not_there_is_told(store: SegmentStore) -> None:
    with pytest.raises(NotFound):
        await store.get("a.segment")
    assert await store.list() == {}


async def test_what_was_deleted_is_gone_and_may_be_deleted_again(store: SegmentStore) -> None:
    await store.put("a.segment", b"one")

    await store.delete("a.segment")
    await store.delete("a.segment")

    assert await store.list() == {}


async def test_a_store_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _point_to(monkeypatch, "http://127.0.0.1:1")
    once = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
    impatient = S3Store.from_url("s3://images/decisions", retry_config=once)
    fake = FakeSegments()
    fake.error = Unavailable("away", reason="DECISION_LOG_UNAVAILABLE")

    for each in (fake, ObstoreSegments(impatient)):
        with pytest.raises(Unavailable) as caught:
            await each.put("a.segment", b"one")
        assert caught.value.reason == "DECISION_LOG_UNAVAILABLE"


@pytest.mark.parametrize("url", ["ftp://x/y", "file://", "s3://", "file:///proc/none/decisions"])
def test_a_place_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        open_segment_store(url)
    assert caught.value.reason == "DECISION_LOG_URL"

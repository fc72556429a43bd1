"""Images that are deleted: bytes, caches, row, operation."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.builders import an_image, an_operation
from tests.support.cloud import Cloud, a_cloud
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.images import Image, ImageState
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.reconcile import images as reconcile_images
from unkai_scheduler.settings import ImageSettings
from unkai_scheduler.store import images, operations, uploads
from unkai_wire.errors import Unavailable


async def deleting(cloud: Cloud, *, deadline_s: float = 600.0) -> tuple[Image, Operation]:
    """Accept the deletion of an image that hosts have cached."""
    image = an_image(state=ImageState.DELETING)
    now = cloud.clock()
    operation = an_operation(
        verb=Verb.DELETE,
        resource_kind="image",
        resource_id=image.id,
        create_time=now,
        deadline_time=now + timedelta(seconds=deadline_s),
    )
    cloud.images.kept[image.id] = b"bytes"
    for host in cloud.agents.hosts.values():
        host.cached_images.add(image.sha256)

    def work(conn: object) -> None:
        images.insert(conn, image)  # type: ignore[arg-type]
        operations.insert(conn, operation)  # type: ignore[arg-type]

    await cloud.uow.write(work)
    cloud.wake()
    return image, operation


async def test_a_deleted_image_leaves_neither_bytes_nor_caches_nor_row(cloud: Cloud) -> None:
    made = await cloud.create()  # hosts are in sync once this runs
    await cloud.until_ended(made.operation_id)

    image, operation = await deleting(cloud)
    ended = await cloud.until_ended(operation.id)
    await cloud.until_stamped()

    assert ended.state is OperationState.SUCCEEDED
    assert cloud.images.kept == {}
    assert await cloud.uow.read(lambda conn: images.get(conn, image.id)) is None
    for host in cloud.agents.hosts.values():
        assert image.sha256 not in host.cached_images
    assert [e.type for e in await cloud.events(image.id)] == [EventType.DELETED]


async def test_an_image_whose_store_is_away_is_deleted_once_it_is_back(cloud: Cloud) -> None:
    cloud.images.error = Unavailable("the store does not answer", reason="STORE_UNAVAILABLE")
    _, operation = await deleting(cloud)

    async def says_why() -> bool:
        return "does not answer" in (await cloud.operation(operation.id)).progress_message

    await cloud.until(says_why, "the operation says why")
    cloud.images.error = None
    assert (await cloud.until_ended(operation.id)).state is OperationState.SUCCEEDED


async def test_a_host_that_does_not_answer_does_not_hold_up_the_deletion(cloud: Cloud) -> None:
    cloud.agents.fail(cloud.host_ids[0], Unavailable("no route", reason="HOST_UNREACHABLE"))

    _, operation = await deleting(cloud)

    assert (await cloud.until_ended(operation.id)).state is OperationState.SUCCEEDED


async def test_an_image_waits_for_its_instances_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_images, "BATCH", 1)
    async with a_cloud(tmp_path, lead=False) as cloud:
        needed, waiting = await deleting(cloud)
        made = await cloud.create(image_id=needed.id)
        _, free = await deleting(cloud)
        await cloud.start()  # only now: it would have removed what nothing needed yet

        async def says_why() -> bool:
            return "its bytes: 1" in (await cloud.operation(waiting.id)).progress_message

        assert (await cloud.until_ended(free.id)).state is OperationState.SUCCEEDED
        await cloud.until(says_why, "the operation says what it waits for")
        assert needed.id in cloud.images.kept

        await cloud.delete(made.id)
        assert (await cloud.until_ended(waiting.id)).state is OperationState.SUCCEEDED
        assert cloud.images.kept == {}


async def test_an_image_whose_bytes_never_come_is_given_up_and_one_that_may_come_is_not(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, uploads=ImageSettings(upload_wait_s=60)) as cloud:
        old = an_image(
            name="old",
            state=ImageState.UPLOADING,
            create_time=cloud.clock() - timedelta(seconds=55),
        )
        new = an_image(name="new", state=ImageState.UPLOADING, create_time=cloud.clock())
        await cloud.uow.write(lambda conn: [images.insert(conn, row) for row in (old, new)])

        async def given_up() -> bool:
            row = await cloud.uow.read(lambda conn: images.get(conn, old.id))
            return row is not None and row.state is ImageState.FAILED

        await cloud.until(given_up, "the old one is FAILED", within_s=40)
        row = await cloud.uow.read(lambda conn: images.get(conn, old.id))
        waits = await cloud.uow.read(lambda conn: images.get(conn, new.id))
        await cloud.until_stamped()
        assert row is not None
        assert row.state_reason is not None
        assert row.state_reason["reason"] == "UPLOAD_EXPIRED"
        assert [event.reason for event in await cloud.events(old.id)] == ["UPLOAD_EXPIRED"]
        assert waits is not None
        assert waits.state is ImageState.UPLOADING


async def test_a_deletion_that_waits_too_long_says_that_it_goes_on_and_it_does(
    cloud: Cloud,
) -> None:
    cloud.images.error = Unavailable("the store does not answer", reason="STORE_UNAVAILABLE")
    image, operation = await deleting(cloud, deadline_s=5)
    ended = await cloud.until_ended(operation.id)
    assert ended.error is not None
    assert ended.error["message"].endswith("the deletion goes on by itself")
    cloud.images.error = None

    async def gone() -> bool:
        return await cloud.uow.read(lambda conn: images.get(conn, image.id)) is None

    await cloud.until(gone, "the image is gone all the same", within_s=40)


async def test_what_a_dead_scheduler_left_of_an_upload_is_removed_and_what_goes_on_is_not(
    cloud: Cloud,
) -> None:
    image = an_image(state=ImageState.UPLOADING)
    dead, alive = f"{image.id}.dead", f"{image.id}.alive"
    cloud.images.kept |= {dead: b"all there, and nobody to say so", alive: b"half"}

    def begin(conn: Any) -> None:
        images.insert(conn, image)
        for key in (dead, alive):
            uploads.insert_new(conn, key, image.id)

    await cloud.uow.write(begin)

    async def is_removed() -> bool:
        assert await cloud.uow.write(lambda conn: uploads.beat(conn, alive))
        return [u.key for u in await cloud.uow.read(uploads.list_all)] == [alive]

    await cloud.until(is_removed, "the dead upload is forgotten", within_s=200)
    assert list(cloud.images.kept) == [alive]
    assert await cloud.uow.write(lambda conn: uploads.end(conn, alive))
    assert not await cloud.uow.write(lambda conn: uploads.end(conn, dead))


async def test_an_upload_whose_bytes_cannot_be_removed_keeps_no_other_and_is_told_of_once(
    cloud: Cloud,
) -> None:
    image = an_image(state=ImageState.UPLOADING)
    keys = [f"{image.id}.{n}" for n in range(3)]
    cloud.images.kept |= dict.fromkeys(keys, b"half")
    cloud.images.error_of[keys[0]] = Unavailable("a bad block", reason="STORE_UNAVAILABLE")

    def begin(conn: Any) -> None:
        images.insert(conn, image)
        for key in keys:
            uploads.insert_new(conn, key, image.id)

    async def left(count: int) -> bool:
        return len(await cloud.uow.read(uploads.list_all)) == count

    with capture_logs() as logs:
        await cloud.uow.write(begin)
        await cloud.until(lambda: left(1), "the others are forgotten", within_s=200)
        assert list(cloud.images.kept) == keys[:1]
        await asyncio.sleep(60)
    told = [log for log in logs if log["event"] == "loop_failed"]
    assert [log["loop"] for log in told] == ["images"]

    cloud.images.error_of.clear()
    await cloud.until(lambda: left(0), "it is tried again", within_s=40)
    assert not cloud.images.kept


async def test_an_image_whose_bytes_are_on_their_way_is_not_given_up(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, uploads=ImageSettings(upload_wait_s=60)) as cloud:
        long_ago = cloud.clock() - timedelta(hours=1)
        coming, left = (
            an_image(name=name, state=ImageState.UPLOADING, create_time=long_ago)
            for name in ("coming", "left")
        )

        def begin(conn: Any) -> None:
            for row in (coming, left):
                images.insert(conn, row)
            uploads.insert_new(conn, coming.key, coming.id)

        await cloud.uow.write(begin)

        async def state_of(image: Image) -> ImageState:
            row = await cloud.uow.read(lambda conn: images.get(conn, image.id))
            assert row is not None
            return row.state

        async def left_is_failed() -> bool:
            return await state_of(left) is ImageState.FAILED

        await cloud.until(left_is_failed, "the one that nobody uploads is FAILED", within_s=40)
        assert await state_of(coming) is ImageState.UPLOADING

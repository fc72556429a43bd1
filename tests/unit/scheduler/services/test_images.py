"""Images under their use cases: what uploads at the same moment may do to each other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.builders import an_id
from tests.support.store import FaultyStore, a_store, noon
from unkai_scheduler.domain.images import Image, ImageState
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.services import uploading
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.images import ImageDraft, ImagesService
from unkai_scheduler.settings import ImageSettings
from unkai_scheduler.store import uploads
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError
from unkai_wire.tls import Principal, Role

T = TypeVar("T")
CALL = Call(Principal(Role.LOCAL, "root"), "UploadImage")
FIRST, SECOND = b"\1" * 4096, b"\2" * 4096


class LateAnswers(FaultyStore):
    """A store one of whose reads is answered late, when it is told to."""

    def __init__(self, uow: UnitOfWork) -> None:
        super().__init__(uow)
        self.prompt = asyncio.Event()
        self.prompt.set()
        self.late = asyncio.Event()

    async def read(self, work: Callable[[Connection], T]) -> T:
        result = await super().read(work)
        if not self.prompt.is_set() and not self.late.is_set():
            self.late.set()
            await self.prompt.wait()
        return result


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LateAnswers]:
    async with a_store(tmp_path) as uow:
        yield LateAnswers(uow)


@pytest.fixture
def images(store: LateAnswers, tmp_path: Path) -> ImagesService:
    context = ServiceContext(store, noon, an_id, lambda _ids: None)
    settings = ImageSettings(url=f"file://{tmp_path / 'images'}", max_uploads=2)
    return ImagesService(context, open_image_store(settings.url), settings)


async def bytes_of(images: ImagesService, image: Image) -> bytes:
    return b"".join([chunk async for chunk in images.download(image.id)])


async def test_an_upload_that_saw_the_row_before_another_ended_leaves_that_ones_bytes(
    images: ImagesService, store: LateAnswers
) -> None:
    image = await images.create(CALL, "", ImageDraft(name="tiny"))
    began, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await go.wait()
        yield FIRST

    async def quick() -> AsyncIterator[bytes]:
        yield SECOND

    first = asyncio.ensure_future(images.upload(CALL, image.id, slow()))
    async with asyncio.timeout(10):
        await began.wait()
        store.prompt.clear()
        second = asyncio.ensure_future(images.upload(CALL, image.id, quick()))
        late = asyncio.ensure_future(store.late.wait())
        await asyncio.wait({second, late}, return_when=asyncio.FIRST_COMPLETED)
        late.cancel()
        if second.done():
            store.prompt.set()  # it was refused without a read, so none is late
        go.set()
        ready = await first
        store.prompt.set()
        with pytest.raises(UnkaiError) as caught:
            await second

    assert ready.state is ImageState.READY
    assert await bytes_of(images, ready) == FIRST
    assert (await images.get(image.id)).sha256 == hashlib.sha256(FIRST).hexdigest()
    assert caught.value.reason == "UPLOAD_IN_PROGRESS"


async def test_uploads_beyond_the_limit_are_told_to_come_back(images: ImagesService) -> None:
    made = [await images.create(CALL, "", ImageDraft(name=f"tiny-{n}")) for n in range(3)]
    go = asyncio.Event()

    async def chunks(*, began: asyncio.Event) -> AsyncIterator[bytes]:
        began.set()
        await go.wait()
        yield FIRST

    async def begin(image: Image) -> asyncio.Task[Image]:
        began = asyncio.Event()
        task = asyncio.ensure_future(images.upload(CALL, image.id, chunks(began=began)))
        await began.wait()
        return task

    async with asyncio.timeout(10):
        under_way = [await begin(image) for image in made[:2]]
        with pytest.raises(Unavailable) as caught:
            await images.upload(CALL, made[2].id, chunks(began=asyncio.Event()))
        go.set()
        await asyncio.gather(*under_way)
        late = await images.upload(CALL, made[2].id, chunks(began=asyncio.Event()))

    assert caught.value.reason == "TOO_MANY_UPLOADS"
    assert late.state is ImageState.READY


@pytest.mark.parametrize("late", [FIRST, SECOND], ids=["other bytes", "the same bytes"])
async def test_what_another_scheduler_was_sent_meanwhile_keeps_its_bytes(
    images: ImagesService, store: LateAnswers, tmp_path: Path, late: bytes
) -> None:
    settings = ImageSettings(url=f"file://{tmp_path / 'images'}", max_uploads=2)
    context = ServiceContext(store, noon, an_id, lambda _ids: None)
    other = ImagesService(context, open_image_store(settings.url), settings)
    image = await images.create(CALL, "", ImageDraft(name="tiny"))
    began, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await go.wait()
        yield late

    async def quick() -> AsyncIterator[bytes]:
        yield SECOND

    first = asyncio.ensure_future(images.upload(CALL, image.id, slow()))
    async with asyncio.timeout(10):
        await began.wait()
        ready = await other.upload(CALL, image.id, quick())
        go.set()
        if late == SECOND:
            assert await first == ready
        else:
            with pytest.raises(FailedPrecondition) as refused:
                await first
            assert refused.value.reason == "IMAGE_NOT_UPLOADING"

    assert await bytes_of(images, ready) == SECOND


def kept_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def stored(store: LateAnswers, folder: Path) -> tuple[list[str], list[str]]:
    """Return the keys that have bytes, whole or not, and those that have a row."""
    return kept_in(folder), [upload.key for upload in await store.read(uploads.list_all)]


async def test_of_uploads_that_end_at_the_same_moment_one_counts_and_the_others_leave_nothing(
    store: LateAnswers, tmp_path: Path
) -> None:
    settings = ImageSettings(url=f"file://{tmp_path / 'images'}")
    context = ServiceContext(store, noon, an_id, lambda _ids: None)
    schedulers = [ImagesService(context, open_image_store(settings.url), settings) for _ in "abc"]
    for number in range(5):
        image = await schedulers[0].create(CALL, "", ImageDraft(name=f"tiny-{number}"))
        all_there = asyncio.Barrier(len(schedulers))

        async def chunks(fill: int, barrier: asyncio.Barrier) -> AsyncIterator[bytes]:
            yield bytes([fill]) * 4096
            await barrier.wait()

        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(
                *(
                    scheduler.upload(CALL, image.id, chunks(fill, all_there))
                    for fill, scheduler in enumerate(schedulers, start=1)
                ),
                return_exceptions=True,
            )

        [ready] = [outcome for outcome in outcomes if isinstance(outcome, Image)]
        refused = [error for error in outcomes if isinstance(error, FailedPrecondition)]
        assert [error.reason for error in refused] == ["IMAGE_NOT_UPLOADING"] * 2
        kept = await bytes_of(schedulers[0], ready)
        assert hashlib.sha256(kept).hexdigest() == ready.sha256
        assert kept[0] == outcomes.index(ready) + 1
        files, rows = await stored(store, tmp_path / "images")
        assert len(files) == number + 1
        assert ready.bytes_key in files
        assert rows == []


async def test_an_upload_that_was_given_up_ends_with_an_error_and_leaves_nothing(
    images: ImagesService, store: LateAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "BEAT_S", 0.01)

    async def give_up() -> None:
        def work(conn: Connection) -> bool:
            return all(uploads.give_up(conn, upload) for upload in uploads.list_all(conn))

        while not await store.write(work):  # one that shows itself just now is let be
            pass

    async def endless() -> AsyncIterator[bytes]:
        yield FIRST
        await give_up()
        while True:
            yield FIRST
            await asyncio.sleep(0.01)

    async def short() -> AsyncIterator[bytes]:
        yield FIRST
        await give_up()

    for chunks in (endless(), short()):
        image = await images.create(CALL, "", ImageDraft(name=f"tiny-{an_id('image')}"))
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable) as caught:
                await images.upload(CALL, image.id, chunks)
        assert caught.value.reason == "UPLOAD_GIVEN_UP"
        assert (await images.get(image.id)).state is ImageState.UPLOADING
        assert await stored(store, tmp_path / "images") == ([], [])


async def test_bytes_that_may_count_are_let_be_when_the_last_answer_is_lost(
    images: ImagesService, store: LateAnswers, tmp_path: Path
) -> None:
    image = await images.create(CALL, "", ImageDraft(name="tiny"))
    lost = Unavailable("no answer", reason="DATABASE_UNAVAILABLE")

    async def chunks() -> AsyncIterator[bytes]:
        yield FIRST
        store.lose_answer_of_next(lost)

    with pytest.raises(Unavailable):
        await images.upload(CALL, image.id, chunks())

    ready = await images.get(image.id)
    assert ready.state is ImageState.READY
    assert await bytes_of(images, ready) == FIRST

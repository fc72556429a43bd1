"""The way of an image's bytes in: checked while they are stored, then they count or they are gone.

Each upload has a key of its own and a row (`store/uploads.py`), so no upload can touch the bytes of
another, through whichever scheduler it came. The image names the key whose upload ended first; the
others are refused and remove what is theirs. The leader removes what a scheduler left that died.

The trap: when the last write's outcome is unknown the bytes may count, so they are let be: the
row says whether they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.images import Image, ImageState, upload_key
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.services.uploads import BytesCheck, Expected
from unkai_scheduler.settings import ImageSettings
from unkai_scheduler.store import images, uploads
from unkai_wire.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    UnkaiError,
)

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

BEAT_S = 5.0
"""How often an upload shows that it goes on; the leader gives one up that is silent for long
(`reconcile/uploads.py`)."""

_log = structlog.get_logger()


class Uploading:
    """Takes the bytes of images."""

    def __init__(self, context: ServiceContext, store: ImageStore, settings: ImageSettings) -> None:
        self._context = context
        self._store = store
        self._settings = settings

    async def take(
        self,
        call: Call,
        image: Image,
        chunks: AsyncIterator[bytes],
        *,
        sha256: str,
        size_bytes: int,
    ) -> Image:
        """Take an image's bytes; return it READY, with these bytes or with the same ones."""
        key = upload_key(image.id, self._context.new_etag())
        await self._begin(image, key)
        may_count = False
        try:
            most = self._settings.max_size_bytes
            check = BytesCheck(Expected(sha256, size_bytes, image.format, most))
            await self._keep(call, image, key, self.patient(chunks, image), check)
            may_count = True
            ended = await self._end(call, image, key, check)
            may_count = isinstance(ended, Image) and ended.bytes_key == key
        finally:
            if not may_count:
                await asyncio.shield(self._drop(key))
        if isinstance(ended, UnkaiError):
            raise ended
        return ended

    async def patient(self, chunks: AsyncIterator[bytes], image: Image) -> AsyncIterator[bytes]:
        """Yield the chunks; raise `DeadlineExceeded` when none comes for too long."""
        idle_s = self._settings.upload_idle_s
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"nothing came for image {image.name} in {idle_s:g} s",
                    reason="UPLOAD_IDLE",
                    fix="upload again from the start",
                    metadata={"image_id": image.id},
                ) from error
            yield chunk

    async def _begin(self, image: Image, key: str) -> None:
        def work(conn: Connection) -> None:
            now = images.locked(conn, image.id)
            if now is None or now.state is not ImageState.UPLOADING:
                raise not_uploading(now or replace(image, state=ImageState.DELETING))
            uploads.insert_new(conn, key, image.id)

        await self._context.uow.write(work)

    async def _keep(
        self,
        call: Call,
        image: Image,
        key: str,
        chunks: AsyncIterator[bytes],
        check: BytesCheck,
    ) -> None:
        """Store the bytes; mark the image FAILED when they are refused."""
        try:
            async with self._beating(key) as beating:
                await self._store.put(key, _while_beating(image, check.passing(chunks), beating))
        except InvalidArgument as error:
            if error is check.verdict:
                await self._fail(call, image, error)
            raise

    @asynccontextmanager
    async def _beating(self, key: str) -> AsyncIterator[asyncio.Future[None]]:
        """Show all the while that the upload goes on; what is given ends when it was given up."""
        beating = asyncio.ensure_future(self._beat(key))
        try:
            yield beating
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, key: str) -> None:
        goes_on = True
        while goes_on:
            await asyncio.sleep(BEAT_S)
            try:
                goes_on = await self._context.uow.write(lambda conn: uploads.beat(conn, key))
            except UnkaiError as error:
                # The leader cannot read it either, or gives us up: then the end of it tells.
                _log.info("upload_beat_failed", key=key, reason=error.reason)

    async def _end(
        self, call: Call, image: Image, key: str, check: BytesCheck
    ) -> Image | UnkaiError:
        """Let the bytes count, if the image has none yet; return it, or why they do not count."""
        header = check.header
        assert header is not None

        def work(conn: Connection) -> Image | UnkaiError:
            now = images.locked(conn, image.id)
            if now is None or now.state is not ImageState.UPLOADING:
                if now and now.state is ImageState.READY and now.sha256 == check.sha256:
                    return now
                return not_uploading(now or replace(image, state=ImageState.DELETING))
            if not uploads.end(conn, key):
                return _given_up(image)
            ready = replace(
                now,
                state=ImageState.READY,
                format=header.format,
                size_bytes=check.size_bytes,
                virtual_size_bytes=header.virtual_size_bytes,
                sha256=check.sha256,
                bytes_key=key,
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            images.replace(conn, ready, etag=None)
            self._record(conn, call, ready, "is ready")
            return ready

        return await self._context.uow.write(work)

    async def _drop(self, key: str) -> None:
        """Remove bytes that do not count, then their row; what fails is left to the leader."""
        try:
            await self._store.delete(key)
            await self._context.uow.write(lambda conn: uploads.forget(conn, key))
        except UnkaiError as error:
            _log.info("upload_left_to_the_leader", key=key, reason=error.reason)

    async def _fail(self, call: Call, image: Image, error: InvalidArgument) -> None:
        def work(conn: Connection) -> None:
            now = images.locked(conn, image.id)
            if now is None or now.state is not ImageState.UPLOADING:
                return
            failed = replace(
                now,
                state=ImageState.FAILED,
                state_reason=error.to_record(),
                etag=self._context.new_etag(),
                update_time=self._context.clock(),
            )
            images.replace(conn, failed, etag=None)
            self._record(conn, call, failed, "was refused", error.reason)

        await self._context.uow.write(work)

    def _record(
        self, conn: Connection, call: Call, row: Image, what: str, reason: str = ""
    ) -> None:
        record(
            conn,
            self._context,
            call,
            Subject("image", row.id, row.name, row.project_id, row.state.value),
            EventType.UPDATED,
            message=f"image {row.name} {what}",
            reason=reason,
        )


async def _while_beating(
    image: Image, chunks: AsyncIterator[bytes], beating: asyncio.Future[None]
) -> AsyncIterator[bytes]:
    """Yield the chunks; raise when the upload was given up."""
    async for chunk in chunks:
        if beating.done():
            raise _given_up(image)
        yield chunk


def not_uploading(image: Image) -> FailedPrecondition:
    """Make the error for bytes of an image that takes none now."""
    return FailedPrecondition(
        f"image {image.name} is {image.state.value}; bytes are taken only while it is UPLOADING",
        reason="IMAGE_NOT_UPLOADING",
        fix="make another image, and upload to that one",
        metadata={"image_id": image.id, "state": image.state.value},
    )


def _given_up(image: Image) -> Unavailable:
    return Unavailable(
        f"the upload of image {image.name} was given up: its scheduler was silent for too long",
        reason="UPLOAD_GIVEN_UP",
        fix="upload again from the start",
        metadata={"image_id": image.id},
    )

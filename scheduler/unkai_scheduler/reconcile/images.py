"""Images that are being deleted: their bytes go, hosts drop them, then the row and the operation.
And images whose bytes never came: they are given up.

An image waits while instances made from it are there; the operation says so. Each step may be done
twice. A host that cannot be asked now keeps the bytes in its cache, where
its own limit drops them: it does not hold up the deletion.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import structlog

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.images import Image, ImageState
from unkai_scheduler.domain.operations import Operation, OperationState, end
from unkai_scheduler.reconcile import operations as progress
from unkai_scheduler.reconcile.changes import write_operation
from unkai_scheduler.reconcile.office import Office, growing_s, new_etag, wait_for
from unkai_scheduler.reconcile.uploads import UploadWatch
from unkai_scheduler.store import events, images, operations
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import DeadlineExceeded, NotFound, UnkaiError

log = structlog.get_logger(__name__)

BATCH = 64
LOOK_S = 5.0
MAX_EVICTIONS = 32


class ImageLoop:
    """Finishes the deletion of images."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._uploads = UploadWatch(office)
        self._kick = asyncio.Event()
        self._evictions = asyncio.Semaphore(MAX_EVICTIONS)

    def wake(self) -> None:
        """Look at once."""
        self._kick.set()

    async def run(self) -> None:
        """Go round until cancelled."""
        failures = 0
        while True:
            if await self._office.attempt("images", self._round):
                failures = 0
                await wait_for(self._kick, LOOK_S)
            else:
                failures += 1
                await asyncio.sleep(growing_s(failures))

    async def _round(self) -> None:
        await self._expire()
        await self._remove()
        await self._uploads.give_up_dead()

    async def _expire(self) -> None:
        """Give up images that nobody brought the bytes of: their names are free again once they
        are deleted, and nobody waits for them any more."""
        office = self._office
        wait_s = office.settings.images.upload_wait_s
        before = office.clock() - timedelta(seconds=wait_s)
        found = await office.uow.read(lambda conn: images.uploading(conn, before, BATCH))
        if not found:
            return

        def work(conn: Connection) -> None:
            for image in found:
                now = images.locked(conn, image.id)
                if now is None or now.state is not ImageState.UPLOADING:
                    continue
                why = DeadlineExceeded(
                    f"no bytes of image {now.name} came within {wait_s:g} s of its creation",
                    reason="UPLOAD_EXPIRED",
                    fix="delete it, create it anew and upload its file",
                    metadata={"image_id": now.id, "name": now.name},
                )
                failed = replace(
                    now,
                    state=ImageState.FAILED,
                    state_reason=why.to_record(),
                    etag=new_etag(),
                    update_time=office.clock(),
                )
                images.replace(conn, failed, etag=None)
                told = office.event(
                    "image",
                    now.id,
                    now.name,
                    project_id=now.project_id,
                    state=failed.state.value,
                    reason=why.reason,
                    message=why.message,
                )
                events.insert(conn, told)

        await office.lead(work)

    async def _remove(self) -> None:
        def work(conn: Connection) -> list[tuple[Image, int, Operation | None]]:
            return [
                (image, needed, operations.active_for(conn, image.id))
                for image, needed in images.deleting(conn, BATCH)
            ]

        for image, needed, operation in await self._office.uow.read(work):
            if needed:
                waits = f"waits for the instances made from it, which may need its bytes: {needed}"
                await self._show(image, operation, waits)
            else:
                await self._delete(image, operation)

    async def _delete(self, image: Image, operation: Operation | None) -> None:
        office = self._office
        try:
            await office.images.delete(image.key)
        except NotFound:
            pass
        except UnkaiError as error:
            await self._show(image, operation, f"its bytes cannot be removed yet: {error.message}")
            return
        if image.sha256:
            await self._evict_everywhere(image.sha256)
        now = office.clock()

        def work(conn: Connection) -> None:
            stored = images.locked(conn, image.id)
            current = operations.active_for(conn, image.id)
            while current is not None:
                ended = end(current, OperationState.SUCCEEDED, now)
                write_operation(conn, current, ended, name=image.name, office=office, now=now)
                current = operations.active_for(conn, image.id)
            if stored is None:
                return
            images.delete(conn, image.id)
            gone = office.event(
                "image",
                image.id,
                image.name,
                project_id=image.project_id,
                type=EventType.DELETED,
                attributes={"sha256": image.sha256},
            )
            events.insert(conn, gone)

        await office.lead(work, operation_ids=[operation.id] if operation else ())

    async def _show(self, image: Image, operation: Operation | None, message: str) -> None:
        """Say why the deletion waits; end the operation when its time is over."""
        if operation is None:
            return
        now = self._office.clock()
        shown = progress.progress(operation, message)
        assert shown is not None
        if progress.is_expired(operation, now):
            why = progress.too_late(shown).to_record()
            shown = end(shown, OperationState.FAILED, now, why)
        if shown == operation:
            return

        def work(conn: Connection) -> None:
            current = operations.locked(conn, operation.id)
            if current is not None and not current.state.ended:
                after = replace(shown, cancel_requested_time=current.cancel_requested_time)
                write_operation(conn, current, after, name=image.name, office=self._office, now=now)

        await self._office.lead(work, operation_ids=[operation.id])

    async def _evict_everywhere(self, sha256: str) -> None:
        async with asyncio.TaskGroup() as group:
            for host_id in self._office.live.hosts():
                group.create_task(self._evict(host_id, sha256))

    async def _evict(self, host_id: str, sha256: str) -> None:
        office = self._office
        if not office.live.is_synced(host_id):
            return
        try:
            async with self._evictions:
                await office.agents.evict_image(office.endpoint(host_id), office.term, sha256)
        except UnkaiError as error:
            office.check_still_leading(host_id, error)
            log.info("image_not_evicted", host=host_id, sha256=sha256, reason=error.reason)

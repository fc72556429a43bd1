"""Images: their rows, and the way of their bytes in and out.

How bytes come in is `uploading.py`'s; here is who may begin, and what of it is answered at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.images import Image, ImageFormat, ImageState, Visibility
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.services.checks import Violations, check_etag, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_drafts import not_ready
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.uploading import Uploading, not_uploading
from unkai_scheduler.settings import ImageSettings
from unkai_scheduler.store import images, instances, operations
from unkai_wire.errors import (
    Conflict,
    Unavailable,
)
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

DELETE_DEADLINE_S = 30 * 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageDraft:
    """What a user may say of an image."""

    name: str = ""
    visibility: Visibility = Visibility.PRIVATE
    format: ImageFormat | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageDeletion:
    """An accepted deletion: the image as it is now, and the work under way."""

    image: Image
    operation: Operation


class ImagesService:
    """Use cases of images."""

    def __init__(self, context: ServiceContext, store: ImageStore, settings: ImageSettings) -> None:
        self._context = context
        self._store = store
        self._settings = settings
        self._way_in = Uploading(context, store, settings)
        self._uploading: set[str] = set()

    async def create(self, call: Call, project_id: str, draft: ImageDraft) -> Image:
        """Make an image without bytes."""
        with Violations() as wrong:
            with wrong.collect():
                names.check_name(draft.name, "image.name", dots=True)
            with wrong.collect():
                names.check_labels(draft.labels, "image.labels")
        ident = self._context.new_id("image")

        def work(conn: Connection) -> Image:
            now = self._context.clock()
            image = Image(
                id=ident,
                project_id=resolve_project(conn, project_id).id,
                name=draft.name,
                visibility=draft.visibility,
                state=ImageState.UPLOADING,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                format=draft.format,
                labels=dict(draft.labels),
            )
            images.insert(conn, image)
            self._record(conn, call, image, EventType.CREATED, "was made")
            return image

        return await mutate(self._context, call, Image, work)

    async def get(self, image_id: str) -> Image:
        """Return one image."""
        return await read_row(self._context.uow, "image", image_id, images.get)

    async def list(self, paging: Paging, *, project_id: str = "", name: str = "") -> Page[Image]:
        """Return images by name; with a project, those that it may use."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "images", [project_id, name], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(images.list_page, usable_by=project_id or None, name=name or None),
        )

    async def upload(
        self,
        call: Call,
        image_id: str,
        chunks: AsyncIterator[bytes],
        *,
        sha256: str = "",
        size_bytes: int = 0,
    ) -> Image:
        """Take an image's bytes; raise `InvalidArgument` and mark it FAILED when refused.

        When the upload breaks off, the image stays UPLOADING and no bytes are kept. The same bytes
        sent again, said to be so by their SHA-256, are dropped: the READY image is the answer.
        """
        self._check_open(image_id, sha256, size_bytes)
        self._check_may_begin(image_id)
        self._uploading.add(image_id)
        try:
            image = await self.get(image_id)
            if image.state is ImageState.READY and sha256 == image.sha256:
                # Asked again by somebody who never saw the answer. A client that is answered before
                # it has sent all may take that for a failure.
                async for _ in self._way_in.patient(chunks, image):
                    pass
                return image
            if image.state is not ImageState.UPLOADING:
                raise not_uploading(image)
            return await self._way_in.take(
                call, image, chunks, sha256=sha256, size_bytes=size_bytes
            )
        finally:
            self._uploading.discard(image_id)

    async def download(self, image_id: str, offset_bytes: int = 0) -> AsyncIterator[bytes]:
        """Yield an image's bytes from an offset on, in pieces of at most 1 MiB.

        One that is being removed has its bytes as long as an instance may need them.
        """
        image = await self.get(image_id)
        if image.state not in {ImageState.READY, ImageState.DELETING} or not image.sha256:
            raise not_ready(image)
        with Violations() as wrong:
            wrong.require(
                0 <= offset_bytes <= image.size_bytes,
                "offset_bytes",
                f"is {offset_bytes}; the image has {image.size_bytes} bytes",
                "INVALID_OFFSET",
            )
        async for chunk in self._store.get(image.key, offset_bytes):
            yield chunk

    async def delete(self, call: Call, image_id: str, etag: str = "") -> ImageDeletion:
        """Remove an image; the leader removes its bytes.

        Where instances keep it for long, its name is free for the next one at once.
        """
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> ImageDeletion:
            old = fetch("image", image_id, "image_id", lambda i: images.locked(conn, i))
            check_etag("image", old.id, old.etag, etag)
            active = operations.active_for(conn, old.id)
            if old.state is ImageState.DELETING and active is not None:
                return ImageDeletion(old, active)
            now = self._context.clock()
            new = replace(
                old,
                name=_free_name(old) if instances.count_by_image(conn, old.id) else old.name,
                state=ImageState.DELETING,
                etag=self._context.new_etag(),
                update_time=now,
            )
            operation = Operation(
                id=operation_id,
                project_id=old.project_id,
                verb=Verb.DELETE,
                resource_kind="image",
                resource_id=old.id,
                state=OperationState.PENDING,
                create_time=now,
                update_time=now,
                deadline_time=now + timedelta(seconds=DELETE_DEADLINE_S),
                capacity_deadline_time=now,
                request_id=call.request_id,
                traceparent=call.traceparent,
            )
            images.replace(conn, new, etag=None)
            operations.insert(conn, operation)
            self._record(conn, call, new, EventType.UPDATED, "is being removed")
            return ImageDeletion(new, operation)

        return await mutate(self._context, call, ImageDeletion, work, wakes=[image_id])

    def _check_open(self, image_id: str, sha256: str, size_bytes: int) -> None:
        with Violations() as wrong:
            with wrong.collect():
                check_id("image", image_id, "open.image_id")
            wrong.require(
                not sha256 or bool(_SHA256.fullmatch(sha256)),
                "open.sha256",
                "must be 64 lower-case hexadecimal digits",
                "INVALID_SHA256",
            )
            wrong.require(
                0 <= size_bytes <= self._settings.max_size_bytes,
                "open.size_bytes",
                f"is {size_bytes}; at most {self._settings.max_size_bytes} bytes are taken",
                "IMAGE_TOO_LARGE",
            )

    def _check_may_begin(self, image_id: str) -> None:
        if image_id in self._uploading:
            raise Conflict(
                f"image {image_id} is being uploaded by another call",
                reason="UPLOAD_IN_PROGRESS",
                fix="wait for that call to end",
                metadata={"image_id": image_id},
            )
        count = len(self._uploading)
        if count >= self._settings.max_uploads:
            raise Unavailable(
                f"{count} images are being uploaded already",
                reason="TOO_MANY_UPLOADS",
                fix="try again when one of them has ended, or raise images.max_uploads",
                metadata={"uploads": str(count)},
                retry_after_s=5.0,
            )

    def _record(
        self,
        conn: Connection,
        call: Call,
        row: Image,
        change: EventType,
        what: str,
        *,
        reason: str = "",
    ) -> None:
        record(
            conn,
            self._context,
            call,
            Subject("image", row.id, row.name, row.project_id, row.state.value),
            change,
            message=f"image {row.name} {what}",
            reason=reason,
        )


def _key(image: Image) -> Sequence[str]:
    return [image.name, image.id]


def _free_name(image: Image) -> str:
    """Return the name of an image that gave its own up, made as domains are named on a host."""
    suffix = f".{image.id[-6:]}"
    if image.name.endswith(suffix):
        return image.name
    return image.name[: names.MAX_NAME - len(suffix)].rstrip("-.") + suffix

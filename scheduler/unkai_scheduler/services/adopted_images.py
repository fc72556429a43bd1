"""The image of an adopted machine: its bytes are looked for, and its row is mended or given back.

A restored database may lack the row, or have it as it was before the bytes came. `find` looks
before the transaction of the adoption, all else writes within it.

The trap: what an image was is its host's word. A row that says otherwise is not mended.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.images import Image, ImageState, Visibility, is_key_of
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.mutations import Subject, record
from unkai_scheduler.store import images, uploads
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class FoundBytes:
    """What was found of a machine's image before the transaction."""

    key: str
    """Where bytes are that count for no image; empty: nowhere, or it has its own."""
    had_row: bool


class AdoptedImages:
    """Finds the bytes of images, and mends the rows that lack them."""

    def __init__(self, context: ServiceContext, store: ImageStore) -> None:
        self._context = context
        self._store = store

    async def find(self, image: Image) -> FoundBytes:
        """Find the bytes of an image that has no row, or one that was written before they came."""
        known = await self._context.uow.read(lambda conn: images.get(conn, image.id))
        if known is not None and not known.lacks_bytes:
            return FoundBytes("", had_row=True)
        found_keys = [key for key in await self._store.list() if is_key_of(image.id, key)]
        # Read after the list: bytes of an upload under way never come before its row.
        uploaded = await self._context.uow.read(uploads.keys)
        for key in found_keys:
            if key not in uploaded:
                with suppress(NotFound):  # gone since it was listed
                    if await self._store.size(key) == image.size_bytes:
                        return FoundBytes(key, had_row=known is not None)
        return FoundBytes("", had_row=known is not None)

    def mend(self, conn: Connection, call: Call, told: Image, found: FoundBytes) -> list[str]:
        """Let an image be READY whose bytes came after the backup; say so."""
        if not (found.had_row and found.key):
            return []
        known = images.locked(conn, told.id)
        if known is None or not _may_be_of(known, told):
            return []
        ready = replace(
            known,
            state=ImageState.READY,
            state_reason=None,
            format=told.format,
            size_bytes=told.size_bytes,
            virtual_size_bytes=told.virtual_size_bytes,
            sha256=told.sha256,
            bytes_key=found.key,
            etag=self._context.new_etag(),
            update_time=self._context.clock(),
        )
        images.replace(conn, ready, etag=None)
        message = f"image {ready.name} is ready: its bytes are there, as a host remembers them"
        subject = Subject("image", ready.id, ready.name, ready.project_id, ready.state.value)
        record(
            conn, self._context, call, subject, EventType.UPDATED, reason="ADOPTED", message=message
        )
        return [f"its image {ready.name} was {known.state.value}: its bytes are there, it is READY"]


def restore(
    conn: Connection,
    image: Image,
    project_id: str,
    now: datetime,
    found: FoundBytes,
) -> list[str]:
    """Give the image its row back, if it has none: without it nothing can be ordered.

    Returns what a user is to know. Raises `Unavailable` when it had a row a moment ago, so that
    nobody has looked for its bytes.
    """
    if images.held(conn, image.id) is not None:
        return []
    if found.had_row:
        raise Unavailable(
            f"image {image.id} was deleted meanwhile",
            reason="IMAGE_GONE_MEANWHILE",
            fix="try again",
            metadata={"image_id": image.id},
            retry_after_s=1.0,
        )
    name = f"image-{image.id[-6:]}"
    if images.find(conn, project_id, name) is not None:
        name = image.id
    lost = FailedPrecondition(
        f"the bytes of image {image.id} are gone",
        reason="IMAGE_BYTES_GONE",
        fix="delete it once its instances are gone; upload the file again under another name",
        metadata={"image_id": image.id},
    )
    row = Image(
        id=image.id,
        project_id=project_id,
        name=name,
        visibility=Visibility.PRIVATE,
        state=ImageState.READY if found.key else ImageState.FAILED,
        state_reason=None if found.key else lost.to_record(),
        etag=image.id[-16:],
        create_time=now,
        update_time=now,
        format=image.format,
        size_bytes=image.size_bytes,
        virtual_size_bytes=image.virtual_size_bytes,
        sha256=image.sha256,
        bytes_key=found.key,
    )
    images.insert(conn, row)
    kept = "its bytes are there" if found.key else "its bytes are gone"
    return [f"its image {image.id} was not known: it is called {name} now, and {kept}"]


def doubts(conn: Connection, row: Instance) -> list[str]:
    """Return a warning of an image that nobody of the instance's project could have asked for."""
    image = images.get(conn, row.spec.image_id)
    if image is None or image.visibility is not Visibility.PRIVATE:
        return []
    if image.project_id == row.project_id:
        return []
    return [
        f"its image {image.name} is private to project {image.project_id}: see whether its "
        "host tells the truth"
    ]


def _may_be_of(known: Image, told: Image) -> bool:
    """Tell whether the bytes that a host made a machine from may be those an image waits for."""
    return (
        known.lacks_bytes
        and known.format in {None, told.format}
        and known.sha256 in {"", told.sha256}
    )

"""Images in the database; their bytes are elsewhere (`unkai_scheduler.images`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, or_, select

from unkai_scheduler.domain.images import Image, ImageFormat, ImageState, Visibility
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import images, instances, uploads

_KIND = "image"
_QUERY = select(images)


def insert(conn: Connection, row: Image) -> None:
    """Insert an image; raise `AlreadyExists` when its name is taken in the project."""
    rows.insert_named(conn, images, _KIND, _values(row))


def get(conn: Connection, ident: str) -> Image | None:
    """Return an image by id."""
    return _optional(rows.get_row(conn, _QUERY, images, ident))


def locked(conn: Connection, ident: str) -> Image | None:
    """Return an image that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, images, ident)
    return get(conn, ident)


def held(conn: Connection, ident: str) -> Image | None:
    """Return an image that nobody changes or removes until the transaction ends."""
    rows.hold(conn, images, ident)
    return get(conn, ident)


def find(conn: Connection, project_id: str, name: str) -> Image | None:
    """Return a project's own image by name."""
    return _optional(rows.find_row(conn, _QUERY, images, name, project_id))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    usable_by: str | None = None,
    name: str | None = None,
    state: ImageState | None = None,
) -> list[Image]:
    """Return a page in the order of (name, id).

    `project_id`: the project's own; `usable_by`: a project's own and all public ones.
    """
    where = rows.matches(
        project_id=(images.c.project_id, project_id),
        name=(images.c.name, name),
        state=(images.c.state, state and state.value),
    )
    if usable_by is not None:
        public = images.c.visibility == Visibility.PUBLIC.value
        where.append(or_(images.c.project_id == usable_by, public))
    page = rows.page_by_name(conn, _QUERY, images, after=after, limit=limit, where=where)
    return [_image(row) for row in page]


def deleting(conn: Connection, limit: int) -> list[tuple[Image, int]]:
    """Return images being removed, with how many instances need each; the free ones come first."""
    needing = select(func.count()).where(instances.c.image_id == images.c.id).correlate(images)
    needs = needing.scalar_subquery().label("needs")
    query = (
        select(needs, images)
        .where(images.c.state == ImageState.DELETING.value)
        .order_by(needs, images.c.update_time, images.c.id)
        .limit(limit)
    )
    return [(_image(row[1:]), row.needs) for row in conn.execute(query)]


def uploading(conn: Connection, before: datetime, limit: int) -> list[Image]:
    """Return images created before this time that nobody uploads the bytes of, oldest first."""
    under_way = select(uploads.c.key).where(uploads.c.image_id == images.c.id).correlate(images)
    where = (
        images.c.state == ImageState.UPLOADING.value,
        images.c.create_time < before,
        ~under_way.exists(),
    )
    query = _QUERY.where(*where).order_by(images.c.create_time, images.c.id).limit(limit)
    return [_image(row) for row in conn.execute(query)]


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many images a project owns."""
    query = select(func.count()).where(images.c.project_id == project_id)
    return conn.execute(query).scalar_one()


def replace(conn: Connection, row: Image, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, images, _KIND, _values(row), etag)


def delete(conn: Connection, ident: str) -> None:
    """Delete an image's row."""
    rows.delete_row(conn, images, ident)


def _values(row: Image) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": row.name,
        "visibility": row.visibility.value,
        "state": row.state.value,
        "format": row.format and row.format.value,
        "size_bytes": row.size_bytes,
        "virtual_size_bytes": row.virtual_size_bytes,
        "sha256": row.sha256,
        "bytes_key": row.bytes_key,
        "state_reason": None if row.state_reason is None else dict(row.state_reason),
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
        "labels": dict(row.labels),
    }


def _image(row: Sequence[Any]) -> Image:
    """Make an image of a row with exactly the table's columns, in their order."""
    values = dict(zip(images.c.keys(), row, strict=True))
    values["visibility"] = Visibility(values["visibility"])
    values["state"] = ImageState(values["state"])
    values["format"] = values["format"] and ImageFormat(values["format"])
    return Image(**values)


def _optional(row: rows.AnyRow | None) -> Image | None:
    return None if row is None else _image(row)

"""Uploads under way: a row for each key that bytes may lie under and no image names yet.

Who uploads lets the row's beat rise. Who ends an upload takes the row away in the transaction that
makes the image READY; whoever gives it up for dead marks the row first, so that it cannot end any
more, then removes the bytes, then the row. So bytes that count have no row here, and bytes that do
not count have one for as long as they may be there.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select, update

from unkai_scheduler.domain.images import Upload
from unkai_scheduler.store.tables import uploads

_GIVEN_UP = -1
"""Beat of an upload that may not end any more."""


def insert_new(conn: Connection, key: str, image_id: str) -> None:
    """Note an upload, before its first byte is stored."""
    conn.execute(insert(uploads).values(key=key, image_id=image_id, beat=0))


def beat(conn: Connection, key: str) -> bool:
    """Show that an upload goes on; False when it was given up."""
    statement = update(uploads).where(uploads.c.key == key, uploads.c.beat != _GIVEN_UP)
    return bool(conn.execute(statement.values(beat=uploads.c.beat + 1)).rowcount)


def end(conn: Connection, key: str) -> bool:
    """Take the row away of an upload whose bytes count from now on; False when it was given up."""
    statement = delete(uploads).where(uploads.c.key == key, uploads.c.beat != _GIVEN_UP)
    return bool(conn.execute(statement).rowcount)


def give_up(conn: Connection, upload: Upload) -> bool:
    """Let an upload not end any more; False when it has ended, or shown itself, since."""
    same = (uploads.c.key == upload.key, uploads.c.beat == upload.beat)
    return bool(conn.execute(update(uploads).where(*same).values(beat=_GIVEN_UP)).rowcount)


def forget(conn: Connection, key: str) -> None:
    """Take the row away of an upload whose bytes are gone."""
    conn.execute(delete(uploads).where(uploads.c.key == key))


def forget_all(conn: Connection) -> None:
    """Take all rows away, and let their bytes be: of a restored database none can be judged."""
    conn.execute(delete(uploads))


def list_all(conn: Connection) -> list[Upload]:
    """Return all uploads. They are few: each scheduler takes a bounded number at once."""
    query = select(uploads.c.key, uploads.c.image_id, uploads.c.beat).order_by(uploads.c.key)
    return [Upload(*row[:2], row.beat, row.beat == _GIVEN_UP) for row in conn.execute(query)]


def keys(conn: Connection) -> Collection[str]:
    """Return the keys of all uploads."""
    return set(conn.execute(select(uploads.c.key)).scalars())

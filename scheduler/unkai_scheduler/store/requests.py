"""Request ids: the same request answered twice gives the first answer and does nothing more.

A request is recalled and remembered in the transaction of its mutation, so that a caller who never
saw the answer can ask again. An empty id asks for none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import requests
from unkai_wire.errors import InvalidArgument


def recall(
    conn: Connection, request_id: str, principal: str, method: str, digest: str
) -> dict[str, Any] | None:
    """Return the answer given to this request before; None when it is new.

    Raises `InvalidArgument` / REQUEST_ID_REUSED when the id was used for something else.
    """
    if not request_id:
        return None
    query = select(requests).where(
        requests.c.principal == principal, requests.c.request_id == request_id
    )
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    if (row.method, row.digest) != (method, digest):
        raise InvalidArgument.field(
            "request_id",
            f"{request_id} was used for another request",
            reason="REQUEST_ID_REUSED",
            fix="draw a new request id for each new request",
        )
    return dict(row.answer)


def remember(  # noqa: PLR0917 - the key, the check and the answer of one request
    conn: Connection,
    request_id: str,
    principal: str,
    method: str,
    digest: str,
    answer: Mapping[str, Any],
    now: datetime,
) -> None:
    """Keep the answer to a request, for whoever sends it again."""
    if request_id:
        values = {
            "principal": principal,
            "request_id": request_id,
            "method": method,
            "digest": digest,
            "answer": dict(answer),
            "create_time": now,
        }
        conn.execute(insert(requests).values(values))


def expire(conn: Connection, before: datetime, limit: int) -> int:
    """Forget up to `limit` requests made before this time; return how many."""
    return rows.delete_oldest(conn, requests, requests.c.create_time, before, limit)

"""Tombstones: which removals the store knows of. Only what has one may be removed from a host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy import insert as sql_insert

from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.store import rows
from unkai_scheduler.store.tables import tombstones


def insert(conn: Connection, tombstone: Tombstone) -> None:
    """Record a removal; of two for one instance on one host the higher figures stay."""
    of_this = _of(tombstone)
    known = conn.execute(select(tombstones).where(*of_this)).one_or_none()
    values: dict[str, Any] = {
        "generation": tombstone.generation,
        "run_epoch": tombstone.run_epoch,
        "remove_time": tombstone.remove_time,
    }
    if known is None:
        key = {"instance_id": tombstone.instance_id, "host_id": tombstone.host_id}
        conn.execute(sql_insert(tombstones).values(key | values))
        return
    values["generation"] = max(known.generation, tombstone.generation)
    values["run_epoch"] = max(known.run_epoch, tombstone.run_epoch)
    conn.execute(update(tombstones).where(*of_this).values(values))


def of_instance(conn: Connection, ident: str) -> list[Tombstone]:
    """Return the tombstones of an instance, one a host at most."""
    query = select(tombstones).where(tombstones.c.instance_id == ident)
    return [Tombstone(**row._mapping) for row in conn.execute(query.order_by(tombstones.c.host_id))]


def of_instances(conn: Connection, idents: Iterable[str]) -> dict[str, list[Tombstone]]:
    """Return the tombstones of each of these instances, in a few statements."""
    found: defaultdict[str, list[Tombstone]] = defaultdict(list)
    for some in rows.portions(idents):
        query = select(tombstones).where(tombstones.c.instance_id.in_(some))
        for row in conn.execute(query.order_by(tombstones.c.instance_id, tombstones.c.host_id)):
            found[row.instance_id].append(Tombstone(**row._mapping))
    return dict(found)


def prune(conn: Connection, before: datetime, limit: int) -> int:
    """Delete up to `limit` tombstones of removals before this time; return how many.

    A machine that shows up later is an orphan then: kept and reported, never removed.
    """
    return rows.delete_oldest(conn, tombstones, tombstones.c.remove_time, before, limit)


def _of(tombstone: Tombstone) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        tombstones.c.instance_id == tombstone.instance_id,
        tombstones.c.host_id == tombstone.host_id,
    )

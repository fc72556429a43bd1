"""Hosts in the database. What is claimed on a host is summed from the claims, never counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy import update as sql_update

from unkai_scheduler.domain.aggregates import Membership
from unkai_scheduler.domain.hosts import DEFAULT_ZONE, Host, HostMark, HostState
from unkai_scheduler.store import aggregates, rows
from unkai_scheduler.store.columns import LONG_TEXT, shortened
from unkai_scheduler.store.tables import claims, hosts

_KIND = "host"


def _of_claims(figure: ColumnElement[Any], label: str) -> ColumnElement[Any]:
    """Make a column of one figure over a host's claims: an index look-up a host."""
    of_host = select(figure).where(claims.c.host_id == hosts.c.id).correlate(hosts)
    return func.coalesce(of_host.scalar_subquery(), 0).label(label)


_QUERY = select(
    hosts,
    _of_claims(func.sum(claims.c.vcpus), "claimed_vcpus"),
    _of_claims(func.sum(claims.c.memory_bytes), "claimed_memory_bytes"),
    _of_claims(func.sum(claims.c.disk_bytes), "claimed_disk_bytes"),
    _of_claims(func.count(), "instance_count"),
)
_OF_CLAIMS = (
    select(
        claims.c.host_id,
        func.sum(claims.c.vcpus).label("vcpus"),
        func.sum(claims.c.memory_bytes).label("memory_bytes"),
        func.sum(claims.c.disk_bytes).label("disk_bytes"),
    )
    .group_by(claims.c.host_id)
    .subquery()
)
_MARKS = select(
    hosts.c.id,
    hosts.c.etag,
    *(func.coalesce(_OF_CLAIMS.c[n], 0) for n in ("vcpus", "memory_bytes", "disk_bytes")),
).select_from(hosts.outerjoin(_OF_CLAIMS, _OF_CLAIMS.c.host_id == hosts.c.id))
_SUMS = ("claimed_vcpus", "claimed_memory_bytes", "claimed_disk_bytes", "instance_count")


def insert(conn: Connection, row: Host) -> None:
    """Insert a host; raise `AlreadyExists` when its name or id is taken. Its sums are ignored."""
    rows.insert_named(conn, hosts, _KIND, _values(row))


def get(conn: Connection, ident: str) -> Host | None:
    """Return a host by id."""
    return _optional(conn, rows.get_row(conn, _QUERY, hosts, ident))


def locked(conn: Connection, ident: str) -> Host | None:
    """Return a host that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, hosts, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str) -> None:
    """Keep others from changing these hosts until the transaction ends; read them after."""
    rows.lock(conn, hosts, *idents)


def find(conn: Connection, name: str) -> Host | None:
    """Return a host by name."""
    return _optional(conn, rows.find_row(conn, _QUERY, hosts, name))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    name: str | None = None,
    state: HostState | None = None,
) -> list[Host]:
    """Return a page in the order of (name, id)."""
    where = rows.matches(name=(hosts.c.name, name), state=(hosts.c.state, state and state.value))
    page = rows.page_by_name(conn, _QUERY, hosts, after=after, limit=limit, where=where)
    return _hosts(conn, page)


def list_all(conn: Connection) -> list[Host]:
    """Return all hosts in the order of their ids: for the leader's fleet."""
    return _hosts(conn, conn.execute(_QUERY.order_by(hosts.c.id)).all())


def marks(conn: Connection) -> dict[str, HostMark]:
    """Return of all hosts by id what tells whether they moved: much cheaper than their rows."""
    return {
        ident: HostMark(etag, int(vcpus), int(memory_bytes), int(disk_bytes))
        for ident, etag, vcpus, memory_bytes, disk_bytes in conn.execute(_MARKS)
    }


def list_some(conn: Connection, idents: Sequence[str]) -> list[Host]:
    """Return those of these hosts that there are."""
    return _hosts(conn, rows.some(conn, _QUERY, hosts, idents))


def replace(conn: Connection, row: Host, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    rows.replace_row(conn, hosts, _KIND, _values(row), etag)


def touch(conn: Connection, idents: Iterable[str], etag: str, now: datetime) -> None:
    """Move these hosts' etags: what their aggregates say of them has changed."""
    for some in rows.portions(idents):
        lock(conn, *some)
        of_some = hosts.c.id.in_(some)
        conn.execute(sql_update(hosts).where(of_some).values(etag=etag, update_time=now))


def delete(conn: Connection, ident: str) -> None:
    """Delete a host; `FailedPrecondition` / REFERENCE_BROKEN while anything names it."""
    rows.delete_row(conn, hosts, ident)


def _values(row: Host) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state.value,
        "address": row.address,
        "tls_name": row.tls_name,
        "cpus": row.cpus,
        "memory_bytes": row.memory_bytes,
        "disk_bytes": row.disk_bytes,
        "accelerator": row.accelerator,
        "traits": list(row.traits),
        "boot_id": row.boot_id,
        "agent_version": row.agent_version,
        "features": list(row.features),
        "physical_networks": list(row.physical_networks) or None,
        "network_problem": row.network_problem or None,
        "zone": None if row.zone == DEFAULT_ZONE else row.zone,
        "cordoned": row.cordoned,
        "cordon_reason": shortened(row.cordon_reason, LONG_TEXT),
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
    }


def _hosts(conn: Connection, found: Sequence[rows.AnyRow]) -> list[Host]:
    said = aggregates.memberships(conn, [row.id for row in found])
    return [_host(row, said.get(row.id, ())) for row in found]


def _host(row: rows.AnyRow, said: tuple[Membership, ...]) -> Host:
    values = dict(row._mapping)
    values["state"] = HostState(values["state"])
    values["traits"] = tuple(values["traits"])
    values["features"] = tuple(values["features"])
    values["physical_networks"] = tuple(values["physical_networks"] or ())
    values["network_problem"] = values["network_problem"] or ""
    values["zone"] = values["zone"] or DEFAULT_ZONE
    # Sums of 64-bit integers are decimals on PostgreSQL and MariaDB.
    values.update({name: int(values[name]) for name in _SUMS})
    return Host(**values, aggregates=said)


def _optional(conn: Connection, row: rows.AnyRow | None) -> Host | None:
    return None if row is None else _hosts(conn, [row])[0]

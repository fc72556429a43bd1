"""The rows of hosts: what a host says of itself, where it stands, and the event of each change.

`hosts.py` says when a row is written; this is what is written, in its transaction.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from operator import attrgetter

from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import events, hosts, ovn_work
from unkai_scheduler.store.columns import LONG_TEXT, shortened
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.cluster_records import HostRecord

TOLD = (
    "address",
    "tls_name",
    "cpus",
    "memory_bytes",
    "disk_bytes",
    "accelerator",
    "traits",
    "boot_id",
    "agent_version",
    "features",
    "physical_networks",
    "network_problem",
)
"""What a host says of itself; its record and its row name it alike."""
_TELLS = attrgetter(*TOLD)


def _said(record: HostRecord) -> HostRecord:
    """Return what a row can keep of a record; or it would differ from its row for ever."""
    return replace(record, network_problem=shortened(record.network_problem, LONG_TEXT))


def is_stale(row: Host | None, state: HostState, record: HostRecord | None) -> bool:
    """Tell whether a row no longer says what its host's state and record say."""
    if row is None:
        return record is not None
    return row.state is not state or (record is not None and _TELLS(row) != _TELLS(_said(record)))


def _told(row: Host, record: HostRecord) -> Host:
    """Return the row with what the host says of itself; a host keeps its first name."""
    return replace(row, **dict(zip(TOLD, _TELLS(_said(record)), strict=True)))


def write_row(
    conn: Connection,
    office: Office,
    host_id: str,
    *,
    state: HostState,
    record: HostRecord | None,
    now: datetime,
    etag: str,
) -> Host | None:
    """Write one host's row and its event; None when it cannot have one."""
    row = hosts.locked(conn, host_id)
    if row is None:
        if record is None or hosts.find(conn, record.name) is not None:
            return None
        fresh = _new_row(record, state, now, etag)
        hosts.insert(conn, fresh)
        _mark_ways_out(conn, None, fresh, now)
        events.insert(conn, _event(office, fresh, EventType.CREATED, None))
        return fresh
    told = row if record is None else _told(row, record)
    changed = replace(told, state=state, etag=etag, update_time=now)
    hosts.replace(conn, changed, etag=None)
    _mark_ways_out(conn, row, changed, now)
    events.insert(conn, _event(office, changed, EventType.UPDATED, row))
    return changed


def _mark_ways_out(conn: Connection, old: Host | None, new: Host, now: datetime) -> None:
    """Mark the routers whose gateway may be on this host now, or no more."""
    names = _reached(old) ^ _reached(new)
    ovn_work.mark_ways_out(conn, names, now, "other hosts reach the outside")


def _reached(host: Host | None) -> set[str]:
    return set(host.physical_networks) if host and NETWORKS in host.features else set()


def _new_row(record: HostRecord, state: HostState, now: datetime, etag: str) -> Host:
    blank = Host(
        id=record.host_id,
        name=record.name,
        state=state,
        address="",
        tls_name="",
        cpus=0,
        memory_bytes=0,
        disk_bytes=0,
        accelerator="",
        traits=(),
        boot_id="",
        agent_version="",
        features=(),
        etag=etag,
        create_time=now,
        update_time=now,
    )
    return _told(blank, record)


def _event(office: Office, row: Host, type: EventType, before: Host | None) -> Event:  # noqa: A002
    rebooted = before is not None and before.boot_id not in ("", row.boot_id)
    silent = row.state is HostState.UNKNOWN
    return office.event(
        "host",
        row.id,
        row.name,
        type=type,
        state=row.state.value,
        reason="HOST_SILENT" if silent else "HOST_REBOOTED" if rebooted else "",
        message=(
            f"host {row.name} is silent; its machines may well be running"
            if silent
            else f"host {row.name} has booted anew"
            if rebooted
            else ""
        ),
        attributes={"host_id": row.id, "boot_id": row.boot_id},
    )

"""Claims: which host holds which instance. At most one each; only the leader writes them.

A claim changes its host by `move` alone, and only after a fence is proven or an operator has
signed for it: `move` raises the run epoch, so that the old host's copy is never permitted again.

Ports say on which host they are, so whatever changes a claim marks them for OVN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert as sql_insert

from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.instances import Claim, Instance
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.store import events, hosts, instances, ovn_work, rows, tombstones
from unkai_scheduler.store.failures import unique
from unkai_scheduler.store.tables import claims
from unkai_wire import ids
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound

_OPERATOR = "operator"


def insert(conn: Connection, claims_made: Sequence[Claim]) -> None:
    """Insert a batch of claims; raise `AlreadyExists` when an instance is held already."""
    for claim in claims_made:
        with unique("claim", claim.instance_id):
            conn.execute(
                sql_insert(claims).values(
                    instance_id=claim.instance_id,
                    host_id=claim.host_id,
                    vcpus=claim.vcpus,
                    memory_bytes=claim.memory_bytes,
                    disk_bytes=claim.disk_bytes,
                    run_epoch=claim.run_epoch,
                    create_time=claim.create_time,
                )
            )
    for now in {claim.create_time for claim in claims_made}:
        some = [claim.instance_id for claim in claims_made if claim.create_time == now]
        ovn_work.mark_ports_of(conn, some, now, "placed")


def get(conn: Connection, ident: str) -> Claim | None:
    """Return the claim on an instance."""
    row = conn.execute(select(claims).where(claims.c.instance_id == ident)).one_or_none()
    return None if row is None else Claim(**row._mapping)


def delete(conn: Connection, ident: str, now: datetime) -> None:
    """Delete the claim on an instance; deleting what is not there is fine."""
    conn.execute(sql_delete(claims).where(claims.c.instance_id == ident))
    ovn_work.mark_ports_of(conn, [ident], now, "let go of its host")


def set_run_epoch(conn: Connection, ident: str, run_epoch: int) -> None:
    """Let the claim on an instance bear its run epoch; without a claim nothing happens."""
    of_instance = claims.c.instance_id == ident
    conn.execute(update(claims).where(of_instance).values(run_epoch=run_epoch))


def list_all(conn: Connection) -> list[Claim]:
    """Return all claims in the order of their instances' ids."""
    query = select(claims).order_by(claims.c.instance_id)
    return [Claim(**row._mapping) for row in conn.execute(query)]


def hosts_of(conn: Connection, idents: Iterable[str]) -> dict[str, str]:
    """Return the host of each of these instances that is claimed, in a few statements."""
    found: dict[str, str] = {}
    for some in rows.portions(idents):
        query = select(claims.c.instance_id, claims.c.host_id)
        rows_read = conn.execute(query.where(claims.c.instance_id.in_(some)))
        found |= {row.instance_id: row.host_id for row in rows_read}
    return found


def made_since(conn: Connection, since: datetime) -> list[Claim]:
    """Return the claims made, or moved, since then. Reads every row: for a reign's beginning."""
    query = select(claims).where(claims.c.create_time >= since).order_by(claims.c.instance_id)
    return [Claim(**row._mapping) for row in conn.execute(query)]


def move(
    conn: Connection, ident: str, to_host_id: str, *, statement: str, now: datetime
) -> Instance:
    """Give an instance to another host and fence the old one; call it under `lead()`.

    `statement`: why the old copy can never run again, in the operator's words; the event keeps it.
    Raises run epoch and generation, buries the machine on the old host, and makes the instance due.
    """
    if not statement.strip():
        raise InvalidArgument.field(
            "statement",
            "must say why the machine on the old host can never run again",
            reason="STATEMENT_REQUIRED",
        )
    instance = _movable(conn, ident, to_host_id)
    moved = replace(
        instance,
        generation=instance.generation + 1,
        run_epoch=instance.run_epoch + 1,
        etag=_next_etag(instance),
        update_time=now,
        due_time=now,
        attempt=0,
    )
    instances.replace(conn, moved, etag=instance.etag)
    buried = Tombstone(ident, instance.host_id, instance.generation, instance.run_epoch, now)
    tombstones.insert(conn, buried)
    values = {"host_id": to_host_id, "run_epoch": moved.run_epoch, "create_time": now}
    conn.execute(update(claims).where(claims.c.instance_id == ident).values(values))
    ovn_work.mark_ports_of(conn, [ident], now, "moved to another host")
    result = instances.get(conn, ident)
    assert result is not None
    events.insert(conn, _moved_event(instance, result, statement, now))
    return result


def _movable(conn: Connection, ident: str, to_host_id: str) -> Instance:
    instance = instances.locked(conn, ident)
    if instance is None:
        raise NotFound.of("instance", ident)
    if hosts.get(conn, to_host_id) is None:
        raise NotFound.of("host", to_host_id)
    if instance.host_id in {"", to_host_id}:
        where = f"on host {to_host_id} already" if instance.host_id else "on no host"
        raise FailedPrecondition(
            f"instance {ident} is {where}",
            reason="CLAIM_NOT_MOVABLE",
            metadata={"instance_id": ident, "host_id": to_host_id},
        )
    return instance


def _next_etag(instance: Instance) -> str:
    """Derive the etag, so that the function draws nothing at random."""
    text = f"{instance.etag}/{instance.generation}/{instance.run_epoch}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _moved_event(old: Instance, new: Instance, statement: str, now: datetime) -> Event:
    digest = hashlib.sha256(f"{new.id}/{new.run_epoch}".encode()).digest()
    time_ms = int(now.timestamp() * 1000)
    return Event(
        # One move raises the run epoch once, so the id is unique without drawing at random.
        id=ids.encode("evt", ids.uuid7(time_ms, int.from_bytes(digest[:9], "big"))),
        project_id=new.project_id,
        resource_kind="instance",
        resource_id=new.id,
        resource_name=new.spec.name,
        type=EventType.UPDATED,
        actor=_OPERATOR,
        create_time=now,
        state=new.state.value,
        reason="CLAIM_MOVED",
        message=f"moved from host {old.host_name} to {new.host_name}: {statement}",
        attributes={
            "from_host_id": old.host_id,
            "to_host_id": new.host_id,
            "run_epoch": str(new.run_epoch),
            "statement": statement,
        },
    )

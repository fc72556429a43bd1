"""Writing what was decided: rows, claims, tombstones and events of one action, in one go.

Everything here runs on a connection inside `Office.lead`. A row that changed since it was read is
left alone: it is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.events import Event, EventType
from unkai_scheduler.domain.instances import Claim, Instance, check_move
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import Operation, OperationState, end
from unkai_scheduler.domain.placement_groups import GroupRule
from unkai_scheduler.reconcile.actions import Action, Fail, Forget, Reclaim, Release
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import (
    claims,
    events,
    hosts,
    instances,
    operations,
    placement_groups,
    ports,
    tombstones,
)
from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance as it was read, with its operation and the hosts that failed it."""

    instance: Instance
    operation: Operation | None
    failed_hosts: tuple[str, ...] = ()
    physical_networks: tuple[str, ...] | None = None
    """Of one on no host, those that its ports need; None: it has no ports."""
    group: GroupRule | None = None
    """Of one on no host, the placement group it is of."""


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be written of one instance."""

    seen: Seen
    action: Action
    decision: Decision | None = None
    """Kept for explaining; set where placement was asked."""
    claim: Claim | None = None
    """Set where placement found a host."""
    etag: str = ""
    """The row's new etag, if anything changes that a user sees."""


def read(conn: Connection, instance: Instance) -> Seen:
    """Read what belongs to an instance."""
    operation = operations.active_for(conn, instance.id)
    if instance.host_id:
        return Seen(instance, operation)
    failed: tuple[str, ...] = ()
    if not instance.has_run:
        failed = tuple(t.host_id for t in tombstones.of_instance(conn, instance.id))
    needed = ports.physical_networks(conn, [instance.id]).get(instance.id)
    group_id = instance.spec.placement_group_id
    group = placement_groups.get(conn, group_id) if group_id else None
    return Seen(instance, operation, failed, needed, group.rule if group else None)


def differs(change: Change) -> bool:
    """Tell whether there is anything to write."""
    seen, action = change.seen, change.action
    return (
        change.decision is not None
        or isinstance(action, Release | Fail | Forget)
        or action.instance != seen.instance
        or action.operation != seen.operation
    )


def frees(change: Change) -> bool:
    """Tell whether a change, once it is written, lets go of what its instance is plugged in by."""
    return isinstance(change.action, Fail | Forget)


def units(batch: Sequence[Change]) -> list[list[Change]]:
    """Split changes into what is written whole or not at all: what is decided of a gang is one."""
    found: dict[tuple[bool, str], list[Change]] = {}
    for change in batch:
        gang_id = _gang_of(change)
        found.setdefault((bool(gang_id), gang_id or change.seen.instance.id), []).append(change)
    return list(found.values())


def _gang_of(change: Change) -> str:
    return change.seen.instance.gang_id if change.decision is not None else ""


def write_all(
    conn: Connection, batch: Sequence[Change], office: Office, now: datetime
) -> list[bool]:
    """Write changes, as `write` does; all that was decided of a gang, or nothing of it."""
    torn = {gang for change in batch if (gang := _gang_of(change)) and not _holds(conn, change)}
    return [_gang_of(change) not in torn and write(conn, change, office, now) for change in batch]


def write(conn: Connection, change: Change, office: Office, now: datetime) -> bool:
    """Write one change; False when the rows are not what the decision was made on.

    The caller has locked the instance, and what it is plugged in by when the change `frees` that.
    """
    seen, action, ident = change.seen, change.action, change.seen.instance.id
    if not _holds(conn, change):
        return False
    if isinstance(action, Forget):
        _forget(conn, seen, action, office, now)
        return True
    if isinstance(action, Release | Fail):
        _drop_claim(conn, ident, action.tombstone, now)
    if isinstance(action, Fail):
        office.plugs.free(conn, ident)
    if isinstance(action, Reclaim) and not _claim_held(conn, action.instance, now):
        return False
    if change.claim is not None:
        claims.insert(conn, [change.claim])
    if change.decision is not None:
        instances.save_decision(conn, change.decision)
    _write_instance(conn, change, office, now)
    _write_operation(
        conn, seen.operation, action.operation, name=seen.instance.spec.name, office=office, now=now
    )
    return True


def _holds(conn: Connection, change: Change) -> bool:
    """Tell whether the rows are what a decision was made on."""
    stored = instances.get(conn, change.seen.instance.id)
    return (
        stored is not None
        and _same(stored, change.seen.instance)
        and operations.active_for(conn, stored.id) == change.seen.operation
    )


def _same(stored: Instance, seen: Instance) -> bool:
    """Tell whether a row is as it was read, but for when it is due."""
    return replace(stored, due_time=seen.due_time) == seen


def _claim_held(conn: Connection, row: Instance, now: datetime) -> bool:
    """Claim an instance for the host that holds it; False when that has no row any more."""
    if hosts.locked(conn, row.host_id) is None:
        return False
    spec = row.spec
    claim = Claim(
        row.id, row.host_id, spec.vcpus, spec.memory_bytes, spec.disk_bytes, row.run_epoch, now
    )
    claims.insert(conn, [claim])
    return True


def _drop_claim(
    conn: Connection, instance_id: str, tombstone: Tombstone | None, now: datetime
) -> None:
    if tombstone is not None:
        # Kept from now on: hosts' clocks do not say for how long.
        tombstones.insert(conn, replace(tombstone, remove_time=now))
    claims.delete(conn, instance_id, now)


def _forget(conn: Connection, seen: Seen, action: Forget, office: Office, now: datetime) -> None:
    instance = seen.instance
    _write_operation(
        conn, seen.operation, action.operation, name=instance.spec.name, office=office, now=now
    )
    while (other := operations.active_for(conn, instance.id)) is not None:
        ended = end(other, OperationState.CANCELLED, now)
        write_operation(conn, other, ended, name=instance.spec.name, office=office, now=now)
    _drop_claim(conn, instance.id, action.tombstone, now)
    office.plugs.free(conn, instance.id)
    instances.delete(conn, instance.id)
    gone = replace(instance, state_reason=None)
    events.insert(conn, _instance_event(gone, office, type=EventType.DELETED))


def _write_instance(conn: Connection, change: Change, office: Office, now: datetime) -> None:
    before, after = change.seen.instance, change.action.instance
    operation = change.action.operation
    if operation is not None and operation.state.ended:
        after = replace(after, operation_id="")
    if after == before:
        return
    check_move(before, after.state)
    # When it is looked at next is nobody's business: a user's etag stays good.
    if replace(after, due_time=before.due_time, attempt=before.attempt) != before:
        after = replace(after, etag=change.etag, update_time=now)
    instances.replace(conn, after, etag=None)
    if after.run_epoch != before.run_epoch:
        claims.set_run_epoch(conn, after.id, after.run_epoch)
    if (before.state, before.desired_power, before.host_id) != (
        after.state,
        after.desired_power,
        after.host_id,
    ) or _reason(before) != _reason(after):
        events.insert(conn, _instance_event(after, office, change=change))


def _reason(instance: Instance) -> str:
    return str((instance.state_reason or {}).get("reason", ""))


def _instance_event(
    instance: Instance,
    office: Office,
    *,
    type: EventType = EventType.UPDATED,  # noqa: A002 - the event's own word
    change: Change | None = None,
) -> Event:
    reason, message = _reason(instance), str((instance.state_reason or {}).get("message", ""))
    if change is not None and change.claim is not None:
        reason, message = "PLACED", change.decision.summary if change.decision else ""
    elif change is not None and isinstance(change.action, Release):
        reason = reason or "RELEASED"
    host_id = instance.host_id
    return office.event(
        "instance",
        instance.id,
        instance.spec.name,
        project_id=instance.project_id,
        type=type,
        state="" if type is EventType.DELETED else instance.state.value,
        reason=reason,
        message=message,
        attributes={
            "host_id": host_id,
            "host_name": instance.host_name,
            "generation": str(instance.generation),
            "run_epoch": str(instance.run_epoch),
            "desired_power": instance.desired_power.value,
            "operation_id": change.seen.operation.id if change and change.seen.operation else "",
        },
    )


def _write_operation(
    conn: Connection,
    before: Operation | None,
    after: Operation | None,
    *,
    name: str,
    office: Office,
    now: datetime,
) -> None:
    if before is None or after is None or after == before:
        return
    write_operation(conn, before, after, name=name, office=office, now=now)


def write_operation(
    conn: Connection,
    before: Operation,
    after: Operation,
    *,
    name: str,
    office: Office,
    now: datetime,
) -> None:
    """Write an operation's row, and an event when its state changed; `name`: the resource's."""
    operations.replace(conn, replace(after, update_time=now), etag=None)
    if before.state is after.state:
        return
    error = after.error or {}
    events.insert(
        conn,
        office.event(
            "operation",
            after.id,
            name,
            project_id=after.project_id,
            state=after.state.value,
            reason=str(error.get("reason", "")),
            message=str(error.get("message", "")),
            attributes={
                "verb": after.verb.value,
                "resource_kind": after.resource_kind,
                "resource_id": after.resource_id,
            },
            request_id=after.request_id,
        ),
    )

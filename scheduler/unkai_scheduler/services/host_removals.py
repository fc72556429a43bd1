"""Removal of a host that is gone for ever, on an operator's word.

Runs where the leader is: only it knows that a host is neither registered nor heard. A claim ends
only when its host confirms that nothing is left, or when somebody signs that the host never comes
back; this is the second way, and it is taken for instances alone whose deletion was asked for.
Whatever else the host holds keeps it: its disks may be the only copy.

The trap: a host may come back all the same. Each deletion leaves a tombstone, so that what it
still holds of those instances is removed then; all else on it is an orphan, kept and reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.aggregates import Aggregate
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.names import check_text
from unkai_scheduler.services.checks import Violations, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.live import HostsView, LeaderView
from unkai_scheduler.services.mutations import Subject, mutate, recalled, record
from unkai_scheduler.store import aggregates, claims, hosts, instances, ovn_work, tombstones
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_MAX_STATEMENT = 255
_NAMED = 5
"""Instances that a refusal names; it counts them all."""


@dataclass(frozen=True, slots=True)
class RemovedHost:
    """A host as it was, and the instances whose deletion ended with it."""

    host: Host
    instance_ids: tuple[str, ...]


class HostRemovalsService:
    """The use case of a host's removal."""

    def __init__(self, context: ServiceContext, leader: LeaderView) -> None:
        self._context = context
        self._leader = leader
        self._removing: set[asyncio.Task[RemovedHost]] = set()
        """Removals under way: their callers may have gone."""

    async def remove(self, call: Call, host_id: str, statement: str) -> RemovedHost:
        """Take a host out of the cloud. `statement`: why its machines can never run again."""
        _check(host_id, statement)
        view, term = self._leader.hosts, self._leader.term
        first = await recalled(self._context, call, RemovedHost)
        if first is not None:
            await self._forget_unwritten(view, host_id)
            return first
        row = await self._context.uow.read(lambda conn: hosts.get(conn, host_id))
        host = found("host", host_id, row)
        if not view.is_gone(host_id):
            raise _not_gone(host)

        def work(conn: Connection) -> RemovedHost:
            if not view.is_gone(host_id):  # it came back while this waited for the database
                raise _not_gone(host)
            return self._write(conn, call, host_id, statement)

        async def write() -> RemovedHost:
            removed = await mutate(self._context, call, RemovedHost, work, term=term)
            view.forget(host_id)
            self._context.wake(removed.instance_ids)
            return removed

        # A caller that goes between the two would leave the leader with a host that has no row.
        task = asyncio.create_task(write())
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)
        return await asyncio.shield(task)

    async def _forget_unwritten(self, view: HostsView, host_id: str) -> None:
        """Let the leader forget a removed host whose first answer was lost.

        One that has a row has come back since, and is a new host.
        """
        if await self._context.uow.read(lambda conn: hosts.get(conn, host_id)) is None:
            view.forget(host_id)

    def _write(self, conn: Connection, call: Call, host_id: str, statement: str) -> RemovedHost:
        left = aggregates.locked_of_host(conn, host_id)
        host = found("host", host_id, hosts.locked(conn, host_id))
        held = _held(conn, host)
        for instance in held:
            self._let_go(conn, instance)
        for aggregate in left:
            self._leave(conn, call, host, aggregate)
        hosts.delete(conn, host_id)
        now = self._context.clock()
        ovn_work.mark_ways_out(conn, host.physical_networks, now, "a gateway host was removed")
        record(
            conn,
            self._context,
            call,
            Subject("host", host.id, host.name, state=host.state.value),
            EventType.DELETED,
            message=f"host {host.name} was removed for ever: {statement}",
            reason="HOST_REMOVED",
            attributes={"statement": statement, "instances": str(len(held))},
        )
        return RemovedHost(host, tuple(instance.id for instance in held))

    def _leave(self, conn: Connection, call: Call, host: Host, aggregate: Aggregate) -> None:
        """Take the host out of an aggregate that it is in."""
        kept = tuple(ident for ident in aggregate.host_ids if ident != host.id)
        etag, now = self._context.new_etag(), self._context.clock()
        changed = replace(aggregate, host_ids=kept, etag=etag, update_time=now)
        aggregates.replace(conn, changed, etag=None)
        record(
            conn,
            self._context,
            call,
            Subject("aggregate", aggregate.id, aggregate.name),
            EventType.UPDATED,
            message=f"host {host.name} left aggregate {aggregate.name}: it was removed for ever",
            attributes={"host_id": host.id, "host_name": host.name},
        )

    def _let_go(self, conn: Connection, instance: Instance) -> None:
        """End the host's claim; the leader ends the deletion when it looks next."""
        now = self._context.clock()
        tombstones.insert(
            conn,
            Tombstone(instance.id, instance.host_id, instance.generation, instance.run_epoch, now),
        )
        claims.delete(conn, instance.id, now)
        freed = replace(instance, etag=self._context.new_etag(), update_time=now, due_time=now)
        instances.replace(conn, freed, etag=None)


def _check(host_id: str, statement: str) -> None:
    with Violations() as wrong:
        with wrong.collect():
            check_id("host", host_id, "host_id")
        with wrong.collect():
            check_text(statement, "statement", _MAX_STATEMENT)
        wrong.require(
            bool(statement.strip()),
            "statement",
            "must say why the machines on this host can never run again",
            "STATEMENT_REQUIRED",
        )


def _held(conn: Connection, host: Host) -> Sequence[Instance]:
    """Return what the host holds, all of it being deleted; else raise `FailedPrecondition`."""
    some = instances.list_page(conn, after=None, limit=host.instance_count + 1, host_id=host.id)
    instances.lock(conn, *(instance.id for instance in some))
    held = [found("instance", one.id, instances.get(conn, one.id)) for one in some]
    wanted = [i for i in held if not (i.delete_requested or i.state is InstanceState.DELETING)]
    if wanted:
        names = ", ".join(instance.spec.name for instance in wanted[:_NAMED])
        more = f" and {len(wanted) - _NAMED} more" if len(wanted) > _NAMED else ""
        raise FailedPrecondition(
            f"host {host.name} holds instances that nobody has deleted: {names}{more}",
            reason="HOST_HOLDS_INSTANCES",
            fix="bring the host back; or give up what its disks hold: "
            "'unkai instance delete --no-wait' of each, then remove the host",
            metadata={"host": host.name, "instances": str(len(wanted))},
        )
    return held


def _not_gone(host: Host) -> FailedPrecondition:
    return FailedPrecondition(
        f"host {host.name} is not gone: its agent is registered, or still answers",
        reason="HOST_NOT_GONE",
        fix="switch the host off, or stop its agent and shut it out "
        f"('unkai-scheduler etcd revoke {host.id}'); it counts as gone seconds later",
        metadata={"host": host.name, "state": host.state.value},
    )

"""Instances: create, read, change, remove, power. Writes what shall be; the leader does the rest.

Each change is one transaction with the instance, its operation and an event, and raises the
generation, so that an order made from the older row is refused by the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import (
    DEFAULT_STOP_GRACE_S,
    MAX_STOP_GRACE_S,
    REBOOTABLE,
    STARTABLE,
    STOPPABLE,
    Instance,
    InstanceState,
    Power,
    check_move,
)
from unkai_scheduler.domain.names import MAX_FILTER, check_labels, check_text
from unkai_scheduler.domain.operations import Verb
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_changes import (
    DELETED,
    Accepted,
    InstanceChanges,
    all_shown,
    check_not_deleting,
    shown,
)
from unkai_scheduler.services.instance_drafts import InstanceDraft, check_words
from unkai_scheduler.services.launches import AcceptedBatch, Batch, Launches
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.store import instances, operations
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

MIN_ID_PREFIX = 6
_CHANGEABLE = ("name", "labels")
_PROMPT_GRACE_S = 0.0


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """Which instances a caller wants; empty fields leave all in."""

    project_id: str = ""
    name: str = ""
    id_prefix: str = ""
    host_id: str = ""
    states: tuple[InstanceState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `InvalidArgument` for what can match nothing."""
        with Violations() as wrong:
            if self.project_id:
                with wrong.collect():
                    check_id("project", self.project_id, "project_id")
            if self.host_id:
                with wrong.collect():
                    check_id("host", self.host_id, "host_id")
            wrong.require(
                not self.id_prefix or len(self.id_prefix) >= MIN_ID_PREFIX,
                "id_prefix",
                f"must have at least {MIN_ID_PREFIX} characters",
                "ID_PREFIX_TOO_SHORT",
            )
            for field_name, text in (("name", self.name), ("id_prefix", self.id_prefix)):
                with wrong.collect():
                    check_text(text, field_name, MAX_FILTER)
            with wrong.collect():
                check_labels(self.labels, "label_selector")

    def conditions(self) -> list[object]:
        """Return the filter as plain values, for the page token."""
        return [
            self.project_id,
            self.name,
            self.id_prefix,
            self.host_id,
            sorted({state.value for state in self.states}),
            dict(self.labels),
        ]


class InstancesService:
    """Use cases of instances."""

    def __init__(self, context: ServiceContext, networking: NetworkSettings) -> None:
        self._context = context
        self._launches = Launches(context, networking)

    async def create(
        self, call: Call, project_id: str, draft: InstanceDraft, capacity_wait_s: float = 0.0
    ) -> Accepted:
        """Accept a new instance with its ports; the leader chooses its host."""
        return await self._launches.one(call, project_id, draft, capacity_wait_s)

    async def create_batch(self, call: Call, project_id: str, batch: Batch) -> AcceptedBatch:
        """Accept several instances that are alike, or none."""
        return await self._launches.batch(call, project_id, batch)

    async def get(self, instance_id: str) -> Instance:
        """Return one instance."""
        check_id("instance", instance_id, "instance_id")

        def look(conn: Connection) -> Instance:
            return shown(conn, found("instance", instance_id, instances.get(conn, instance_id)))

        return await self._context.uow.read(look)

    async def list(self, paging: Paging, wanted: InstanceFilter) -> Page[Instance]:
        """Return instances by name, with the revision to watch from."""
        wanted.check()
        page = plan(paging, "instances", wanted.conditions(), _key, key_length=2)

        def shown_page(
            conn: Connection, *, after: Sequence[str] | None, limit: int
        ) -> list[Instance]:
            rows = instances.list_page(
                conn,
                after=after,
                limit=limit,
                project_id=wanted.project_id or None,
                name=wanted.name or None,
                id_prefix=wanted.id_prefix or None,
                host_id=wanted.host_id or None,
                states=wanted.states or None,
                labels=wanted.labels or None,
            )
            return all_shown(conn, rows)

        return await page.read(self._context.uow, shown_page)

    async def update(
        self, call: Call, instance_id: str, draft: InstanceDraft, mask: Sequence[str], etag: str
    ) -> Instance:
        """Change name or labels."""
        fields = check_mask(mask, _CHANGEABLE)
        with Violations() as wrong:
            check_words(wrong, draft, fields)

        def work(conn: Connection) -> Instance:
            changes = self._changes(conn, call)
            old = changes.locked(instance_id, "instance.id")
            check_not_deleting(old)
            spec = replace(
                old.spec,
                name=draft.name if "name" in fields else old.spec.name,
                labels=dict(draft.labels) if "labels" in fields else old.spec.labels,
            )
            if spec == old.spec and etag in ("", old.etag):
                return shown(conn, old)
            new = changes.changed(old, spec=spec)
            instances.replace(conn, new, etag=etag or None)
            changes.record(new, EventType.UPDATED, "was changed")
            return shown(conn, new)

        return await mutate(self._context, call, Instance, work, wakes=[instance_id])

    async def delete(self, call: Call, instance_id: str, etag: str = "") -> Accepted:
        """Remove an instance, whatever its state; the work under way on it is cancelled."""
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Accepted:
            changes = self._changes(conn, call)
            old = changes.locked(instance_id)
            check_etag("instance", old.id, old.etag, etag)
            active = operations.active_for(conn, old.id)
            if old.delete_requested and active is not None and active.verb is Verb.DELETE:
                return Accepted(shown(conn, old), active)
            check_move(old, InstanceState.DELETING)
            if active is not None:
                changes.cancel(active, old.spec.name, DELETED)
            new = changes.changed(
                old,
                state=InstanceState.DELETING,
                state_reason=None,
                desired_power=Power.OFF,
                delete_requested=True,
                operation_id=operation_id,
            )
            return changes.accept(new, Verb.DELETE, "is being removed")

        return await mutate(self._context, call, Accepted, work, wakes=[instance_id])

    async def start(self, call: Call, instance_id: str) -> Accepted:
        """Power an instance on."""
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Accepted:
            changes = self._changes(conn, call)
            old = changes.idle(instance_id, STARTABLE, "started")
            new = changes.changed(
                old,
                state=InstanceState.STARTING,
                desired_power=Power.ON,
                operation_id=operation_id,
            )
            return changes.accept(new, Verb.START, "is being started")

        return await mutate(self._context, call, Accepted, work, wakes=[instance_id])

    async def stop(
        self, call: Call, instance_id: str, *, force: bool = False, grace_s: float | None = None
    ) -> Accepted:
        """Power an instance off: the guest is asked first, unless `force`."""
        given_s = DEFAULT_STOP_GRACE_S if grace_s is None else grace_s
        with Violations() as wrong:
            wrong.require(
                0 <= given_s <= MAX_STOP_GRACE_S,
                "grace",
                f"must be 0 to {MAX_STOP_GRACE_S} s",
                "INVALID_DURATION",
            )
        granted_s = _PROMPT_GRACE_S if force else given_s
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Accepted:
            changes = self._changes(conn, call)
            old = changes.idle(instance_id, STOPPABLE, "stopped")
            # A silent host's instance stays UNKNOWN: nobody knows that it is stopping.
            silent = old.state is InstanceState.UNKNOWN
            new = changes.changed(
                old,
                state=old.state if silent else InstanceState.STOPPING,
                desired_power=Power.OFF,
                stop_grace_s=float(granted_s),
                operation_id=operation_id,
            )
            return changes.accept(new, Verb.STOP, "is being stopped", wait_s=float(granted_s))

        return await mutate(self._context, call, Accepted, work, wakes=[instance_id])

    async def reboot(self, call: Call, instance_id: str, *, force: bool = False) -> Accepted:
        """Restart an instance."""
        operation_id = self._context.new_id("operation")

        def work(conn: Connection) -> Accepted:
            changes = self._changes(conn, call)
            old = changes.idle(instance_id, REBOOTABLE, "rebooted")
            new = changes.changed(
                old,
                state=InstanceState.REBOOTING,
                reboot_serial=old.reboot_serial + 1,
                reboot_force=force,
                operation_id=operation_id,
            )
            return changes.accept(new, Verb.REBOOT, "is being rebooted")

        return await mutate(self._context, call, Accepted, work, wakes=[instance_id])

    def _changes(self, conn: Connection, call: Call) -> InstanceChanges:
        return InstanceChanges(conn, self._context, call)


def _key(instance: Instance) -> Sequence[str]:
    return [instance.spec.name, instance.id]

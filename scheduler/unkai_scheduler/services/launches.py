"""New instances: one, or a batch of them that are alike. Checked, then rows of one transaction.

A batch has the same road as one: each of its instances is what a request for it alone would have
made. Its rows are written table by table, many at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.instances import (
    MAX_BATCH,
    Instance,
    InstanceState,
    Power,
    Seed,
)
from unkai_scheduler.domain.names import check_name
from unkai_scheduler.domain.operations import Operation, Verb
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.checks import Violations
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_changes import Accepted, InstanceChanges
from unkai_scheduler.services.instance_drafts import InstanceDraft, check_draft, settle
from unkai_scheduler.services.launch_ports import InterfaceDraft, LaunchPorts, check_interfaces
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.store import instances, operations
from unkai_wire.errors import InvalidArgument

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class Batch:
    """Several new instances that are alike."""

    draft: InstanceDraft
    """Its name is the beginning of theirs."""
    count: int
    capacity_wait_s: float = 0.0
    all_or_nothing: bool = False
    """They get their hosts at one moment, or none does."""

    def names(self) -> list[str]:
        """Return the names of the instances, in the order of their numbers."""
        return [f"{self.draft.name}-{number}" for number in range(1, self.count + 1)]


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """Accepted instances with the work under way on each, in the order of their numbers."""

    instances: tuple[Instance, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class _New:
    """What one of the new instances is called: drawn before the transaction, which may be tried
    again."""

    name: str
    id: str
    operation_id: str


class Launches:
    """Makes instances; the leader chooses their hosts."""

    def __init__(self, context: ServiceContext, networking: NetworkSettings) -> None:
        self._context = context
        self._launch_ports = LaunchPorts(context, networking)

    async def one(
        self, call: Call, project_id: str, draft: InstanceDraft, capacity_wait_s: float
    ) -> Accepted:
        """Accept a new instance with its ports."""
        interfaces = self._interfaces(draft, capacity_wait_s)
        new = self._named([draft.name])

        def work(conn: Connection) -> Accepted:
            alone = Batch(draft, 1, capacity_wait_s)
            made = self._make(conn, call, project_id, alone, new=new, interfaces=interfaces)
            return Accepted(made.instances[0], made.operations[0])

        return await mutate(self._context, call, Accepted, work, grouped=True, wakes=[new[0].id])

    async def batch(self, call: Call, project_id: str, batch: Batch) -> AcceptedBatch:
        """Accept several instances with their ports, or none."""
        interfaces: Sequence[InterfaceDraft] = ()
        with Violations() as wrong:
            wrong.require(
                1 <= batch.count <= MAX_BATCH,
                "count",
                f"is {batch.count}; it must be 1 to {MAX_BATCH}",
                "INVALID_COUNT",
            )
            with wrong.collect():
                interfaces = self._interfaces(batch.draft, batch.capacity_wait_s)
            with wrong.collect():
                _check_shareable(batch)
        names = batch.names()
        check_name(names[-1], "instance.name")  # the longest of them
        new = self._named(names)

        def work(conn: Connection) -> AcceptedBatch:
            return self._make(conn, call, project_id, batch, new=new, interfaces=interfaces)

        return await mutate(
            self._context, call, AcceptedBatch, work, wakes=[each.id for each in new]
        )

    def _interfaces(self, draft: InstanceDraft, capacity_wait_s: float) -> Sequence[InterfaceDraft]:
        """Return the interfaces of a draft, all of which is checked."""
        interfaces: Sequence[InterfaceDraft] = ()
        with Violations() as wrong:
            with wrong.collect():
                check_draft(draft, capacity_wait_s)
            with wrong.collect():
                interfaces = check_interfaces(draft.interfaces, no_network=draft.no_network)
        interfaces = self._launch_ports.wanted(interfaces, no_network=draft.no_network)
        _check_can_ask(draft, interfaces)
        return interfaces

    def _named(self, names: Sequence[str]) -> list[_New]:
        # Who asked first is told by ids where times are the same: so numbers say it too.
        idents = sorted(self._context.new_id("instance") for _ in names)
        return [
            _New(name, ident, self._context.new_id("operation"))
            for name, ident in zip(names, idents, strict=True)
        ]

    def _make(
        self,
        conn: Connection,
        call: Call,
        project_id: str,
        batch: Batch,
        *,
        new: Sequence[_New],
        interfaces: Sequence[InterfaceDraft],
    ) -> AcceptedBatch:
        """Write the rows of new instances."""
        project = resolve_project(conn, project_id)
        spec, now = settle(conn, project, batch.draft), self._context.clock()
        gang_id = new[0].id if batch.all_or_nothing else ""
        pattern = Instance(
            id="",
            project_id=project.id,
            spec=spec,
            state=InstanceState.PROVISIONING,
            desired_power=Power.ON,
            generation=1,
            run_epoch=1,
            etag="",
            create_time=now,
            update_time=now,
            due_time=now,
            gang_id=gang_id,
        )
        made = [
            replace(
                pattern,
                id=each.id,
                spec=replace(spec, name=each.name),
                etag=self._context.new_etag(),
                operation_id=each.operation_id,
            )
            for each in new
        ]
        changes, wait_s = InstanceChanges(conn, self._context, call), batch.capacity_wait_s
        begun = [changes.operation(row, Verb.CREATE, now, wait_s=wait_s) for row in made]
        instances.insert_many(conn, made)
        operations.insert_many(conn, begun)
        changes.record_many(made, EventType.CREATED, "was accepted")
        plugged: Sequence[Sequence[Port]] = [()] * len(made)
        if interfaces:
            idents = [row.id for row in made]
            plugged = self._launch_ports.plug_each(conn, call, project, idents, interfaces)
        # User-data is taken, never returned: it stays out of answers and their snapshots.
        shown = [
            replace(row, spec=replace(row.spec, user_data=b""), ports=tuple(ports))
            for row, ports in zip(made, plugged, strict=True)
        ]
        return AcceptedBatch(tuple(shown), tuple(begun))


def _check_can_ask(draft: InstanceDraft, interfaces: Sequence[InterfaceDraft]) -> None:
    """Raise for a guest that shall ask for its seed where there are no networks."""
    if draft.seed is Seed.METADATA and not interfaces:
        raise InvalidArgument.field(
            "instance.seed",
            "is METADATA, which a guest without a network cannot ask for",
            reason="SEED_NEEDS_NETWORK",
        )


def _check_shareable(batch: Batch) -> None:
    """Raise for what only one of several instances could have."""
    if batch.count == 1:
        return
    with Violations() as wrong:
        for number, draft in enumerate(batch.draft.interfaces):
            path = f"instance.interfaces[{number}]"
            named = any(fixed.address for fixed in draft.addresses)
            for field, said in (("port_id", draft.port_id), ("fixed_addresses", named)):
                wrong.require(
                    not said,
                    f"{path}.{field}",
                    f"can be one instance's only, and there are {batch.count}",
                    "NOT_FOR_SEVERAL",
                )

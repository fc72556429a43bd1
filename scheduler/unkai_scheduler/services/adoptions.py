"""Adoption: a machine that a host holds and the database does not know becomes an instance.

Runs where the leader is: only it knows what hosts hold. Nothing is ordered of the host. The row
gets the generation and run epoch that the host has, so that the leader finds nothing to do, and
all is written in one transaction under the leader's term: of two callers one adopts, and a leader
that has lost writes nothing.

An instance that the database has on no host, FAILED when a backup was put back or held back since,
becomes what it was: its row says what its user asked for, its host what there is.

The trap: all that is known of the machine is its host's word. `adopted_rows.py` believes no more
of it than a user could have asked for; `adopted_images.py` sees to the image it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unkai_scheduler.agents.port import MACHINE_SPECS, Agents, HeldMachine
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Claim, Instance, may_be_adopted
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.names import check_name
from unkai_scheduler.domain.operations import OperationState, end
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.images.port import ImageStore
from unkai_scheduler.placement.allocation import AllocationRatios, claimable
from unkai_scheduler.services import adopted_images, adopted_rows
from unkai_scheduler.services.adopted_images import AdoptedImages, FoundBytes
from unkai_scheduler.services.adopted_ports import AdoptedPorts
from unkai_scheduler.services.checks import Violations, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.live import LeaderView, LiveView
from unkai_scheduler.services.mutations import Subject, mutate, recalled, record
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.settings import RatioSettings
from unkai_scheduler.store import claims, hosts, instances, operations, ports, tombstones
from unkai_wire.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class AdoptionDraft:
    """Which machine to adopt, and what shall be otherwise than its host remembers."""

    instance_id: str
    host_id: str = ""
    project_id: str = ""
    name: str = ""
    rename_if_taken: bool = False

    def check(self) -> None:
        """Raise `InvalidArgument` for what names nothing."""
        with Violations() as wrong:
            with wrong.collect():
                check_id("instance", self.instance_id, "instance_id")
            if self.host_id:
                with wrong.collect():
                    check_id("host", self.host_id, "host_id")
            if self.project_id:
                with wrong.collect():
                    check_id("project", self.project_id, "project_id")
            if self.name:
                with wrong.collect():
                    check_name(self.name, "name")


@dataclass(frozen=True, slots=True)
class Adopted:
    """The instance, and what is not as its host remembers it or needs somebody's eye."""

    instance: Instance
    warnings: tuple[str, ...]


class AdoptionsService:
    """The use case of adoption."""

    def __init__(
        self,
        context: ServiceContext,
        leader: LeaderView,
        *,
        live: LiveView,
        agents: Agents,
        images: ImageStore,
        ratios: RatioSettings,
    ) -> None:
        self._context = context
        self._leader = leader
        self._live = live
        self._agents = agents
        self._images = AdoptedImages(context, images)
        self._ratios = AllocationRatios(ratios.cpu, ratios.memory, ratios.disk)

    async def adopt(self, call: Call, draft: AdoptionDraft) -> Adopted:
        """Take a machine into the database as its host remembers it."""
        draft.check()
        audit, term = self._leader.audit, self._leader.term

        def check(conn: Connection) -> None:
            _check_free(conn, draft.instance_id)

        first = await recalled(self._context, call, Adopted, check=check)
        if first is not None:
            return first
        machine = _the_one(audit.holders(draft.instance_id), draft)
        held = await self._ask(machine)
        image_bytes = await self._images.find(held.order.image)

        def work(conn: Connection) -> Adopted:
            return self._write(conn, call, draft, held, image_bytes)

        return await mutate(
            self._context, call, Adopted, work, term=term, wakes=[draft.instance_id]
        )

    async def _ask(self, machine: Machine) -> HeldMachine:
        """Ask the host what it remembers of the machine."""
        host_id = machine.host_id
        host = await self._context.uow.read(lambda conn: _known_host(conn, host_id))
        if MACHINE_SPECS not in host.features:
            raise FailedPrecondition(
                f"the agent of host {host.name} ({host.agent_version}) is too old to tell what "
                "its machines were ordered to be",
                reason="AGENT_TOO_OLD",
                fix="bring the agent to the scheduler's version; guests run on meanwhile",
                metadata={"host": host.name, "feature": MACHINE_SPECS},
            )
        endpoint = self._live.endpoint(host_id)
        try:
            return await self._agents.machine_spec(endpoint, machine.instance_id)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                f"host {host.name} cannot be asked for machine {machine.instance_id}: "
                f"{error.message}",
                reason="HOST_UNREACHABLE",
                fix="see 'unkai host list'; try again once the host is UP",
                metadata={"host": host.name, "instance_id": machine.instance_id},
            ) from error
        except NotFound as error:
            raise _not_held(machine.instance_id, machine.host_id) from error

    def _write(
        self,
        conn: Connection,
        call: Call,
        draft: AdoptionDraft,
        held: HeldMachine,
        image_bytes: FoundBytes,
    ) -> Adopted:
        machine, now = held.machine, self._context.clock()
        seen, warnings = _check_free(conn, draft.instance_id), list[str]()
        if seen is None:
            project = adopted_rows.project_of(conn, draft.project_id, held, warnings)
        else:
            project = resolve_project(conn, seen.project_id)
        held = adopted_rows.with_known_aggregate(conn, held)
        instances.lock(conn, draft.instance_id)
        known = _check_free(conn, draft.instance_id)
        _check_not_buried(conn, machine)
        host = _known_host(conn, machine.host_id)
        warnings += self._images.mend(conn, call, held.order.image, image_bytes)
        if known is None:
            row = self._insert(
                conn, draft, held, warnings, project=project, image_bytes=image_bytes
            )
        else:
            row = self._rejoin(conn, draft, known, held, warnings, image_bytes=image_bytes)
            self._end_create(conn, call, row)
        spec = row.spec
        claim = Claim(
            row.id, host.id, spec.vcpus, spec.memory_bytes, spec.disk_bytes, row.run_epoch, now
        )
        claims.insert(conn, [claim])
        plugs = AdoptedPorts(conn, self._context, call)
        warnings += plugs.restore(row, held.order.ports)
        warnings += self._oversold(conn, host.id)
        adopted = replace(
            row,
            host_id=host.id,
            host_name=host.name,
            spec=replace(spec, user_data=b""),
            ports=tuple(ports.of_owner(conn, row.id)),
        )
        self._record(conn, call, adopted, EventType.UPDATED if known else EventType.CREATED)
        return Adopted(adopted, tuple(warnings))

    def _insert(
        self,
        conn: Connection,
        draft: AdoptionDraft,
        held: HeldMachine,
        warnings: list[str],
        *,
        project: Project,
        image_bytes: FoundBytes,
    ) -> Instance:
        """Write an instance that the database does not know, with what it stands on."""
        now = self._context.clock()
        row = adopted_rows.instance_of(held, project.id, now, self._context.new_etag())
        name = adopted_rows.name_of(
            conn, row, draft.name, warnings, rename_if_taken=draft.rename_if_taken
        )
        flavor_id = adopted_rows.flavor_of(conn, row)
        warnings += adopted_images.restore(conn, held.order.image, project.id, now, image_bytes)
        if not draft.project_id:
            warnings += adopted_images.doubts(conn, row)
        keys = adopted_rows.restore_key_pairs(conn, held, project.id, now, warnings)
        spec = replace(
            row.spec,
            name=name,
            flavor_id=flavor_id,
            key_pair_ids=keys,
            placement_group_id=adopted_rows.group_of(conn, row, project.id),
        )
        row = replace(row, spec=spec)
        instances.insert(conn, row)
        return row

    def _rejoin(
        self,
        conn: Connection,
        draft: AdoptionDraft,
        known: Instance,
        held: HeldMachine,
        warnings: list[str],
        *,
        image_bytes: FoundBytes,
    ) -> Instance:
        """Write an instance that the database has on no host."""
        now = self._context.clock()
        told = adopted_rows.instance_of(held, known.project_id, now, self._context.new_etag())
        row = adopted_rows.rejoined(known, told)
        if draft.name and draft.name != known.spec.name:
            name = adopted_rows.name_of(conn, row, draft.name, warnings, rename_if_taken=False)
            row = replace(row, spec=replace(row.spec, name=name))
        if draft.project_id not in {"", known.project_id}:
            warnings.append("it stays in the project that it has in the database")
        warnings += adopted_images.restore(conn, held.order.image, row.project_id, now, image_bytes)
        instances.replace(conn, row, etag=None)
        return row

    def _end_create(self, conn: Connection, call: Call, row: Instance) -> None:
        """Let a create that was held back succeed: what it asked for is there."""
        now = self._context.clock()
        while (waiting := operations.active_for(conn, row.id)) is not None:
            done = replace(end(waiting, OperationState.SUCCEEDED, now), update_time=now)
            operations.replace(conn, done)
            record(
                conn,
                self._context,
                call,
                Subject("operation", done.id, row.spec.name, done.project_id, done.state.value),
                EventType.UPDATED,
                message="its instance was adopted",
                attributes={
                    "verb": done.verb.value,
                    "resource_kind": done.resource_kind,
                    "resource_id": done.resource_id,
                },
            )

    def _oversold(self, conn: Connection, host_id: str) -> list[str]:
        host = found("host", host_id, hosts.get(conn, host_id))
        most = claimable(host, self._ratios)
        over = [
            what
            for what, claimed, allowed in (
                ("CPUs", host.claimed_vcpus, most.vcpus),
                ("memory", host.claimed_memory_bytes, most.memory_bytes),
                ("disk", host.claimed_disk_bytes, most.disk_bytes),
            )
            if claimed > allowed
        ]
        if not over:
            return []
        return [f"host {host.name} holds more {' and '.join(over)} now than may be claimed of it"]

    def _record(self, conn: Connection, call: Call, row: Instance, change: EventType) -> None:
        record(
            conn,
            self._context,
            call,
            Subject("instance", row.id, row.spec.name, row.project_id, row.state.value),
            change,
            reason="ADOPTED",
            message=f"instance {row.spec.name} was adopted from host {row.host_name}",
            attributes={
                "host_id": row.host_id,
                "host_name": row.host_name,
                "generation": str(row.generation),
                "run_epoch": str(row.run_epoch),
            },
        )


def _known_host(conn: Connection, host_id: str) -> Host:
    host = hosts.get(conn, host_id)
    if host is None:
        raise Unavailable(
            f"host {host_id} is not in the database yet",
            reason="HOST_UNWRITTEN",
            fix="try again; if it stays so, another host has its name: give it a certificate with "
            "a name of its own",
            metadata={"host_id": host_id},
        )
    return host


def _not_held(instance_id: str, host_id: str) -> NotFound:
    where = f"host {host_id}, as far as it is known," if host_id else "no host"
    return NotFound(
        f"{where} holds {'no' if host_id else 'a'} machine {instance_id}",
        reason="ORPHAN_NOT_FOUND",
        fix="see 'unkai audit orphans'; a silent host tells of its machines once it is back",
        metadata={"instance_id": instance_id, "host_id": host_id},
        resource_kind="machine",
        resource=instance_id,
    )


def _the_one(machines: Sequence[Machine], draft: AdoptionDraft) -> Machine:
    """Return the machine meant; raise when there is none, or more than one."""
    ident = draft.instance_id
    wanted = [m for m in machines if not draft.host_id or m.host_id == draft.host_id]
    if not wanted:
        raise _not_held(ident, draft.host_id)
    if len(wanted) > 1:
        holders = ", ".join(sorted(m.host_id for m in wanted)[:4])
        raise FailedPrecondition(
            f"{len(wanted)} hosts hold a machine {ident}: {holders}",
            reason="ORPHAN_ON_SEVERAL_HOSTS",
            fix="see which one is right and name its host; the others are kept, and reported as "
            "unclaimed",
            metadata={"instance_id": ident, "hosts": holders},
        )
    machine = wanted[0]
    if machine.state is MachineState.REMOVING:
        raise FailedPrecondition(
            f"host {machine.host_id} is removing machine {ident}",
            reason="MACHINE_REMOVING",
            fix="it was ordered away, and cannot be had back",
            metadata={"instance_id": ident, "host_id": machine.host_id},
        )
    return machine


def _check_free(conn: Connection, instance_id: str) -> Instance | None:
    """Return the row on no host that the machine may become; None when there is none at all."""
    row = instances.get(conn, instance_id)
    if row is None or may_be_adopted(row):
        return row
    where = f"on host {row.host_name}" if row.host_id else "on no host"
    raise FailedPrecondition(
        f"instance {instance_id} is in the database: {row.spec.name}, {where}",
        reason="INSTANCE_KNOWN",
        fix="there is nothing to adopt; of what does not fit, see 'unkai audit drift'",
        metadata={"instance_id": instance_id, "host": row.host_name},
    )


def _check_not_buried(conn: Connection, machine: Machine) -> None:
    for tombstone in tombstones.of_instance(conn, machine.instance_id):
        if (
            tombstone.host_id == machine.host_id
            and tombstone.generation >= machine.generation
            and tombstone.run_epoch >= machine.run_epoch
        ):
            raise FailedPrecondition(
                f"machine {machine.instance_id} was removed by right at generation "
                f"{tombstone.generation}; the leader removes what is left of it",
                reason="TOMBSTONED",
                fix="what was deleted cannot be adopted; copy its disk on the host if need be",
                metadata={
                    "instance_id": machine.instance_id,
                    "generation": str(tombstone.generation),
                    "run_epoch": str(tombstone.run_epoch),
                },
            )

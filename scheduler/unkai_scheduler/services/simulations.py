"""Simulations: what would come of more instances, more hosts, lost hosts. Nothing is changed.

The leader decides on a copy of its fleet. Work is done in slices on the loop, so that whatever is
simulated, no placement, order or answer waits longer than for one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from unkai_scheduler.domain.hosts import DEFAULT_ZONE, Host, HostState
from unkai_scheduler.domain.instances import Instance, InstanceState, PlacementPolicy, Power
from unkai_scheduler.domain.port_orders import NETWORKS, PORTS
from unkai_scheduler.domain.resources import DEFAULT_PROJECT, Project
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.requests import PlacementRequest, Weights, request_of
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.placement.simulation import (
    AddHosts,
    LoseHosts,
    Loss,
    Place,
    Simulated,
    Simulation,
    Step,
)
from unkai_scheduler.services.checks import fetch, found, renamed
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.instance_drafts import InstanceDraft, sketch
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.live import LeaderView
from unkai_scheduler.services.simulation_drafts import (
    HostsDraft,
    InstancesDraft,
    LossDraft,
    StepDraft,
    check_steps,
)
from unkai_scheduler.settings import PlacementSettings
from unkai_scheduler.store import (
    hosts,
    instances,
    networks,
    placement_groups,
    ports,
    projects,
    tombstones,
)
from unkai_wire.errors import DeadlineExceeded, NotFound, Unavailable
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

T = TypeVar("T")
MAX_AT_ONCE = 4
"""Simulations under way; who comes then is asked to come again."""
SLICE_S = 0.002
"""The loop is held so long, and goes on with all that is due between two slices."""
LONGEST_S = 8.0
"""One simulation; below the deadline of the call."""
PAGE_S = 4.0
"""After this time a page of losses ends, however few they are."""
READ_AT_ONCE = 16
"""Hosts of which what they hold is read in one go."""


class Held(NamedTuple):
    """An instance on a host, as what it would ask of another."""

    place: tuple[int, datetime, str]
    """In line: the highest priority first, then the oldest."""
    host_id: str
    request: PlacementRequest


class SimulationsService:
    """Use cases of simulations."""

    def __init__(
        self,
        context: ServiceContext,
        leader: LeaderView,
        placement: PlacementSettings,
        networking: NetworkSettings,
        book: RuleBook = OURS,
    ) -> None:
        """`book`: what placement goes by."""
        self._context = context
        self._leader = leader
        self._networking = networking
        self._book = book
        self._policy = PlacementPolicy(placement.policy)
        self._weights = Weights(**placement.weights.model_dump())
        ratios = placement.ratios
        self._ratios = AllocationRatios(ratios.cpu, ratios.memory, ratios.disk)
        self._under_way = 0

    async def simulate(self, project_id: str, drafts: Sequence[StepDraft]) -> Simulated:
        """Say what would come of some steps."""
        check_steps(drafts)
        with self._turn():
            lost = [i for one in drafts if isinstance(one, LossDraft) for i in one.host_ids]

            def read(conn: Connection) -> list[Step]:
                for host_id in lost:
                    found("host", host_id, hosts.get(conn, host_id))
                return self._steps(conn, project_id, drafts)

            steps = await self._context.uow.read(read)
            held = [(one.host_id, one.request) for one in await self._held(lost)]
            fleet = await self._leader.fleet()
            for host_id in lost:
                if host_id not in fleet:
                    raise NotFound.of("host", host_id)
            return await _in_slices(self._simulation(fleet, held).run(steps))

    async def losses(self, paging: Paging, host_id: str = "") -> Page[Loss]:
        """Say of each host what would come of its loss, in the order of names."""
        if host_id:
            check_id("host", host_id, "host_id")
        page = plan(paging, "losses", [host_id], _key, key_length=2)
        with self._turn():

            def read(conn: Connection) -> list[Host]:
                if host_id:
                    return [found("host", host_id, hosts.get(conn, host_id))]
                return hosts.list_page(conn, after=page.after, limit=page.size + 1)

            rows = await self._context.uow.read(read)
            simulation = self._simulation(await self._leader.fleet(), ())
            losses: list[Loss] = []
            end_s, looked_at = time.perf_counter() + PAGE_S, 0
            while looked_at < min(page.size, len(rows)) and time.perf_counter() < end_s:
                some = rows[looked_at : min(looked_at + READ_AT_ONCE, page.size)]
                losses += await self._lost_singly(simulation, [row.id for row in some])
                looked_at += len(some)
        shown = replace(page, size=looked_at).page(lambda _after, limit: rows[:limit], revision="")
        return Page(losses, shown.next_token, "")

    async def _lost_singly(self, simulation: Simulation, host_ids: Sequence[str]) -> list[Loss]:
        held: dict[str, list[PlacementRequest]] = {host_id: [] for host_id in host_ids}
        for one in await self._held(host_ids):
            held[one.host_id].append(one.request)
        return [
            await _in_slices(simulation.lose(host_id, requests))
            for host_id, requests in held.items()
            if simulation.knows(host_id)  # else it was removed a moment ago
        ]

    def _simulation(self, fleet: Fleet, held: Sequence[tuple[str, PlacementRequest]]) -> Simulation:
        now = self._context.clock()
        return Simulation(fleet, self._weights, self._ratios, held, now=now, book=self._book)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._under_way >= MAX_AT_ONCE:
            raise Unavailable(
                f"{MAX_AT_ONCE} simulations are under way already",
                reason="SIMULATIONS_BUSY",
                fix="try again in a few seconds",
                retry_after_s=1.0,
            )
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    # Reading.

    async def _held(self, host_ids: Sequence[str]) -> list[Held]:
        """Return what is on hosts, in line, but for what is being removed.

        Read a few hosts at a time: on a server, rows are made on the loop.
        """
        held: list[Held] = []
        for start in range(0, len(host_ids), READ_AT_ONCE):
            some = host_ids[start : start + READ_AT_ONCE]
            held += await self._context.uow.read(partial(self._held_by, host_ids=some))
        return sorted(held, key=lambda one: one.place)

    def _held_by(self, conn: Connection, host_ids: Sequence[str]) -> list[Held]:
        rows = [row for row in instances.claimed_of(conn, host_ids) if not row.delete_requested]
        needed = ports.physical_networks(conn, [row.id for row in rows])
        named = {row.spec.placement_group_id for row in rows} - {""}
        groups = {row.id: row.rule for row in placement_groups.list_some(conn, named)}
        buried = tombstones.of_instances(conn, [row.id for row in rows if not row.has_run])
        return [
            Held(
                (-row.spec.priority, row.create_time, row.id),
                row.host_id,
                request_of(
                    row,
                    self._policy,
                    failed_hosts=tuple(tombstone.host_id for tombstone in buried.get(row.id, ())),
                    physical_networks=needed.get(row.id),
                    group=groups.get(row.spec.placement_group_id),
                ),
            )
            for row in rows
        ]

    def _steps(self, conn: Connection, project_id: str, drafts: Sequence[StepDraft]) -> list[Step]:
        if project_id:
            get = partial(projects.get, conn)
            project = fetch("project", project_id, "project_id", get)
        else:
            project = found("project", DEFAULT_PROJECT, projects.find(conn, DEFAULT_PROJECT))
        steps: list[Step] = []
        added = 0
        for number, draft in enumerate(drafts):
            match draft:
                case HostsDraft():
                    pattern = self._pattern(conn, draft)
                    numbers = range(added + 1, added + draft.count + 1)
                    added += draft.count
                    new = (replace(pattern, id=f"added-{n}", name=f"added-{n}") for n in numbers)
                    steps.append(AddHosts(tuple(new)))
                case LossDraft():
                    steps.append(LoseHosts(draft.host_ids))
                case InstancesDraft():
                    with renamed(f"steps[{number}].place_instances"):
                        request = self._request(conn, project, draft.instance)
                    steps.append(Place(request, draft.count))
        return steps

    def _pattern(self, conn: Connection, draft: HostsDraft) -> Host:
        """Return what added hosts are like: up, and with nothing on them."""
        if draft.like_host_id:
            like = found("host", draft.like_host_id, hosts.get(conn, draft.like_host_id))
            return replace(
                like,
                state=HostState.UP,
                cordoned=False,
                cordon_reason="",
                network_problem="",
                claimed_vcpus=0,
                claimed_memory_bytes=0,
                claimed_disk_bytes=0,
                instance_count=0,
            )
        now = self._context.clock()
        return Host(
            id="",
            name="",
            state=HostState.UP,
            address="",
            tls_name="",
            cpus=draft.cpus,
            memory_bytes=draft.memory_bytes,
            disk_bytes=draft.disk_bytes,
            accelerator="",
            traits=draft.traits,
            boot_id="",
            agent_version="",
            features=(PORTS, NETWORKS) if self._networking.enabled else (),
            etag="",
            create_time=now,
            update_time=now,
            zone=draft.zone or DEFAULT_ZONE,
        )

    def _request(
        self, conn: Connection, project: Project, draft: InstanceDraft
    ) -> PlacementRequest:
        now = self._context.clock()
        instance = Instance(
            id="",
            project_id=project.id,
            spec=sketch(conn, project, draft),
            state=InstanceState.PROVISIONING,
            desired_power=Power.ON,
            generation=1,
            run_epoch=1,
            etag="",
            create_time=now,
            update_time=now,
        )
        needed = self._networks(conn, project.id, draft)
        group = None
        if ident := draft.placement_group_id:
            group = placement_groups.get(conn, ident)
            if group is None or group.project_id != project.id:
                raise NotFound.of("placement_group", ident)
        rule = None if group is None else group.rule
        return request_of(instance, self._policy, physical_networks=needed, group=rule)

    def _networks(
        self, conn: Connection, project_id: str, draft: InstanceDraft
    ) -> tuple[str, ...] | None:
        """Return the physical networks that its ports would need; None: it has no ports."""
        interfaces = draft.interfaces
        if not interfaces:
            if draft.no_network or not self._networking.enabled:
                return None
            default = networks.default_of(conn, project_id)  # one that is yet to be is an overlay
            return (default.physical_network,) if default and default.physical_network else ()
        needed = set()
        for one in interfaces:
            network_id = one.network_id
            if one.port_id:
                network_id = found("port", one.port_id, ports.get(conn, one.port_id)).network_id
            if network_id:
                needed.add(found("network", network_id, networks.get(conn, network_id)))
            elif default := networks.default_of(conn, project_id):
                needed.add(default)
        return tuple(sorted({n.physical_network for n in needed if n.physical_network}))


def _key(host: Host) -> Sequence[str]:
    return [host.name, host.id]


async def _in_slices(work: Generator[None, None, T]) -> T:
    """Do work in slices of the loop's time; raise `DeadlineExceeded` when it takes too long."""
    end_s = time.perf_counter() + LONGEST_S
    try:
        while (began_s := time.perf_counter()) < end_s:
            while time.perf_counter() - began_s < SLICE_S:
                try:
                    next(work)
                except StopIteration as done:
                    result: T = done.value
                    return result
            await asyncio.sleep(0)
    finally:
        work.close()
    raise DeadlineExceeded(
        f"the simulation was not done in {LONGEST_S:g} s",
        reason="SIMULATION_TOO_LONG",
        fix="simulate less at once, or when the leader has less to do",
    )

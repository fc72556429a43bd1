"""A cloud of hosts in memory behind the port `agents.port`.

It keeps the agents' promises (fences, generations, run epochs, tombstones, the run permit, disks
that must exist) and passes the contract suite of the real client. What may go wrong with its hosts
is in `fake_cloud.py`. It never sleeps: only `hang` and `silence` wait, for the limits given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from unkai_scheduler.agents.fake_cloud import FakeCloud
from unkai_scheduler.agents.fake_host import (
    Ended,
    FakeHost,
    Held,
    check_generation,
    remembered,
)
from unkai_scheduler.agents.port import (
    Endpoint,
    ForwardTarget,
    HeldMachine,
    MachineChange,
    MachineOrder,
    Synced,
    UsageSample,
)
from unkai_scheduler.domain.machines import (
    Fence,
    HostDescription,
    Machine,
    MachineState,
    Tombstone,
)
from unkai_scheduler.domain.network_names import NameChange
from unkai_wire.doctor.findings import Report
from unkai_wire.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Unavailable,
    UnkaiError,
)

_Item = TypeVar("_Item")

QUEUE_LENGTH = 1024
CONSOLE_PIECE_BYTES = 64 << 10


class FakeAgents(FakeCloud):
    """The port over hosts in memory: `add_host`, use it as `Agents`, and break things."""

    async def describe(self, endpoint: Endpoint) -> HostDescription:
        """Return what the host is."""
        return (await self._reach(endpoint, self._limits.describe_s)).description

    async def announce_term(self, endpoint: Endpoint, term: int) -> int:
        """Take a new term; return the highest seen."""
        host = await self._reach(endpoint, self._limits.describe_s)
        host.raise_term(term)
        return host.description.highest_term + host.disputes

    async def ensure_machine(
        self, endpoint: Endpoint, fence: Fence, order: MachineOrder
    ) -> Machine:
        """Accept an order, and the permit in it."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.check_term(fence)
        ident = order.instance.id
        host.check_tombstone(ident, fence)
        held = host.machines.get(ident)
        if held is None:
            machine = Machine(
                instance_id=ident,
                host_id=endpoint.host_id,
                generation=fence.generation,
                observed_generation=0,
                run_epoch=fence.run_epoch,
                state=MachineState.CONVERGING,
                **remembered(order),
            )
            held = host.machines[ident] = Held(order, machine, self._due())
            host.tombstones.pop(ident, None)
        else:
            check_generation(held, fence, to_run=True)
            if held.machine.generation == fence.generation and held.converged and held.permitted:
                return held.machine
            held.order, held.due_time, held.removing = order, self._due(), False
        held.permitted, held.converged = True, False
        accepted = host.change(
            held,
            state=MachineState.CONVERGING,
            generation=fence.generation,
            run_epoch=fence.run_epoch,
            **remembered(order),
        )
        self.tick()
        return accepted

    async def machine_spec(self, endpoint: Endpoint, instance_id: str) -> HeldMachine:
        """Return a machine with what it was last ordered to be."""
        host = await self._reach(endpoint, self._limits.order_s)
        held = host.held(instance_id)
        must_exist = held.order.must_exist or held.has_disk
        return HeldMachine(held.machine, replace(held.order, must_exist=must_exist))

    async def remove_machine(
        self, endpoint: Endpoint, fence: Fence, instance_id: str
    ) -> Machine | Tombstone:
        """Accept a removal."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.check_term(fence)
        held = host.machines.get(instance_id)
        if held is None:
            known = host.tombstones.get(instance_id)
            if known is not None and known.generation >= fence.generation:
                return known
            return host.bury(instance_id, fence.generation, fence.run_epoch)
        check_generation(held, fence, to_run=False)
        held.removing, held.converged, held.due_time = True, False, self._due()
        machine = host.change(
            held,
            state=MachineState.REMOVING,
            generation=fence.generation,
            run_epoch=fence.run_epoch,
        )
        self.tick()
        return host.tombstones.get(instance_id, machine)

    async def acknowledge_tombstones(
        self, endpoint: Endpoint, term: int, tombstones: Sequence[Tombstone]
    ) -> None:
        """Note which tombstones are recorded; they are kept, as a late order may be under way."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.check_term(Fence(term))
        for tombstone in tombstones:
            mine = host.tombstones.get(tombstone.instance_id)
            if mine is not None and mine.generation <= tombstone.generation:
                host.acknowledged.add(tombstone.instance_id)

    async def diagnose(self, endpoint: Endpoint, checks: Sequence[str]) -> tuple[Report, datetime]:
        """Return what `findings` of the host says."""
        host = await self._reach(endpoint, self._limits.order_s)
        found = tuple(f for f in host.findings if not checks or f.check in checks)
        name = host.description.name
        return Report(f"agent {name}", host.description.agent_version, 1, found), self._clock()

    async def count_flows(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        """Return what `flow_counts` of the host says."""
        host = await self._reach(endpoint, self._limits.order_s)
        return {c: host.flow_counts[c] for c in cookies if c in host.flow_counts}

    async def evict_image(self, endpoint: Endpoint, term: int, sha256: str) -> None:
        """Drop an image from the cache."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.check_term(Fence(term))
        if any(held.order.image.sha256 == sha256 for held in host.machines.values()):
            raise FailedPrecondition(
                f"image {sha256} is in use on host {endpoint.host_id}",
                reason="IMAGE_IN_USE",
                metadata={"sha256": sha256, "host_id": endpoint.host_id},
            )
        host.cached_images.discard(sha256)

    async def watch_machines(self, endpoint: Endpoint) -> AsyncGenerator[MachineChange, None]:
        """Yield all the host holds, then `Synced`, then changes."""
        host = await self._reach(endpoint, self._limits.silence_s)
        queue: asyncio.Queue[MachineChange | Ended] = asyncio.Queue(QUEUE_LENGTH)
        host.machine_watchers.append(queue)
        try:
            for held in [held for _, held in sorted(host.machines.items())]:
                yield held.machine
            for tombstone in [t for _, t in sorted(host.tombstones.items())]:
                yield tombstone
            yield Synced()
            while True:
                yield await self._next(endpoint.host_id, queue)
        finally:
            host.machine_watchers.remove(queue)

    async def watch_usage(self, endpoint: Endpoint) -> AsyncGenerator[UsageSample, None]:
        """Yield the sample of now, then each that `send_sample` sends."""
        host = await self._reach(endpoint, self._limits.silence_s)
        queue: asyncio.Queue[UsageSample | Ended] = asyncio.Queue(QUEUE_LENGTH)
        host.usage_watchers.append(queue)
        try:
            yield host.samples()
            while True:
                yield await self._next(endpoint.host_id, queue)
        finally:
            host.usage_watchers.remove(queue)

    async def read_console_log(
        self, endpoint: Endpoint, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield pieces of the console's log; following, what `write_console` adds."""
        await self._reach(endpoint, self._limits.silence_s)
        held = self.hosts[endpoint.host_id].held(instance_id)
        sent = max(len(held.console) - tail_bytes, 0) if tail_bytes else 0
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LENGTH)
        if follow:
            held.console_open = queue
        while True:
            while piece := held.console[sent : sent + CONSOLE_PIECE_BYTES]:
                sent += len(piece)
                yield piece
            if not follow:
                return
            await queue.get()

    async def attach_console(
        self, endpoint: Endpoint, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncGenerator[bytes, None]:
        """Connect to a console that echoes what is typed; it closes when typing ends."""
        await self._reach(endpoint, self._limits.silence_s)
        held = self.hosts[endpoint.host_id].held(instance_id)
        if held.console_open is not None and not force:
            raise Conflict(
                "somebody else is attached to the console",
                reason="CONSOLE_IN_USE",
                fix="wait, or attach by force, which ends the other session",
                metadata={"instance_id": instance_id},
            )
        held.console_open = queue = asyncio.Queue[bytes | None](QUEUE_LENGTH)
        yield b""
        try:
            async for keys in typed:
                held.console += keys
                yield keys
        finally:
            if held.console_open is queue:
                held.console_open = None

    async def forward(
        self, endpoint: Endpoint, target: ForwardTarget, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Connect to what `answer_tcp` put there; without, the machine refuses."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.held(target.instance_id)
        answer = host.listeners.get((target.port_id, target.port_number))
        if answer is None:
            raise FailedPrecondition(
                f"the machine refuses TCP port {target.port_number}",
                reason="FORWARD_REFUSED",
                metadata={"port_number": str(target.port_number)},
            )
        if isinstance(answer, UnkaiError):
            raise answer
        yield b""
        async with aclosing(answer(incoming)) as pieces:
            async for piece in pieces:
                yield piece

    async def ensure_names(self, endpoint: Endpoint, term: int, change: NameChange) -> None:
        """Take over the names of a network."""
        host = await self._reach(endpoint, self._limits.order_s)
        host.check_term(Fence(term))
        host.take_names(change)

    # How it works

    async def _reach(self, endpoint: Endpoint, deadline_s: float) -> FakeHost:
        host = self.hosts.get(endpoint.host_id)
        if host is None:
            raise Unavailable(
                f"no host {endpoint.host_id} answers at {endpoint.address}",
                metadata={"host_id": endpoint.host_id, "address": endpoint.address},
            )
        if host.error is not None:
            raise host.error
        if host.hanging:
            await asyncio.sleep(deadline_s)
            raise DeadlineExceeded(
                f"host {endpoint.host_id} has not answered within {deadline_s:g} s",
                metadata={"host_id": endpoint.host_id, "deadline_s": f"{deadline_s:g}"},
            )
        return host

    async def _next(self, host_id: str, queue: asyncio.Queue[_Item | Ended]) -> _Item:
        try:
            async with asyncio.timeout(self._limits.silence_s):
                item = await queue.get()
        except TimeoutError as error:
            raise Unavailable(
                f"host {host_id} has been silent for {self._limits.silence_s:g} s",
                reason="HOST_SILENT",
                metadata={"host_id": host_id, "silence_s": f"{self._limits.silence_s:g}"},
            ) from error
        if isinstance(item, Ended):
            raise Unavailable(
                f"host {host_id} ended a watch",
                reason="WATCH_ENDED",
                metadata={"host_id": host_id},
            )
        return item

    def _due(self) -> datetime:
        return self._clock() + timedelta(seconds=self.converge_s)

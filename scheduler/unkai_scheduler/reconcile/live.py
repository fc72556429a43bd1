"""Live state: what hosts say right now, in memory, for the leader's loops and for the API.

The host watchers write it, everybody reads it; it dies with a reign. It never touches the store.
The trap: what a host said is worth something only while the host is in sync (`is_synced`); before
that, "no machine" means "not told yet". Who holds an instance is asked of each host's last whole
word (`holders`), whether it is silent or not: there, to forget would be the mistake.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from unkai_scheduler.agents.port import Endpoint, UsageSample
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_scheduler.domain.machines import Machine, Tombstone
from unkai_wire.errors import Unavailable

QUEUE_SAMPLES = 256
"""Samples a slow subscriber may be behind; beyond that it loses the oldest."""


@dataclass(frozen=True, slots=True)
class ReceivedSample:
    """A usage sample with the moment it reached us."""

    sample: UsageSample
    received_time: datetime
    received_s: float
    """By the monotonic clock, for ages."""


class LiveState:
    """Latest samples, endpoints, machines and tombstones of each host."""

    def __init__(
        self, *, clock: Clock = system_clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._samples: dict[str, ReceivedSample] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._machines: dict[str, dict[str, Machine]] = {}
        self._tombstones: dict[str, dict[str, Tombstone]] = {}
        self._synced: set[str] = set()
        self._holders: dict[str, tuple[str, ...]] = {}
        """By instance, the hosts that hold a machine of it by their last word."""
        self._before: dict[str, set[str]] = {}
        """Of hosts that are being told anew or are lost, what they held by then."""
        self._subscribers: set[asyncio.Queue[UsageSample | None]] = set()

    # What the API reads.

    def samples(self) -> Mapping[str, ReceivedSample]:
        """Return the newest sample of each host; a view that changes as samples arrive."""
        return MappingProxyType(self._samples)

    def now_s(self) -> float:
        """Return the monotonic clock that samples are stamped with."""
        return self._monotonic()

    def age_s(self, host_id: str) -> float | None:
        """Return the age of a host's newest sample in seconds; None when there is none."""
        received = self._samples.get(host_id)
        return None if received is None else max(0.0, self._monotonic() - received.received_s)

    def endpoint(self, host_id: str) -> Endpoint:
        """Return how to reach a host's agent; `Unavailable` / HOST_UNREACHABLE when unknown."""
        endpoint = self._endpoints.get(host_id)
        if endpoint is None:
            raise Unavailable(
                f"host {host_id} is not registered now",
                reason="HOST_UNREACHABLE",
                fix="see 'unkai host list'; try again once the host is UP",
                metadata={"host_id": host_id},
            )
        return endpoint

    async def subscribe(self, host_ids: Collection[str] = ()) -> AsyncIterator[UsageSample]:
        """Yield the newest sample of each host, then each new one; no ids means all hosts.

        A reader that is too slow loses the oldest samples, never blocks the others. Raises
        `Unavailable` / NOT_LEADER when the reign ends.
        """
        wanted = frozenset(host_ids)
        queue: asyncio.Queue[UsageSample | None] = asyncio.Queue(QUEUE_SAMPLES)
        self._subscribers.add(queue)
        try:
            for received in list(self._samples.values()):
                if not wanted or received.sample.host_id in wanted:
                    yield received.sample
            while (sample := await queue.get()) is not None:
                if not wanted or sample.host_id in wanted:
                    yield sample
        finally:
            self._subscribers.discard(queue)
        raise Unavailable(
            "this scheduler does not lead any more",
            reason="NOT_LEADER",
            fix="try again in a few seconds",
            retry_after_s=1.0,
        )

    # What the loops read.

    def is_synced(self, host_id: str) -> bool:
        """Tell whether we know all that the host holds."""
        return host_id in self._synced

    def machine(self, host_id: str, instance_id: str) -> Machine | None:
        """Return a machine as its host last reported it."""
        return self._machines.get(host_id, {}).get(instance_id)

    def tombstone(self, host_id: str, instance_id: str) -> Tombstone | None:
        """Return the tombstone a host last reported of an instance."""
        return self._tombstones.get(host_id, {}).get(instance_id)

    def machines(self, host_id: str) -> list[Machine]:
        """Return all machines a host reported."""
        return list(self._machines.get(host_id, {}).values())

    def tombstones(self, host_id: str) -> list[Tombstone]:
        """Return all tombstones a host reported."""
        return list(self._tombstones.get(host_id, {}).values())

    def holders(self, instance_id: str) -> tuple[str, ...]:
        """Return the hosts whose last word was that they hold a machine of it, silent or not."""
        return self._holders.get(instance_id, ())

    def held_count(self, host_id: str) -> int:
        """Return how many machines and tombstones a host has told of."""
        return len(self._machines.get(host_id, ())) + len(self._tombstones.get(host_id, ()))

    def hosts(self) -> list[str]:
        """Return the ids of the hosts with an endpoint."""
        return list(self._endpoints)

    # What the watchers write.

    def set_endpoint(self, endpoint: Endpoint) -> None:
        """Remember how to reach a host."""
        self._endpoints[endpoint.host_id] = endpoint

    def drop_host(self, host_id: str) -> None:
        """Forget a host that is no longer registered."""
        self._endpoints.pop(host_id, None)
        self._samples.pop(host_id, None)
        self.begin_sync(host_id)

    def forget_host(self, host_id: str) -> None:
        """Forget a host that is said never to come back, with its last word."""
        self.drop_host(host_id)
        for instance_id in self._before.pop(host_id, set()):
            self._let_go(host_id, instance_id)

    def begin_sync(self, host_id: str) -> None:
        """Forget what a host held: it is about to be told anew."""
        self._synced.discard(host_id)
        told = self._machines.pop(host_id, {})
        self._tombstones.pop(host_id, None)
        before = self._before.get(host_id)
        if before is None:
            self._before[host_id] = set(told)
            return
        for instance_id in told.keys() - before:  # told by half: its last whole word stands
            self._let_go(host_id, instance_id)

    def end_sync(self, host_id: str) -> None:
        """Note that all a host holds has been told."""
        self._synced.add(host_id)
        held = self._machines.get(host_id, {})
        for instance_id in self._before.pop(host_id, set()) - held.keys():
            self._let_go(host_id, instance_id)

    def _let_go(self, host_id: str, instance_id: str) -> None:
        left = tuple(i for i in self._holders.get(instance_id, ()) if i != host_id)
        if left:
            self._holders[instance_id] = left
        else:
            self._holders.pop(instance_id, None)

    def lose_sync(self, host_id: str) -> None:
        """Note that a host is silent: what it said before is no longer worth anything."""
        self._synced.discard(host_id)

    def put_machine(self, machine: Machine) -> None:
        """Remember a machine as it is now; it is newer than any tombstone before it."""
        self._machines.setdefault(machine.host_id, {})[machine.instance_id] = machine
        holders = self._holders.get(machine.instance_id, ())
        if machine.host_id not in holders:
            self._holders[machine.instance_id] = (*holders, machine.host_id)
        buried = self._tombstones.get(machine.host_id, {})
        tombstone = buried.get(machine.instance_id)
        if tombstone is not None and tombstone.generation < machine.generation:
            del buried[machine.instance_id]

    def put_tombstone(self, tombstone: Tombstone) -> None:
        """Remember that a machine is gone."""
        held = self._machines.get(tombstone.host_id, {})
        machine = held.get(tombstone.instance_id)
        if machine is not None and machine.generation <= tombstone.generation:
            del held[tombstone.instance_id]
        if tombstone.instance_id not in held:
            self._before.get(tombstone.host_id, set()).discard(tombstone.instance_id)
            self._let_go(tombstone.host_id, tombstone.instance_id)
        self._tombstones.setdefault(tombstone.host_id, {})[tombstone.instance_id] = tombstone

    def put_answer(self, answer: Machine | Tombstone) -> None:
        """Take an order's answer, unless the watch has told as much or more already.

        Answer and watch travel apart, so an answer may be older than what we know.
        """
        buried = self.tombstone(answer.host_id, answer.instance_id)
        if isinstance(answer, Tombstone):
            if buried is None or buried.generation < answer.generation:
                self.put_tombstone(answer)
            return
        known = self.machine(answer.host_id, answer.instance_id)
        newest = max((x.generation for x in (known, buried) if x is not None), default=0)
        if answer.generation > newest:
            self.put_machine(answer)

    def drop_tombstone(self, tombstone: Tombstone) -> None:
        """Forget a tombstone that is recorded and acknowledged, unless a newer one came."""
        buried = self._tombstones.get(tombstone.host_id, {})
        if buried.get(tombstone.instance_id) == tombstone:
            del buried[tombstone.instance_id]

    def put_sample(self, sample: UsageSample) -> ReceivedSample | None:
        """Remember a usage sample and pass it to the subscribers; None when it is known already.

        A host begins each watch with its newest sample. Told again it is not newer: else a host
        whose sampler hangs would look fresh after each watch that is opened anew.
        """
        known = self._samples.get(sample.host_id)
        if known is not None and known.sample == sample:
            return None
        received = ReceivedSample(sample, self._clock(), self._monotonic())
        self._samples[sample.host_id] = received
        for queue in self._subscribers:
            _offer(queue, sample)
        return received

    def clear(self) -> None:
        """Forget all and end the subscriptions: the reign is over."""
        for store in (self._samples, self._endpoints, self._machines, self._tombstones):
            store.clear()
        self._holders.clear()
        self._before.clear()
        self._synced.clear()
        for queue in self._subscribers:
            _offer(queue, None)


def _offer(queue: asyncio.Queue[UsageSample | None], item: UsageSample | None) -> None:
    """Put an item, dropping the oldest one where the queue is full."""
    if queue.full():
        with suppress(asyncio.QueueEmpty):
            queue.get_nowait()
    queue.put_nowait(item)

"""Take a sample every two seconds, keep the last ones, stream them to whoever asks.

Two loops. The host's reads the kernel's files, which never hang; the machines' asks the
hypervisor, which may. So a hung libvirt costs the machines' figures and nothing else: the host
stays visible to placement. Machine figures older than three intervals are left out of samples.

A subscriber that falls behind loses its oldest samples: newer figures are worth more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.domain.clock import Clock
from unkai_agent.domain.hosts import Capacity, MachineUsage, UsageSample
from unkai_agent.metrics.rates import (
    MachineCounters,
    PortReading,
    host_usage,
    machine_usages,
)
from unkai_agent.metrics.sources import CounterSource
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

INTERVAL_S = 2.0
HISTORY = 30
"""Samples kept for late subscribers and for `history`: a minute."""

_QUEUE = 8
_STALE_INTERVALS = 3

ReadPorts = Callable[[], Awaitable[PortReading]]

log = structlog.get_logger(__name__)


class Sampler:
    """Samples this host. `run` does the work; the rest may be called at any time."""

    def __init__(
        self,
        *,
        read_counters: CounterSource,
        capacity: Capacity,
        compute: ComputeDriver,
        storage: StorageDriver,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        interval_s: float = INTERVAL_S,
        history: int = HISTORY,
    ) -> None:
        self._read_counters = read_counters
        self._capacity = capacity
        self._compute = compute
        self._storage = storage
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._interval_s = interval_s
        self.read_ports: ReadPorts | None = None
        """Reads the counters of machines' ports; None: they have none."""
        self._samples: deque[UsageSample] = deque(maxlen=history)
        self._subscribers: set[asyncio.Queue[UsageSample]] = set()
        self._machines: tuple[MachineUsage, ...] = ()
        self._machines_running = 0
        self._machines_read_s = float("-inf")
        self._disk_available_bytes = 0
        self._failing: set[str] = set()

    @property
    def latest(self) -> UsageSample | None:
        """The newest sample; None until the second reading."""
        return self._samples[-1] if self._samples else None

    def history(self) -> tuple[UsageSample, ...]:
        """Return the last samples, oldest first."""
        return tuple(self._samples)

    def subscribe(self) -> AsyncIterator[UsageSample]:
        """Return the latest sample, if any, and each new one from this call on."""
        queue: asyncio.Queue[UsageSample] = asyncio.Queue(_QUEUE)
        if self._samples:
            queue.put_nowait(self._samples[-1])
        self._subscribers.add(queue)
        return self._stream(queue)

    async def run(self) -> None:
        """Sample until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sample_machines())
            tasks.create_task(self._sample_host())

    async def _stream(self, queue: asyncio.Queue[UsageSample]) -> AsyncIterator[UsageSample]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)

    async def _sample_host(self) -> None:
        before = self._read_counters()
        while True:
            await self._sleep(self._interval_s)
            after = self._read_counters()
            usage = host_usage(
                before,
                after,
                capacity=self._capacity,
                sample_time=self._clock(),
                disk_available_bytes=self._disk_available_bytes,
                machines_running=self._machines_running,
            )
            age_s = self._monotonic() - self._machines_read_s
            fresh = age_s <= _STALE_INTERVALS * self._interval_s
            self._publish(UsageSample(usage, self._machines if fresh else ()))
            before = after

    async def _sample_machines(self) -> None:
        before: MachineCounters | None = None
        while True:
            await self._read_disk()
            after = await self._read_machines()
            if after is not None:
                self._machines = (
                    machine_usages(before, after, cpus=self._capacity.cpus) if before else ()
                )
                self._machines_running = len(after.usages)
                self._machines_read_s = after.monotonic_s
                before = after
            await self._sleep(self._interval_s)

    async def _read_machines(self) -> MachineCounters | None:
        try:
            usages = await self._compute.usage()
        except UnkaiError as error:
            self._note_failure("machine_usage_unknown", error)
            return None
        self._failing.discard("machine_usage_unknown")
        return MachineCounters.of(self._monotonic(), usages, await self._read_ports())

    async def _read_ports(self) -> PortReading:
        try:
            return await self.read_ports() if self.read_ports else {}
        except (UnkaiError, OSError) as error:
            self._note_failure("port_usage_unknown", internal_error(error))
            return {}

    async def _read_disk(self) -> None:
        try:
            self._disk_available_bytes = await self._storage.available_bytes()
        except UnkaiError as error:
            self._note_failure("disk_available_unknown", error)
        else:
            self._failing.discard("disk_available_unknown")

    def _note_failure(self, event: str, error: UnkaiError) -> None:
        """Log a failure when it begins, not at each try."""
        if event not in self._failing:
            self._failing.add(event)
            log.warning(event, reason=error.reason, error=error.message)

    def _publish(self, sample: UsageSample) -> None:
        self._samples.append(sample)
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(sample)

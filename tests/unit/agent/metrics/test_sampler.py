"""Samples, taken by a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from tests.support.compute import a_domain_spec
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.compute.fake_domain import MachineLoad
from unkai_agent.domain.hosts import Capacity, UsageSample
from unkai_agent.metrics import HostCounters, HostLoad, Sampler, SimulatedHost
from unkai_agent.network.driver import PortCounters
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.errors import Unavailable

_GIB = 1024**3
_CAPACITY = Capacity(cpus=4, memory_bytes=8 * _GIB, disk_bytes=100 * _GIB)


class TurnedTime:
    """Monotonic time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.now_s + seconds, woken))
        await woken.wait()

    async def pass_by(self, seconds: float) -> None:
        """Let time pass in steps of a second, and everything due happen."""
        for _ in range(round(seconds)):
            self.now_s += 1.0
            for entry in [e for e in self._sleepers if e[0] <= self.now_s]:
                self._sleepers.remove(entry)
                entry[1].set()
            await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class OnlyRoom:
    """The one method of storage that the sampler uses."""

    def __init__(self) -> None:
        self.error: Unavailable | None = None

    async def available_bytes(self) -> int:
        if self.error is not None:
            raise self.error
        return 50 * _GIB


class Scene:
    """A simulated host with its sampler."""

    def __init__(self, history: int = 30) -> None:
        self.time = TurnedTime()
        self.compute = FakeCompute(
            monotonic=self.time.monotonic, sleep=self.time.sleep, call_deadline_s=10
        )
        self.host = SimulatedHost(_CAPACITY, self.compute, self.time.monotonic)
        self.room = OnlyRoom()
        self.sampler = Sampler(
            read_counters=self.host,
            capacity=_CAPACITY,
            compute=self.compute,
            storage=cast("StorageDriver", self.room),
            clock=lambda: datetime.fromtimestamp(self.time.now_s, UTC),
            monotonic=self.time.monotonic,
            sleep=self.time.sleep,
            history=history,
        )

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.sampler.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def a_machine(self) -> str:
        spec = a_domain_spec(Path("/nowhere"), memory_bytes=_GIB)
        await self.compute.define(spec)
        await self.compute.start(spec.instance_id)
        return spec.instance_id

    def latest(self) -> UsageSample:
        sample = self.sampler.latest
        assert sample is not None
        return sample


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_sample_comes_every_two_seconds(scene: Scene) -> None:
    async with scene.sampling():
        assert scene.sampler.latest is None
        await scene.time.pass_by(6)
    times = [s.host.sample_time.timestamp() for s in scene.sampler.history()]
    assert times == [102.0, 104.0, 106.0]
    assert {s.host.interval_s for s in scene.sampler.history()} == {2.0}


async def test_ports_are_told_of_as_long_as_somebody_knows(scene: Scene) -> None:
    instance_id = await scene.a_machine()
    received = 0
    silent = False

    async def read() -> dict[str, dict[str, PortCounters]]:
        nonlocal received
        if silent:
            raise OSError("no such file")
        received += 1000
        return {instance_id: {"prt-a": PortCounters(received, 0, 0, 0, 0, 0)}}

    scene.sampler.read_ports = read
    async with scene.sampling():
        await scene.time.pass_by(6)
        [machine] = scene.latest().machines
        assert [(port.port_id, port.received_bytes_per_s) for port in machine.ports] == [
            ("prt-a", 500.0)
        ]
        silent = True
        await scene.time.pass_by(6)
        [machine] = scene.latest().machines
        assert machine.ports == ()


async def test_the_load_of_the_host_and_its_machines_shows(scene: Scene) -> None:
    instance_id = await scene.a_machine()
    scene.compute.set_load(instance_id, MachineLoad(cpu_cores=0.5, memory_ratio=0.5))
    scene.host.set_load(HostLoad(cpu_cores=1.5, memory_bytes=_GIB, io_pressure_ratio=0.4))
    async with scene.sampling():
        await scene.time.pass_by(4)
    sample = scene.latest()
    assert sample.host.cpu_used_cores == pytest.approx(2.0)
    assert sample.host.cpu_used_ratio == pytest.approx(0.5)
    assert sample.host.io_pressure_ratio == pytest.approx(0.4)
    assert sample.host.io_full_pressure_ratio == pytest.approx(0.2)
    assert sample.host.memory_available_bytes == 8 * _GIB - _GIB - _GIB // 2
    assert (sample.host.machines_running, sample.host.disk_available_bytes) == (1, 50 * _GIB)
    (machine,) = sample.machines
    assert machine.instance_id == instance_id
    assert machine.cpu_used_cores == pytest.approx(0.5)


async def test_cpu_that_the_host_does_not_have_shows_as_waiting(scene: Scene) -> None:
    scene.host.set_load(HostLoad(cpu_cores=6.5))
    async with scene.sampling():
        await scene.time.pass_by(2)
    host = scene.latest().host
    assert (host.cpu_used_ratio, host.cpu_pressure_ratio) == (1.0, 1.0)
    assert host.cpu_wait_cores == pytest.approx(2.5)


async def test_a_hung_hypervisor_costs_the_machines_figures_and_no_samples(scene: Scene) -> None:
    await scene.a_machine()
    async with scene.sampling():
        await scene.time.pass_by(4)
        assert scene.latest().machines
        scene.compute.faults.hang = True
        await scene.time.pass_by(10)
        assert len(scene.sampler.history()) == 7
        assert scene.latest().machines == ()
        assert scene.latest().host.machines_running == 1
        scene.compute.faults.hang = False
        await scene.time.pass_by(20)
        assert scene.latest().machines


async def test_storage_that_does_not_answer_leaves_the_last_figure(scene: Scene) -> None:
    async with scene.sampling():
        await scene.time.pass_by(2)
        scene.room.error = Unavailable("away")
        await scene.time.pass_by(4)
    assert scene.latest().host.disk_available_bytes == 50 * _GIB


async def test_a_subscriber_gets_the_latest_sample_at_once_and_then_each_new_one(
    scene: Scene,
) -> None:
    async with scene.sampling():
        await scene.time.pass_by(4)
        samples = scene.sampler.subscribe()
        assert await anext(samples) == scene.latest()
        await scene.time.pass_by(2)
        assert await anext(samples) == scene.latest()


async def test_a_slow_subscriber_loses_its_oldest_samples(scene: Scene) -> None:
    async with scene.sampling():
        samples = scene.sampler.subscribe()
        await scene.time.pass_by(40)
        first = await anext(samples)
    assert first == scene.sampler.history()[-8]


async def test_the_history_is_bounded() -> None:
    scene = Scene(history=3)
    async with scene.sampling():
        await scene.time.pass_by(20)
    assert len(scene.sampler.history()) == 3


async def test_a_simulated_hosts_counters_only_grow(scene: Scene) -> None:
    read: Callable[[], HostCounters] = scene.host
    scene.host.set_load(HostLoad(cpu_cores=9.0, disk_write_bytes_per_s=10.0))
    scene.time.now_s += 1.0
    loaded = read()
    scene.host.set_load(HostLoad())
    scene.time.now_s += 1.0
    idle = read()
    assert (idle.cpu_used_ns, idle.cpu_wait_ns) == (loaded.cpu_used_ns, loaded.cpu_wait_ns)
    assert (loaded.cpu_used_ns, loaded.disk_write_bytes) == (4_000_000_000, 10)

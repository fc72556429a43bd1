"""One simulated host for tests of the agent: fake drivers, a real ledger, time that jumps.

`run` runs a coroutine on a loop whose clock leaps to the next timer whenever nothing else can
happen: half a minute of waiting for a permit takes no time, in the same order as it would.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from unkai_agent.compute.driver import Domain, DomainState
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.converge.supervisor import Converger
from unkai_agent.domain.machines import (
    DiskSpec,
    Fence,
    ImageFormat,
    ImageRef,
    Machine,
    MachineSpec,
    MachineState,
    Power,
    SeedSpec,
)
from unkai_agent.ledger import Ledger
from unkai_agent.network.fake import FakeNetwork
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.fake import FakeStorage
from unkai_wire.ids import encode, uuid7

T = TypeVar("T")
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
GIB = 1 << 30
IMAGE = ImageRef(
    image_id=encode("img", uuid7(0, 1)),
    sha256="ab" * 32,
    size_bytes=13 << 20,
    virtual_size_bytes=64 << 20,
    format=ImageFormat.QCOW2,
)


class _LeapingSelector(selectors.DefaultSelector):
    """Never waits: the loop's clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            # Nothing scheduled: only another thread can bring news. A test that hangs here is
            # ended by its timeout.
            return super().select(0.05)
        self.now_s += timeout
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now_s

    def run_in_executor(self, executor: Any, call: Any, *args: Any) -> Any:
        """Call in this thread, in the loop's next round: a thread would race with the leaps."""
        future = self.create_future()

        def settle() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(call(*args))
            except Exception as error:  # noqa: BLE001 - carried to who awaits it
                future.set_exception(error)

        self.call_soon(settle)
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in leaping time."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(main)


def loop_clock() -> datetime:
    """Return the loop's time as a date."""
    return START + timedelta(seconds=asyncio.get_running_loop().time() - 1000.0)


def an_instance_id(number: int = 1) -> str:
    """Return an instance's id; the same number gives the same."""
    return encode("ins", uuid7(1_700_000_000_000 + number, number))


def a_spec(number: int = 1, **changes: Any) -> MachineSpec:
    """Return a spec of a machine that shall run."""
    must_exist = changes.pop("must_exist", False)
    spec = MachineSpec(
        instance_id=an_instance_id(number),
        name=f"web-{number}",
        project_id=encode("prj", uuid7(0, 1)),
        vcpus=1,
        memory_bytes=GIB,
        power=Power.ON,
        disks=(DiskSpec("root", 2 * GIB, IMAGE, must_exist),),
        seed=SeedSpec(hostname=f"web-{number}", user_data=b"#!/bin/sh\necho hi\n"),
        generation=1,
        run_epoch=1,
        stop_grace_s=10.0,
        instance=b"",
    )
    return replace(spec, **changes)


def a_fence(spec: MachineSpec, term: int = 1) -> Fence:
    """Return the fence that goes with a spec."""
    return Fence(term=term, generation=spec.generation, run_epoch=spec.run_epoch)


class SimulatedAgent:
    """A host whose agent can be killed and started again; drivers and disk stay."""

    def __init__(self, root: Path, seed: int = 0, **settings: Any) -> None:
        self.root = root
        self.boot_id = "boot-1"
        self.settings = ConvergeSettings(**settings)
        self.network = FakeNetwork()
        self.compute = FakeCompute(monotonic=lambda: 0.0, plugged=self.network.plug)
        self.storage = FakeStorage(root / "storage", clock=lambda: START)
        self.rng = random.Random(seed)
        self.converger: Converger = None  # type: ignore[assignment]
        self.ledger: Ledger = None  # type: ignore[assignment]
        self.tasks: asyncio.Task[None] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start the agent."""
        self.ledger = Ledger(self.root / "ledger", durable=False)
        self.converger = Converger(
            ledger=self.ledger,
            compute=self.compute,
            storage=self.storage,
            accelerator="tcg",
            boot_id=self.boot_id,
            settings=self.settings,
            clock=loop_clock,
            network=self.network,
            rng=self.rng,
        )
        self.tasks = asyncio.create_task(self.converger.run())
        if ready:
            self.converger.ready()

    async def kill(self) -> None:
        """End the agent wherever it is. Guests go on."""
        if self.tasks is not None:
            self.tasks.cancel()
            with suppress(asyncio.CancelledError):
                await self.tasks
            self.tasks = None

    async def restart(self, **options: Any) -> None:
        """Kill and start."""
        await self.kill()
        self.start(**options)

    async def reboot_host(self, **options: Any) -> None:
        """Cut the host's power and boot it."""
        await self.kill()
        self.compute.reboot_host()
        self.boot_id += "+"
        self.start(**options)

    async def ensure(self, spec: MachineSpec, term: int = 1) -> Machine:
        """Order a machine."""
        return await self.converger.ensure(a_fence(spec, term), spec)

    async def until(
        self, is_so: Callable[[], bool | Awaitable[bool]], within_s: float = 300.0
    ) -> None:
        """Wait in leaping time until something is so."""
        async with asyncio.timeout(within_s):
            while True:
                found = is_so()
                if not isinstance(found, bool):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.05)

    async def until_state(
        self, state: MachineState, number: int = 1, generation: int = 1, within_s: float = 300.0
    ) -> Machine:
        """Wait until a machine's newest generation is in this state."""
        ident = an_instance_id(number)

        def is_so() -> bool:
            machine = self.machine(number)
            return (
                machine is not None
                and machine.state is state
                and machine.generation >= generation
                and (
                    machine.observed_generation == machine.generation
                    or state is not MachineState.RUNNING
                )
            )

        await self.until(is_so, within_s)
        return self.converger.machine(ident)

    def machine(self, number: int = 1) -> Machine | None:
        """Return a machine as shown, or None."""
        ident = an_instance_id(number)
        return next((m for m in self.converger.machines() if m.instance_id == ident), None)

    async def domain(self, number: int = 1) -> Domain | None:
        """Return a machine's domain."""
        return await self.compute.get_domain(an_instance_id(number))

    async def is_on(self, number: int = 1) -> bool:
        """Tell whether a machine's guest runs."""
        domain = await self.domain(number)
        return domain is not None and domain.state is DomainState.RUNNING


@asynccontextmanager
async def a_running_agent(root: Path, **settings: Any) -> AsyncIterator[SimulatedAgent]:
    """Yield a host with its agent started."""
    agent = SimulatedAgent(root, **settings)
    agent.start()
    try:
        yield agent
    finally:
        await agent.kill()

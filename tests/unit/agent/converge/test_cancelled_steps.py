"""Given up at each step: before its act and after it, nothing is left of a machine on its host.

The real converger, ledger and steps on fake drivers. A step's act is held at a gate; the order to
remove comes meanwhile. What a cancelled create, a deletion and a cancelled start come to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows
from tests.support.agent import SimulatedAgent, a_running_agent, a_spec, an_instance_id, run
from unkai_agent.domain.machines import Fence, MachineState, Power, Tombstone

STEPS: dict[str, tuple[str, str]] = {
    "fetch image": ("storage", "ensure_image"),
    "make disk": ("storage", "create_disk"),
    "write seed": ("storage", "ensure_seed"),
    "define": ("compute", "define"),
    "start": ("compute", "start"),
}
REMOVE = Fence(term=1, generation=2, run_epoch=1)


class Gate:
    """Holds the first call of a driver's method, before or after it acts."""

    def __init__(self, agent: SimulatedAgent, step: str, *, after: bool) -> None:
        part, name = STEPS[step]
        driver: Any = getattr(agent, part)
        self._act: Callable[..., Awaitable[Any]] = getattr(driver, name)
        self._after = after
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        setattr(driver, name, self._held)

    async def _held(self, *args: Any, **options: Any) -> Any:
        if not self._after:
            await self._hold()
        result = await self._act(*args, **options)
        if self._after:
            await self._hold()
        return result

    async def _hold(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


async def _left(agent: SimulatedAgent) -> dict[str, Any]:
    """Return all that is there of any machine."""
    return {
        "domain": await agent.domain(),
        "stored": list(await agent.storage.list_machines()),
        "machines": list(agent.converger.machines()),
        "entries": list(agent.ledger.entries()),
    }


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_removed_at_a_step_it_leaves_a_tombstone_and_nothing_else(
    tmp_path: Path, step: str, after: bool, shows: Shows
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            gate = Gate(agent, step, after=after)
            await agent.ensure(a_spec())
            await gate.reached.wait()
            shown = agent.machine()
            assert shown is not None
            assert shown.step == step
            left = await agent.converger.remove(REMOVE, an_instance_id())
            gate.opened.set()
            assert not isinstance(left, Tombstone)
            assert left.state is MachineState.REMOVING
            await agent.until(lambda: agent.ledger.tombstone(an_instance_id()) is not None)
            await agent.until(lambda: agent.machine() is None)
            assert await _left(agent) == {
                "domain": None,
                "stored": [],
                "machines": [],
                "entries": [],
            }

    run(story())
    shows(f"solid 7 cancel at {step}", "before and after its act: a tombstone, nothing else")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["fetch image", "write seed", "define", "start"])
def test_a_start_that_is_taken_back_at_a_step_leaves_it_off_with_its_disk(
    tmp_path: Path, step: str, after: bool
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            await agent.ensure(a_spec())
            await agent.until_state(MachineState.RUNNING)
            await agent.ensure(a_spec(generation=2, power=Power.OFF, must_exist=True))
            await agent.until_state(MachineState.STOPPED, generation=2)
            gate = Gate(agent, step, after=after)
            await agent.ensure(a_spec(generation=3, must_exist=True))
            await gate.reached.wait()
            await agent.ensure(a_spec(generation=4, power=Power.OFF, must_exist=True))
            gate.opened.set()
            await agent.until_state(MachineState.STOPPED, generation=4)
            assert not await agent.is_on()
            assert await agent.storage.get_disk(an_instance_id(), "root") is not None

    run(story())


@pytest.mark.parametrize("step", STEPS)
def test_an_agent_killed_at_a_step_that_was_given_up_leaves_nothing_either(
    tmp_path: Path, step: str
) -> None:
    async def story() -> None:
        async with a_running_agent(tmp_path) as agent:
            gate = Gate(agent, step, after=True)
            await agent.ensure(a_spec())
            await gate.reached.wait()
            await agent.converger.remove(REMOVE, an_instance_id())
            await agent.restart()
            await agent.until(lambda: agent.ledger.tombstone(an_instance_id()) is not None)
            await agent.until(lambda: agent.machine() is None)
            left = await _left(agent)
            assert not any(left.values())

    run(story())

"""What watchers of a host's machines are told, and when. Time leaps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agent import a_running_agent, a_spec, run
from unkai_agent.converge.feed import LAZY_S, MachineFeed, Synced
from unkai_agent.domain.machines import Machine, MachineState


async def _a_machine(folder: Path) -> Machine:
    async with a_running_agent(folder) as agent:
        return await agent.ensure(a_spec())


def test_quick_steps_are_told_once_and_a_change_of_state_at_once(tmp_path: Path) -> None:
    async def story() -> list[tuple[str, float]]:
        machine = await _a_machine(tmp_path)
        feed, told = MachineFeed(lambda: ()), []
        now_s = asyncio.get_running_loop().time

        async def watch() -> None:
            async for change in feed.watch(alive_s=3600):
                if isinstance(change, Machine):
                    told.append((change.step or change.state.name, now_s() - began_s))
                    if change.state is MachineState.RUNNING:
                        return

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            await asyncio.sleep(1)
            began_s = now_s()
            for step in ("disk", "seed", "define"):
                feed.publish(replace(machine, step=step), lazily=True)
            await asyncio.sleep(1)
            feed.publish(replace(machine, step="start"), lazily=True)
            feed.publish(replace(machine, state=MachineState.RUNNING, step=""))
        return told

    (quick, running) = run(story())
    assert quick == ("define", pytest.approx(LAZY_S))
    assert running == ("RUNNING", pytest.approx(1.0))


def test_a_watcher_that_left_is_not_rung(tmp_path: Path) -> None:
    async def story() -> None:
        machine = await _a_machine(tmp_path)
        feed = MachineFeed(lambda: ())
        watch = feed.watch(alive_s=3600)
        assert isinstance(await anext(watch), Synced)
        feed.publish(machine, lazily=True)
        await watch.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(2 * LAZY_S)

    run(story())


def test_a_step_that_takes_long_is_told(tmp_path: Path) -> None:
    async def story() -> list[str]:
        async with a_running_agent(tmp_path) as agent:
            steps: list[str] = []
            agent.compute.latency_s = 5.0

            async def watch() -> None:
                async for change in agent.converger.watch():
                    if isinstance(change, Machine):
                        steps.append(change.step)
                        if change.state is MachineState.RUNNING:
                            return

            watching = asyncio.ensure_future(watch())
            await agent.ensure(a_spec())
            await watching
            return steps

    assert "start" in run(story())

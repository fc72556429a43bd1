"""Keep the host's switch a member of OVN, and free of what machines that are gone left in it.

The switch may be down when the agent starts, may lose its database, or be given another name by its
own start script: so joining is done again and again, which writes nothing where all is well. Its
programs may die or hang while its database answers: so they are asked, too. Another process states
anew what it can do, part of which joining takes back (`ovs.py`): so it is joined at once. What
keeps the switch from its work is told once, and again when it changes; machines without ports never
notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set

import structlog

from unkai_agent.network.driver import JoinSettings, NetworkDriver
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.converge")
LOOK_S = 15.0
"""Between looks at a switch that is as it shall be."""
ALIVE_S = 1.0
"""Between questions to its programs, which cost next to nothing."""
YOUNG_S = 10.0
"""After another process was first seen it is joined at each question: it answers before it has read
its database and stated what it can do, and nothing tells when it has."""
RETRY_S = 2.0
"""Between tries while it is not: it is likely being started."""
_AWAY = "switch_program_away"
_SWEEP_LOOKS = 4
"""Every how many looks what was left is swept: about each minute."""


class SwitchKeeper:
    """Keeps one host's switch. `run` goes on until cancelled."""

    def __init__(
        self,
        driver: NetworkDriver,
        membership: JoinSettings,
        running: Callable[[], Awaitable[Set[str]]],
        tell: Callable[[UnkaiError | None], None] = lambda problem: None,
        *,
        look_s: float = LOOK_S,
        alive_s: float = ALIVE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """`running`: ids of the instances whose machines are on. `tell`: hears of each change."""
        self._driver = driver
        self._membership = membership
        self._running = running
        self._tell = tell
        self._look_s, self._alive_s, self._retry_s = look_s, alive_s, retry_s
        self.problem: UnkaiError | None = None
        """What keeps the switch from its work; None: nothing, or it was not tried yet."""
        self._told: str | None = None
        self._processes: Sequence[int] = ()
        self._young_until_s = 0.0
        """By the loop's clock."""

    async def run(self) -> None:
        """Keep it until cancelled; a host that leaves stays a member, for its guests."""
        looks = 0
        while True:
            not_joined = await self._tried(self._join)
            away = None if not_joined else await self._away()
            self._told_of(not_joined or away, "switch_not_joined" if not_joined else _AWAY)
            is_well = not (not_joined or away)
            if is_well and looks % _SWEEP_LOOKS == 0:
                await self._sweep()
            looks = looks + 1 if is_well else 0
            await (self._rest() if is_well else asyncio.sleep(self._retry_s))

    async def _rest(self) -> None:
        """Wait for the next look, or until a program is away or another process."""
        rested_s = 0.0
        while rested_s < self._look_s:
            pause_s = min(self._alive_s, self._look_s - rested_s)
            await asyncio.sleep(pause_s)
            rested_s += pause_s
            if away := await self._away():
                self._told_of(away, _AWAY)
                return
            if asyncio.get_running_loop().time() < self._young_until_s:
                return

    async def _away(self) -> UnkaiError | None:
        """Return which program of the switch is away; not one that only crashed.

        Its monitor has started another within `retry_s`.
        """
        loop = asyncio.get_running_loop()
        problem = await self._tried(self._see)
        until_s = loop.time() + self._retry_s
        while problem is not None and loop.time() < until_s:
            await asyncio.sleep(min(self._alive_s, self._retry_s))
            problem = await self._tried(self._see)
        return problem

    async def _see(self) -> None:
        processes = await self._driver.see_alive()
        if processes != self._processes:
            self._processes = processes
            self._young_until_s = asyncio.get_running_loop().time() + YOUNG_S

    async def _join(self) -> None:
        await self._driver.join(self._membership)

    async def _sweep(self) -> None:
        async def sweep() -> None:
            removed = await self._driver.sweep(await self._running())
            if removed:
                _LOG.info("stale_ports_removed", devices=list(removed))

        problem = await self._tried(sweep)
        if problem is not None:
            _LOG.info("sweep_failed", reason=problem.reason, error=problem.message)

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> UnkaiError | None:
        """Do something; return what hindered it."""
        try:
            await work()
        except UnkaiError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the host serves on without its switch
            return internal_error(error)
        return None

    def _told_of(self, problem: UnkaiError | None, event: str) -> None:
        said = "" if problem is None else problem.message
        if said == self._told:
            return
        self._told, self.problem = said, problem
        if problem is None:
            _LOG.info("switch_joined", datapath=self._membership.datapath.value)
        else:
            _LOG.warning(event, reason=problem.reason, error=said, fix=problem.fix or "")
        self._tell(problem)

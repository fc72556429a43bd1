"""Keep the host's switch a member of OVN, and free of what machines that are gone left in it.

The switch may be down when the agent starts, may lose its database, or be given another name by its
own start script: so joining is done again and again, which writes nothing where all is well. What
keeps the switch out is told once, and again when it changes; machines without ports never notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set

import structlog

from unkai_agent.network.driver import JoinSettings, NetworkDriver
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.converge")
LOOK_S = 15.0
"""Between looks at a switch that is as it shall be."""
RETRY_S = 2.0
"""Between tries while it is not: it is likely being started."""
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
        retry_s: float = RETRY_S,
    ) -> None:
        """`running`: ids of the instances whose machines are on. `tell`: hears of each change."""
        self._driver = driver
        self._membership = membership
        self._running = running
        self._tell = tell
        self._look_s, self._retry_s = look_s, retry_s
        self.problem: UnkaiError | None = None
        """What keeps the switch from being a member; None: nothing, or it was not tried yet."""
        self._told: str | None = None

    async def run(self) -> None:
        """Keep it until cancelled; a host that leaves stays a member, for its guests."""
        looks = 0
        while True:
            is_member = await self._tried("join", self._join)
            if is_member and looks % _SWEEP_LOOKS == 0:
                await self._tried("sweep", self._sweep)
            looks = looks + 1 if is_member else 0
            await asyncio.sleep(self._look_s if is_member else self._retry_s)

    async def _join(self) -> None:
        await self._driver.join(self._membership)

    async def _sweep(self) -> None:
        removed = await self._driver.sweep(await self._running())
        if removed:
            _LOG.info("stale_ports_removed", devices=list(removed))

    async def _tried(self, act: str, work: Callable[[], Awaitable[None]]) -> bool:
        problem: UnkaiError | None = None
        try:
            await work()
        except UnkaiError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - the host serves on without its switch
            problem = internal_error(error)
        if act == "join":
            self._told_of(problem)
        elif problem is not None:
            _LOG.info("sweep_failed", reason=problem.reason, error=problem.message)
        return problem is None

    def _told_of(self, problem: UnkaiError | None) -> None:
        said = "" if problem is None else problem.message
        if said == self._told:
            return
        self._told, self.problem = said, problem
        if problem is None:
            _LOG.info("switch_joined", datapath=self._membership.datapath.value)
        else:
            _LOG.warning(
                "switch_not_joined", reason=problem.reason, error=said, fix=problem.fix or ""
            )
        self._tell(problem)

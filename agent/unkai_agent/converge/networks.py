"""Keep what a host serves to its networks equal to the machines that its ledger holds.

Woken by each change of a machine, and on a timer, since somebody may have taken away what was made.
Making networks sure costs processes; so that is done only when ports have changed, after a failure,
on the timer, and when a cheap look, every few seconds, shows that something is damaged. Guests are
answered by the newest order at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from unkai_agent.converge.feed import Alive, Change
from unkai_agent.domain.machines import LedgerEntry, MachineSpec
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.converge")
SURE_S = 60.0
"""Between looks at networks that nothing has changed."""
LOOK_S = 5.0
"""Between cheap looks; each that finds damage just mended doubles it up to the timer's time."""
RETRY_S = 2.0
"""After a failure; each doubles it up to the timer's time."""


class Networks(Protocol):
    """What serves the networks: `network.service.HostNetworks`."""

    def know(self, machines: Iterable[MachineSpec]) -> None:
        """Answer guests by these machines."""

    async def hold(self, machines: Iterable[MachineSpec]) -> None:
        """Serve the networks of these machines, and no others."""

    async def are_whole(self) -> bool:
        """Tell whether all that is served still stands, as far as a cheap look shows."""

    async def close(self) -> None:
        """Close all sockets."""


class NetworkKeeper:
    """Keeps the networks of one host. `run` goes on until cancelled."""

    def __init__(
        self,
        networks: Networks,
        entries: Callable[[], Sequence[LedgerEntry]],
        watch: Callable[[], AsyncIterator[Change]],
    ) -> None:
        """`entries`: the ledger's, now. `watch`: yields changes of machines."""
        self._networks = networks
        self._entries = entries
        self._watch = watch
        self._woken = asyncio.Event()
        self._held: object = None
        """The ports that are served; None: look whatever they are."""
        self._failures = 0
        self._look_s = LOOK_S
        self._sure_s = 0.0
        """When to make sure again, by the loop's clock; however often something changes."""
        self._damage_s = 0.0
        """When to look for damage again."""

    async def run(self) -> None:
        """Keep them until cancelled; then close the sockets. Namespaces stay."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._keep())
        finally:
            await self._networks.close()

    async def _listen(self) -> None:
        async for change in self._watch():
            if not isinstance(change, Alive):
                self._woken.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._look_for_damage()
            await self._hold()
            pause_s = max(0.0, min(self._sure_s, self._damage_s) - loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def _look_for_damage(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._damage_s:
            return
        if await self._are_whole():
            self._look_s = LOOK_S
        else:
            self._held = None
            self._look_s = min(SURE_S, 2 * self._look_s)
        self._damage_s = loop.time() + self._look_s

    async def _are_whole(self) -> bool:
        try:
            whole = await self._networks.are_whole()
        except Exception as error:  # noqa: BLE001 - machines go on without; it is made sure of
            internal_error(error)
            whole = False
        if not whole:
            _LOG.warning("networks_damaged")
        return whole

    async def _hold(self) -> None:
        """Bring the networks about where ports have changed, or it is time to make sure."""
        loop = asyncio.get_running_loop()
        self._woken.clear()
        specs = [entry.spec for entry in self._entries()]
        ports = [spec.ports for spec in specs if spec.ports]
        if ports == self._held and loop.time() < self._sure_s:
            self._networks.know(specs)
            return
        try:
            await self._networks.hold(specs)
        except Exception as error:  # noqa: BLE001 - machines go on without; it is tried again
            failure = error if isinstance(error, UnkaiError) else internal_error(error)
            self._held = None
            self._failures += 1
            if self._failures == 1:
                _LOG.warning("networks_failed", reason=failure.reason, error=failure.message)
            again_s = min(SURE_S, RETRY_S * 2.0 ** min(self._failures - 1, 10))
            self._sure_s = loop.time() + again_s
            return
        self._held = ports
        self._failures = 0
        self._sure_s = loop.time() + SURE_S

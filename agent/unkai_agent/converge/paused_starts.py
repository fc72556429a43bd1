"""One machine's start that is paused until its ports are installed: looked at, and let go on.

`plugging.py` says when it may; `worker.py` starts the machine paused and calls here each turn.
"""

from __future__ import annotations

import asyncio

import structlog

from unkai_agent.converge import machines
from unkai_agent.converge.account import Account
from unkai_agent.converge.machines import Machinery
from unkai_agent.converge.plugging import (
    PORTS_S,
    Plug,
    Plugging,
    look_s,
    next_plug,
    not_installed,
    port_statuses,
)
from unkai_agent.domain.machines import LedgerEntry, MachineState

_LOG = structlog.get_logger("unkai.agent.converge")
_LOOK_MOST_S = 1.0
"""A guest is kept waiting no longer than this for a look at its ports."""


class PausedStart:
    """A paused start under way."""

    def __init__(self, machinery: Machinery, account: Account) -> None:
        self._machinery = machinery
        self._account = account
        self._plugging = Plugging()

    def forget(self) -> None:
        """It is over."""
        self._plugging.forget()

    async def turn(self, entry: LedgerEntry) -> float | None:
        """Let a guest that was started paused go on, once its ports are installed."""
        machinery, now_s = self._machinery, asyncio.get_running_loop().time()
        if await machines.has_other_ports(machinery, entry):
            # Ordered since: its guest has not run, so it is simply started anew.
            await machinery.compute.destroy(entry.spec.instance_id)
            return 0.0
        self._plugging.begin(now_s)
        wirings = await machines.wirings(machinery, entry)
        self._account.show(
            entry,
            state=MachineState.CONVERGING,
            step="plug ports",
            error=None,
            ports=port_statuses(entry.spec.ports, wirings),
        )
        waited_s = self._plugging.waited_s(now_s)
        sites_up = machinery.sites_up({port.network_id for port in entry.spec.ports})
        plug = next_plug(entry, wirings, sites_up=sites_up, waited_s=waited_s)
        if plug is Plug.WAIT:
            return look_s(waited_s, _LOOK_MOST_S)
        if plug is Plug.GIVE_UP:
            await machines.remove(machinery, entry.spec.instance_id, self._account.step)
            await self._account.note(entry, plugging=False)
            raise not_installed(entry.spec.ports, wirings)
        if waited_s >= PORTS_S:
            _LOG.warning("resumed_without_ports", instance_id=entry.spec.instance_id)
        # Noted first: a guest that was resumed, and then paused by somebody, is only resumed.
        await self._account.note(entry, plugging=False)
        self._account.step("resume")
        await machinery.compute.start(entry.spec.instance_id)
        return 0.0

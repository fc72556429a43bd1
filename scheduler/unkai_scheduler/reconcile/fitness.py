"""Whether this scheduler can do a leader's work: write to the database, and hear the hosts.

A network may part it from one of them and not from etcd, which elects and would let it lead for
ever. So a leader that has been unfit for a while resigns, if another scheduler is there to take
over. Should that one fare no better, the cause lies elsewhere; each resignation makes the next one
wait longer, so that the lead does not go to and fro.

Asking under the term has a second use: a leader that was stopped and has been replaced meanwhile
learns it at once, also when it has nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.reconcile.office import Office, ReignEnded
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire.errors import UnkaiError

log = structlog.get_logger(__name__)

CHECK_S = 2.0
ANSWER_S = 3.0
"""A database that takes longer does not answer."""
UNFIT_S = 6.0
"""A leader unfit for so long resigns: a database server has been restarted by then."""
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0
"""Pauses between two resignations of one scheduler: the first, doubling up to the longest."""


class Ears(Protocol):
    """What is asked about the hosts."""

    def hears_nobody(self) -> bool:
        """Tell whether hosts are registered and none of them speaks to us."""


class Fitness:
    """Judges one scheduler's reigns; remembers across them when it resigned."""

    def __init__(self, name: str, cluster: Cluster, now_s: Callable[[], float]) -> None:
        """`now_s`: monotonic seconds."""
        self._name = name
        self._cluster = cluster
        self._now_s = now_s
        self._pause_s = FIRST_PAUSE_S
        self._may_resign_s = float("-inf")

    async def watch(self, office: Office, ears: Ears) -> None:
        """Ask again and again until cancelled; resign and raise `ReignEnded` when unfit."""
        unfit_since_s: float | None = None
        while True:
            await asyncio.sleep(CHECK_S)
            began_s = self._now_s()
            lack = await self._lack(office, ears)
            if not lack:
                unfit_since_s = None
                continue
            unfit_since_s = began_s if unfit_since_s is None else unfit_since_s
            if self._now_s() - unfit_since_s >= UNFIT_S and await self._can_resign():
                await self._resign(lack)

    async def _lack(self, office: Office, ears: Ears) -> str:
        """Return what is out of reach; empty when nothing is."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await office.lead(_nothing, tells=False)
        except ReignEnded:
            raise
        except (UnkaiError, TimeoutError):
            return "database"
        return "hosts" if ears.hears_nobody() else ""

    async def _can_resign(self) -> bool:
        """Tell whether another could lead, and the last resignation is long enough ago."""
        if self._now_s() < self._may_resign_s:
            return False
        try:
            membership = await self._cluster.read()
        except UnkaiError:
            return False
        return any(name != self._name for name in membership.schedulers)

    async def _resign(self, lack: str) -> None:
        self._may_resign_s = self._now_s() + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        log.warning("lead_resigned", scheduler=self._name, out_of_reach=lack)
        await self._cluster.resign()
        raise ReignEnded(f"the {lack} cannot be reached from here")


def _nothing(conn: Connection) -> None:
    """Write nothing: the lock on the term row is all that is asked for."""

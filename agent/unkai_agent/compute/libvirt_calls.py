"""Calls to one libvirtd: each in a pool, under a deadline, on a connection of its own.

Below `libvirt_driver.py`. What a machine's own QEMU is asked to do has pools of its own: one that
hangs costs its machine alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from unkai_agent.compute import libvirt_errors
from unkai_agent.compute.call_pool import CallPool
from unkai_agent.compute.libvirt_connections import Connections
from unkai_agent.compute.libvirt_session import Session

T = TypeVar("T")

# libvirtd carries out 20 calls at once, of whatever connection, and 5 more of such as cut a power
# (`max_workers` and `prio_workers` of libvirtd.conf). Each QEMU that hangs may hold one, given up
# or not: what waits for QEMUs takes 19 at most, so that machines can still be looked at.
_STARTS, _LOST_STARTS = 5, 4
_BUTTONS, _LOST_BUTTONS = 4, 6
_DISK_LOOKS, _LOST_DISK_LOOKS = 1, 2
_STUCK = "too many machines' QEMUs on the host do not answer"


class _Act:
    """What one machine's QEMU is asked to do, and whether that is under way."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work
        self.is_under_way = False

    def __call__(self, connection: Any) -> None:
        self.is_under_way = True
        try:
            self._work(connection)
        finally:
            self.is_under_way = False


class Calls:
    """Belongs to one event loop. `on_change(instance_id)` is called in it."""

    def __init__(
        self,
        libvirt: Any,
        uri: str,
        on_change: Callable[[str], None],
        *,
        deadline_s: float,
        workers: int,
        max_lost: int,
    ) -> None:
        self._deadline_s = deadline_s
        self._pool = CallPool("libvirt", size=workers, max_lost=max_lost)
        # Starting and destroying take seconds: a burst of them must not keep looking waiting.
        self.starts = CallPool(
            "libvirt-starts", size=_STARTS, max_lost=min(_LOST_STARTS, max_lost), stuck=_STUCK
        )
        self.buttons = CallPool(
            "libvirt-buttons",
            size=_BUTTONS,
            max_lost=min(_LOST_BUTTONS, max_lost),
            stuck=_STUCK,
        )
        # Cutting the power is what ends starts that hang, however many do.
        self.destroys = CallPool("libvirt-destroys", size=workers, max_lost=max_lost)
        # Asking a QEMU that hangs must not keep us from looking at its machine, or from ending it.
        self.disk_looks = CallPool("libvirt-disks", size=_DISK_LOOKS, max_lost=_LOST_DISK_LOOKS)
        self.connections = Connections(
            libvirt, uri, on_change, pool=self._pool, deadline_s=deadline_s
        )
        self._stuck: dict[tuple[str, str], _Act] = {}
        """By act and machine: what did not end in time."""

    async def act(
        self,
        work: Callable[[Any], None],
        act: str,
        instance_id: str,
        pool: CallPool,
        *,
        deadline_s: float | None = None,
    ) -> None:
        """Run `work(connection)`, which waits for the machine's QEMU. While the same is stuck
        already, it is refused at once."""
        self._stuck = {key: one for key, one in self._stuck.items() if one.is_under_way}
        if (act, instance_id) in self._stuck:
            raise libvirt_errors.unavailable(
                "the machine's QEMU does not answer", {"act": act, "instance_id": instance_id}
            )
        once = _Act(work)
        deadline_s = deadline_s or self._deadline_s
        try:
            await self.connections.run(
                once, act=act, instance_id=instance_id, pool=pool, deadline_s=deadline_s
            )
        finally:
            if once.is_under_way:
                self._stuck[act, instance_id] = once

    async def ask(
        self,
        work: Callable[[Any], T],
        *,
        act: str,
        instance_id: str = "",
        session: Session | None = None,
    ) -> T:
        """Run `work(connection)`, which waits for libvirtd alone."""
        return await self.connections.run(
            work,
            act=act,
            instance_id=instance_id,
            pool=self._pool,
            deadline_s=self._deadline_s,
            session=session,
        )

    async def close(self) -> None:
        """Let go of libvirt, as far as it answers."""
        await self.connections.close()
        for pool in (self._pool, self.starts, self.destroys, self.buttons, self.disk_looks):
            pool.close()

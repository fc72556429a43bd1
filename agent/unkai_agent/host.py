"""One host made of its parts: ledger, converger, drivers, sampler. Used by `main` alone.

A real host and each simulated one are made by the same function from other drivers, so that a
lab's fleet runs the agent's own code.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from unkai_agent.api.directory import Host, UsageSource
from unkai_agent.compute.driver import ComputeDriver
from unkai_agent.converge.context import InThread
from unkai_agent.converge.supervisor import Converger
from unkai_agent.domain.clock import Clock, system_clock
from unkai_agent.ledger import Ledger
from unkai_agent.ledger_files import LedgerProblem
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.driver import StorageDriver
from unkai_wire.cluster_records import HostRecord

_LOG = structlog.get_logger("unkai.agent")


class RunningUsage(UsageSource, Protocol):
    """A source of live figures that must be run."""

    def run(self) -> Awaitable[None]:
        """Sample until cancelled."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host is made of."""

    record: HostRecord
    ledger_dir: Path
    compute: ComputeDriver
    storage: StorageDriver
    usage: RunningUsage
    converge: ConvergeSettings
    durable: bool = True
    """False for simulated hosts: their ledgers are not fsynced."""


class RunningHost:
    """A host ready to answer; `run` does its work until cancelled."""

    def __init__(
        self,
        parts: HostParts,
        *,
        clock: Clock = system_clock,
        rng: random.Random | None = None,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        """Read the ledger and make the host; nothing runs yet."""
        self._parts = parts
        ledger = Ledger(parts.ledger_dir, report=_report, durable=parts.durable)
        self.converger = Converger(
            ledger=ledger,
            compute=parts.compute,
            storage=parts.storage,
            accelerator=parts.record.accelerator,
            boot_id=parts.record.boot_id,
            settings=parts.converge,
            clock=clock,
            rng=rng,
            in_thread=in_thread,
        )
        self.host = Host(
            record=parts.record,
            converger=self.converger,
            compute=parts.compute,
            storage=parts.storage,
            usage=parts.usage,
        )

    async def run(self) -> None:
        """Work until cancelled; guests go on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.converger.run())
                tasks.create_task(_run(self._parts.usage))
        finally:
            await self._parts.compute.close()
            await self._parts.storage.close()


async def _run(usage: RunningUsage) -> None:
    await usage.run()


def _report(problem: LedgerProblem) -> None:
    _LOG.error(
        "ledger_file_corrupt",
        file=problem.file,
        problem=problem.problem,
        kept_as=str(problem.kept_as),
    )

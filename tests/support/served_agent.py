"""A host's real agent API in a thread of its own, on fake drivers: mTLS on a loopback port.

What tests of synchronous clients and the fuzz call. Ledger, converger and servicers are the real
ones; QEMU and disks are not there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.server import AgentServer
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.domain.clock import system_clock
from unkai_agent.domain.hosts import Capacity
from unkai_agent.host import HostParts, RunningHost
from unkai_agent.metrics import Sampler, SimulatedHost
from unkai_agent.settings import ConvergeSettings
from unkai_agent.storage.fake import FakeStorage
from unkai_scheduler.certificates import Authority, init
from unkai_wire.cluster_records import HostRecord
from unkai_wire.ids import encode, uuid7
from unkai_wire.tls import TlsFiles, channel_options, host_tls_name

HOST_ID = encode("hst", uuid7(0, 1))


def a_host_on_fakes(folder: Path, host_id: str, compute: FakeCompute) -> RunningHost:
    """Make a host of four CPUs on fake drivers."""
    capacity = Capacity(4, 8 << 30, 100 << 30)
    storage = FakeStorage(folder / host_id)
    record = HostRecord(
        host_id=host_id,
        name=f"h-{host_id[-1]}",
        address="127.0.0.1:1",
        tls_name=host_tls_name(host_id),
        cpus=4,
        memory_bytes=8 << 30,
        disk_bytes=100 << 30,
        accelerator="tcg",
        accelerator_reason="simulated",
        traits=("CPU_X86_64",),
        boot_id="boot-1",
        agent_version="1",
    )
    usage = Sampler(
        read_counters=SimulatedHost(capacity, compute),
        capacity=capacity,
        compute=compute,
        storage=storage,
        clock=system_clock,
        interval_s=0.1,
    )
    converge = ConvergeSettings(poll_s=0.05)
    return RunningHost(
        HostParts(record, folder / host_id / "ledger", compute, storage, usage, converge, False)
    )


def host_tls(folder: Path, authority: Authority, host_id: str = HOST_ID) -> TlsFiles:
    """Issue a host's certificate into a folder."""
    folder.mkdir(exist_ok=True)
    authority.issue_host("h-1", ("127.0.0.1",), host_id).write(folder)
    return TlsFiles(*(folder / name for name in ("ca.crt", "host.crt", "host.key")))


class ServedAgent:
    """A served agent; use it as a context manager. `do` runs work in its event loop."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self.compute = FakeCompute(write_console_logs=True)
        self.port = 0
        self.host: RunningHost
        self._server: AgentServer
        self.authority = init(folder / "ca")

    def __enter__(self) -> ServedAgent:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the agent's loop and return what it returned."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def scheduler_tls(self) -> TlsFiles:
        """Return a scheduler's certificate."""
        folder = self._folder / "caller"
        if not folder.exists():
            folder.mkdir()
            self.authority.issue_scheduler("s1").write(folder)
        return TlsFiles(folder / "ca.crt", folder / "scheduler.crt", folder / "scheduler.key")

    def channel(self) -> grpc.Channel:
        """Open a channel as a scheduler."""
        return grpc.secure_channel(
            f"127.0.0.1:{self.port}",
            self.scheduler_tls().channel_credentials(),
            options=channel_options(host_tls_name(HOST_ID)),
        )

    def kept(self) -> str:
        """Return what the ledger holds of orders: what a refused call must not change.

        A term is not among it: a leader's word that it leads holds, whatever its order is worth.
        """
        return str(self.do(self._kept()))

    async def _kept(self) -> str:
        converger = self.host.converger
        specs = sorted(
            (m.instance_id, m.generation, m.run_epoch, m.instance) for m in converger.machines()
        )
        return repr((specs, sorted(map(repr, converger.tombstones()))))

    async def _open(self) -> None:
        self.host = a_host_on_fakes(self._folder, HOST_ID, self.compute)
        self._server = AgentServer(HostDirectory({HOST_ID: self.host.host}))
        tls = host_tls(self._folder / "pki", self.authority)
        self.port = self._server.listen("127.0.0.1:0", tls)
        self._tasks.append(asyncio.create_task(self.host.run()))
        await self._server.start()
        self.host.converger.ready()

    async def _close(self) -> None:
        await self._server.stop(0)
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

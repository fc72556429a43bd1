"""The scheduler's real API in a thread of its own: what tests of synchronous clients call.

Store and servicers are the real ones; the leader is one that ends every operation at once, so
that a client's waiting ends without a host. Hosts are rows with a sample each.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.api import Api, FakeLeading, an_api
from tests.support.builders import NOON, a_claim, a_host, an_image
from unkai_scheduler.agents.port import MACHINE_SPECS, Endpoint, UsageSample
from unkai_scheduler.domain.hosts import Host, HostUsage
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.store import claims, events, hosts, images, instances, operations
from unkai_wire.errors import UnkaiError

SETTLED = {
    Verb.CREATE: InstanceState.RUNNING,
    Verb.START: InstanceState.RUNNING,
    Verb.REBOOT: InstanceState.RUNNING,
    Verb.STOP: InstanceState.STOPPED,
}


class PromptLeader(FakeLeading):
    """Ends every operation as soon as it is woken, well or with an error a test asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.host: Host | None = None
        self.idle = False
        """True: operations stay as they are."""
        self.failures: deque[UnkaiError] = deque()
        self.settling: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        super().wake()
        if self.settling is not None and not self.idle:
            task = asyncio.get_running_loop().create_task(self.settling())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def settle(self, conn: Any) -> None:
        """End all active operations; the work of one transaction."""
        for operation in operations.list_page(conn, after=None, limit=1000, active_only=True):
            failure = self.failures.popleft() if self.failures else None
            operations.replace(conn, _ended(operation, failure))
            if operation.resource_kind == "image":
                images.delete(conn, operation.resource_id)
            else:
                self._settle_instance(conn, operation, failure)
        events.stamp(conn, 1000)

    def _settle_instance(self, conn: Any, operation: Operation, failure: UnkaiError | None) -> None:
        row = instances.get(conn, operation.resource_id)
        assert row is not None
        if operation.verb is Verb.DELETE:
            claims.delete(conn, row.id, NOON)
            instances.delete(conn, row.id)
            return
        if not row.host_id and self.host is not None and failure is None:
            claims.insert(conn, [a_claim(row, self.host)])
        settled = replace(
            row,
            state=InstanceState.FAILED if failure else SETTLED[operation.verb],
            state_reason=failure.to_record() if failure else None,
            operation_id="",
            start_time=None if failure else NOON,
        )
        instances.replace(conn, settled, etag=None)


def _ended(operation: Operation, failure: UnkaiError | None) -> Operation:
    return replace(
        operation,
        state=OperationState.FAILED if failure else OperationState.SUCCEEDED,
        error=failure.to_record() if failure else None,
        progress_message="" if failure else "done",
        progress_percent=0 if failure else 100,
        update_time=NOON + timedelta(seconds=2),
        end_time=NOON + timedelta(seconds=2),
    )


class ServedApi:
    """A served API; use it as a context manager. `do` runs work in its event loop."""

    def __init__(self, folder: Path, *, pki: Path | None = None) -> None:
        self._folder = folder
        self._pki = pki
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self.leader = PromptLeader()
        self.image_row = an_image(name="remembered")
        """An image for tests to insert."""
        self.api: Api
        self.host: Host

    @property
    def socket(self) -> Path:
        """The API's unix socket."""
        return self._folder / "api.sock"

    def __enter__(self) -> ServedApi:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the API's loop and return what it returned."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def lead(self, work: Callable[[Any], Any]) -> Any:
        """Run work in a transaction of the leader, and number its events."""

        def both(conn: Any) -> Any:
            result = work(conn)
            events.stamp(conn, 1000)
            return result

        return self.do(self.api.lead(both))

    async def _open(self) -> None:
        opened = an_api(self._folder, leading=self.leader, pki=self._pki)
        self.api = await self._stack.enter_async_context(opened)
        self.host = a_host(name="h1", features=(MACHINE_SPECS,))
        self.leader.host = self.host
        await self.api.lead(lambda conn: hosts.insert(conn, self.host))
        self.api.live.set_endpoint(Endpoint(self.host.id, self.host.address, self.host.tls_name))
        self.api.live.put_sample(UsageSample(self.host.id, _USAGE, ()))
        self.leader.settling = self._settle

    async def _settle(self) -> None:
        await self.api.lead(self.leader.settle)


_USAGE = HostUsage(
    sample_time=NOON,
    interval_s=2.0,
    cpu_used_cores=1.0,
    cpu_used_ratio=0.125,
    cpu_wait_cores=0.25,
    cpu_pressure_ratio=0.03,
    memory_pressure_ratio=0.0,
    memory_full_pressure_ratio=0.0,
    io_pressure_ratio=0.01,
    io_full_pressure_ratio=0.0,
    memory_total_bytes=16 << 30,
    memory_available_bytes=12 << 30,
    disk_available_bytes=90 << 30,
    disk_read_bytes_per_s=0.0,
    disk_write_bytes_per_s=4096.0,
    machines_running=2,
)

"""The agent's registry over a real etcd: leases, wipes, silence, and schedulers remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from tests.support.etcd import EtcdServer, running_etcd
from unkai_agent.registry import EtcdRegistry
from unkai_wire.cluster_records import (
    HOST_LEASE_TTL_S,
    HOSTS_PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
    scheduler_key,
)

pytestmark = pytest.mark.real


def a_record(number: int = 1) -> HostRecord:
    return HostRecord(
        host_id=f"hst-{number}",
        name=f"h{number}",
        address="127.0.0.1:7444",
        tls_name="x",
        cpus=2,
        memory_bytes=1,
        disk_bytes=1,
        accelerator="tcg",
        accelerator_reason="",
        traits=("A",),
        boot_id="b",
        agent_version="1",
    )


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path) as server:
        yield server


def hosts_in(etcd: EtcdServer) -> list[HostRecord]:
    with closing(etcd.client()) as client:
        return [HostRecord.from_json(value) for value, _ in client.get_prefix(HOSTS_PREFIX)]


def a_registry(etcd: EtcdServer, folder: Path, *others: str) -> EtcdRegistry:
    return EtcdRegistry(
        [*others, etcd.endpoint], None, remember=folder / "schedulers.json", timeout_s=1.0
    )


@asynccontextmanager
async def running(registry: EtcdRegistry) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(registry.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(is_so: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - another loop or process changes it
            await asyncio.sleep(0.1)


async def test_hosts_are_there_while_it_runs_and_gone_when_it_ends(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    registry = a_registry(etcd, tmp_path)
    async with running(registry):
        registry.put(a_record(1))
        registry.put(a_record(2))
        await asyncio.wait_for(registry.registered(), 30)
        assert hosts_in(etcd) == [a_record(1), a_record(2)]
        await asyncio.sleep(8)
        assert len(hosts_in(etcd)) == 2
    await until(lambda: hosts_in(etcd) == [], HOST_LEASE_TTL_S - 1)


async def test_a_fleet_s_hosts_are_all_there_and_stay(etcd: EtcdServer, tmp_path: Path) -> None:
    """One put a host takes longer than the lease lives."""
    registry = a_registry(etcd, tmp_path)
    records = [a_record(number) for number in range(10_000)]
    for record in records:
        registry.put(record)
    async with running(registry):
        await asyncio.wait_for(registry.registered(), 60)
        assert len(hosts_in(etcd)) == len(records)
        await asyncio.sleep(HOST_LEASE_TTL_S + 2)
        assert len(hosts_in(etcd)) == len(records)


async def test_after_a_wipe_and_after_a_deletion_the_record_is_written_again(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    registry = a_registry(etcd, tmp_path)
    async with running(registry):
        registry.put(a_record())
        await asyncio.wait_for(registry.registered(), 30)
        await asyncio.to_thread(etcd.wipe)
        await until(lambda: hosts_in(etcd) == [a_record()])
        etcd.delete(host_key("hst-1"))
        await until(lambda: hosts_in(etcd) == [a_record()])


async def test_a_frozen_etcd_is_outlived_and_a_dead_endpoint_passed_over(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    registry = a_registry(etcd, tmp_path, "127.0.0.1:1")
    async with running(registry):
        registry.put(a_record())
        await asyncio.wait_for(registry.registered(), 30)
        etcd.freeze()
        await asyncio.sleep(4)
        etcd.thaw()
        # What was written before is there still: that the agent goes on shows when it is gone.
        etcd.delete(host_key("hst-1"))
        await until(lambda: hosts_in(etcd) == [a_record()])


async def test_schedulers_are_found_and_remembered_while_etcd_is_away(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        record = SchedulerRecord(name=name, address=f"{name}:7443", version="1")
        etcd.put(scheduler_key(name), record.to_json())
    etcd.put(scheduler_key("z"), "a newer version's")
    registry = a_registry(etcd, tmp_path)
    async with running(registry):
        registry.put(a_record())
        await asyncio.wait_for(registry.registered(), 30)
        await until(lambda: list(registry.scheduler_addresses()) == ["a:7443", "b:7443"])
        await until((tmp_path / "schedulers.json").exists)
    etcd.stop()
    again = a_registry(etcd, tmp_path)
    assert list(again.scheduler_addresses()) == ["a:7443", "b:7443"]
    async with running(again) as task:
        again.put(a_record())
        await asyncio.sleep(2)
        assert not task.done()

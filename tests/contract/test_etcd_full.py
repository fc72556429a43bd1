"""An etcd that has used up its room: both roles say so, read on, and write once it is mended."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from tests.contract.test_agent_registry import a_record, a_registry
from tests.support.acceptance import Shows
from tests.support.etcd import EtcdServer
from unkai_scheduler.cluster.etcd import EtcdCluster
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.errors import Unavailable

pytestmark = pytest.mark.real
QUOTA_BYTES = 4 << 20


@pytest.fixture
def full(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.quota_bytes = QUOTA_BYTES
    server.start()
    try:
        with contextlib.closing(server.client()) as client, contextlib.suppress(grpc.RpcError):
            for number in range(64):
                client.put(f"/ballast/{number}", b"x" * (512 << 10))
        yield server
    finally:
        server.stop()


def _mend(server: EtcdServer) -> None:
    with contextlib.closing(server.client()) as client:
        client.delete_prefix("/ballast/")
        revision = client.get_prefix_response("/none").header.revision
        client.compact(revision, physical=True)
        client.defragment()
    command = ["etcdctl", "--endpoints", server.endpoint, "alarm", "disarm"]
    subprocess.run(command, check=True, capture_output=True, timeout=20)


async def test_a_scheduler_says_so_reads_on_and_registers_once_there_is_room(
    full: EtcdServer, shows: Shows
) -> None:
    cluster = EtcdCluster([full.endpoint], None, "s1")
    try:
        with pytest.raises(Unavailable) as caught:
            await cluster.register(SchedulerRecord("s1", "127.0.0.1:7443", "1"))
        assert caught.value.reason == "ETCD_FULL"
        assert "alarm disarm" in caught.value.fix
        await cluster.read()
        _mend(full)
        await cluster.register(SchedulerRecord("s1", "127.0.0.1:7443", "1"))
        shows(
            "solid 7 full disk, etcd", "ETCD_FULL with its fix; reads go on; mended, it registers"
        )
    finally:
        await cluster.close()


async def test_an_agent_says_so_and_registers_once_there_is_room(
    full: EtcdServer, tmp_path: Path
) -> None:
    import asyncio

    registry = a_registry(full, tmp_path)
    registry.put(a_record())
    with capture_logs() as logs:
        running = asyncio.create_task(registry.run())
        async with asyncio.timeout(20):
            while not any(line.get("reason") == "ETCD_FULL" for line in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.to_thread(_mend, full)
        async with asyncio.timeout(30):
            await registry.registered()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

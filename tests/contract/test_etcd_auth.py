"""In a real etcd each certificate writes what is its own alone, and the daemons live with that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from etcd3 import etcdrpc

from tests.support.etcd import EtcdServer, running_etcd
from unkai_agent.registry import EtcdRegistry
from unkai_scheduler import certificates
from unkai_scheduler.cluster import etcd_auth
from unkai_scheduler.cluster.etcd import EtcdCluster
from unkai_wire.cluster_records import (
    LEADER_KEY,
    PREFIX,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
    scheduler_key,
)
from unkai_wire.errors import Unavailable
from unkai_wire.fleets import fleet_host_id
from unkai_wire.ids import new_id
from unkai_wire.tls import Principal, Role, TlsFiles, host_tls_name

pytestmark = pytest.mark.real

H1, H2 = new_id("host"), new_id("host")
F1, F9 = fleet_host_id("lab", 1), fleet_host_id("lab", 9)

REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
"""The second is what one hears who is no user at all (etcd, rpctypes.ErrUserEmpty)."""


class Guarded:
    """A real etcd that asks for permission, and a certificate of each party."""

    def __init__(self, folder: Path) -> None:
        self.authority = certificates.init(folder / "pki")
        self.h1 = self.write(self.authority.issue_host("h1", host_id=H1), folder / "h1")
        self.h2 = self.write(self.authority.issue_host("h2", host_id=H2), folder / "h2")
        self.fleet = self.write(self.authority.issue_fleet("lab"), folder / "fleet")
        self.scheduler = self.write(self.authority.issue_etcd_client("s1"), folder / "s1")
        self.person = self.write(self.authority.issue_client("eve"), folder / "eve")
        self.monitor = self.write(self.authority.issue_monitor("mon"), folder / "mon")
        server = self.authority.issue_etcd("one", ["127.0.0.1"])
        self.server = self.write(server, folder / "etcd-pki")

    @staticmethod
    def write(bundle: certificates.Bundle, folder: Path) -> TlsFiles:
        certificate, key, ca = bundle.write(folder)
        return TlsFiles(ca, certificate, key)

    def secure(self, etcd: EtcdServer) -> list[str]:
        said: list[str] = []
        issued = self.authority.issued()
        etcd_auth.secure([etcd.endpoint], self.root(), issued, said.append)
        return said

    def root(self) -> grpc.ChannelCredentials:
        root = self.authority.etcd_root()
        return grpc.ssl_channel_credentials(root.ca, root.key, root.certificate)


@pytest.fixture
def parties(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


@pytest.fixture
def etcd(tmp_path: Path, parties: Guarded) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path, server=parties.server) as server:
        parties.secure(server)
        yield server


def refused(etcd: EtcdServer, tls: TlsFiles, deed: Callable[[Any], object]) -> bool:
    """Do something with a certificate; tell whether etcd refused it."""
    with contextlib.closing(etcd.client(tls)) as client:
        try:
            deed(client)
        except grpc.RpcError as error:
            return error.code() in REFUSALS
        return False


def test_a_host_writes_its_own_record_and_no_other_key(etcd: EtcdServer, parties: Guarded) -> None:
    h1 = parties.h1
    assert not refused(etcd, h1, lambda c: c.put(host_key(H1), "mine"))
    assert not refused(etcd, h1, lambda c: c.get(host_key(H1)))
    assert not refused(etcd, h1, lambda c: list(c.get_prefix(SCHEDULERS_PREFIX)))

    for key in (
        host_key(H2),
        host_key(H1) + "x",
        host_key(H1)[:-1],
        LEADER_KEY,
        scheduler_key("s1"),
        PREFIX,
        "/other",
    ):
        assert refused(etcd, h1, lambda c, key=key: c.put(key, "forged")), key
        assert refused(etcd, h1, lambda c, key=key: c.delete(key)), key
    assert refused(etcd, h1, lambda c: c.delete_prefix(PREFIX))
    assert refused(etcd, h1, lambda c: list(c.get_prefix(PREFIX)))
    assert refused(
        etcd,
        h1,
        lambda c: c.transaction(
            compare=[c.transactions.version(host_key(H1)) == 0],
            success=[c.transactions.put(LEADER_KEY, "forged")],
            failure=[c.transactions.put(LEADER_KEY, "forged")],
        ),
    )


def test_a_fleet_writes_the_records_of_its_own_hosts_alone(
    etcd: EtcdServer, parties: Guarded
) -> None:
    fleet = parties.fleet
    for ident in (F1, F9, fleet_host_id("lab", 65535)):
        assert not refused(etcd, fleet, lambda c, ident=ident: c.put(host_key(ident), "mine"))
    for ident in (H1, fleet_host_id("other", 1)):
        assert refused(etcd, fleet, lambda c, ident=ident: c.put(host_key(ident), "forged"))
    assert refused(etcd, fleet, lambda c: c.put(LEADER_KEY, "forged"))


def test_a_person_a_monitor_and_an_etcd_member_may_nothing_in_etcd(
    etcd: EtcdServer, parties: Guarded
) -> None:
    for tls in (parties.person, parties.monitor, parties.server):
        assert refused(etcd, tls, lambda c: c.get(host_key(H1)))
        assert refused(etcd, tls, lambda c: c.put(host_key(H1), "forged"))


def test_a_host_may_not_change_users_members_or_alarms(etcd: EtcdServer, parties: Guarded) -> None:
    rpc = etcdrpc
    for deed in (
        lambda c: c.authstub.AuthDisable(rpc.AuthDisableRequest(), timeout=2),
        lambda c: c.authstub.UserAdd(rpc.AuthUserAddRequest(name="x", password="y"), timeout=2),
        lambda c: c.authstub.UserGrantRole(
            rpc.AuthUserGrantRoleRequest(user=H1, role="root"), timeout=2
        ),
        lambda c: c.add_member(["http://127.0.0.1:1"]),
    ):
        assert refused(etcd, parties.h1, deed)


def test_another_s_lease_is_neither_ended_nor_joined(etcd: EtcdServer, parties: Guarded) -> None:
    with contextlib.closing(etcd.client(parties.h2)) as h2:
        lease = h2.lease(60).id
        h2.put(host_key(H2), "mine", lease=lease)

    assert refused(etcd, parties.h1, lambda c: c.revoke_lease(lease))
    assert refused(etcd, parties.h1, lambda c: c.put(host_key(H1), "mine", lease=lease))


def test_the_json_gateway_lends_nobody_the_server_s_rights(
    etcd: EtcdServer, parties: Guarded
) -> None:
    context = ssl.create_default_context(cafile=str(parties.h1.ca))
    context.load_cert_chain(parties.h1.certificate, parties.h1.key)
    body = {"key": b64encode(host_key(H2).encode()).decode(), "value": "eA=="}
    request = urllib.request.Request(
        f"https://{etcd.endpoint}/v3/kv/put", json.dumps(body).encode(), method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, context=context, timeout=5)
    assert caught.value.code in (400, 401, 403, 404)


def test_securing_again_changes_nothing_and_mends_what_was_changed(
    etcd: EtcdServer, parties: Guarded
) -> None:
    assert all(not line.startswith("granted") for line in parties.secure(etcd))
    with grpc.secure_channel(etcd.endpoint, parties.root()) as channel:
        everything = {"permType": 2, "key": b"\0", "range_end": b"\0"}
        etcdrpc.AuthStub(channel).RoleGrantPermission(
            etcdrpc.AuthRoleGrantPermissionRequest(name=H1, perm=everything), timeout=5
        )
    assert not refused(etcd, parties.h1, lambda c: c.put(host_key(H2), "forged"))

    assert f"granted {H1}" in parties.secure(etcd)

    assert refused(etcd, parties.h1, lambda c: c.put(host_key(H2), "forged"))
    assert not refused(etcd, parties.h1, lambda c: c.put(host_key(H1), "mine"))


def test_a_revoked_host_is_shut_out_and_its_record_gone(etcd: EtcdServer, parties: Guarded) -> None:
    with contextlib.closing(etcd.client(parties.h1)) as h1:
        h1.put(host_key(H1), "mine", lease=h1.lease(600).id)

    etcd_auth.revoke([etcd.endpoint], parties.root(), Principal(Role.HOST, "h1", H1))
    etcd_auth.revoke([etcd.endpoint], parties.root(), Principal(Role.HOST, "h1", H1))

    assert refused(etcd, parties.h1, lambda c: c.put(host_key(H1), "again"))
    with contextlib.closing(etcd.client(parties.scheduler)) as scheduler:
        assert scheduler.get(host_key(H1))[0] is None


def a_record(ident: str) -> HostRecord:
    return HostRecord(
        host_id=ident,
        name="h1",
        address="127.0.0.1:7444",
        tls_name=host_tls_name(ident),
        cpus=2,
        memory_bytes=1 << 30,
        disk_bytes=1 << 34,
        accelerator="tcg",
        accelerator_reason="",
        traits=(),
        boot_id="b",
        agent_version="1",
    )


@contextlib.asynccontextmanager
async def daemons(
    etcd: EtcdServer, parties: Guarded, folder: Path
) -> AsyncIterator[tuple[EtcdCluster, EtcdRegistry]]:
    """Run a scheduler's and an agent's side with their own certificates."""
    cluster = EtcdCluster([etcd.endpoint], parties.scheduler, "s1")
    registry = EtcdRegistry([etcd.endpoint], parties.h1, remember=folder / "s.json", timeout_s=1.0)
    registry.put(a_record(H1))
    running = asyncio.create_task(registry.run())
    try:
        with contextlib.suppress(Exception):
            await cluster.register(SchedulerRecord("s1", "127.0.0.1:7443", "1"))
        yield cluster, registry
    finally:
        running.cancel()
        await asyncio.wait([running])
        await cluster.close()


async def sees_the_host(cluster: EtcdCluster) -> None:
    async with asyncio.timeout(20):
        async for membership in cluster.watch():
            if H1 in membership.hosts and "s1" in membership.schedulers:
                return


async def wins(cluster: EtcdCluster) -> None:
    async with asyncio.timeout(20), contextlib.aclosing(cluster.lead()) as turns:
        assert await anext(turns)


async def test_daemons_work_and_outlive_a_restart_of_etcd(
    etcd: EtcdServer, parties: Guarded, tmp_path: Path
) -> None:
    async with daemons(etcd, parties, tmp_path) as (cluster, registry):
        await asyncio.wait_for(registry.registered(), 10)
        await sees_the_host(cluster)
        await wins(cluster)
        async with asyncio.timeout(10):
            while list(registry.scheduler_addresses()) != ["127.0.0.1:7443"]:  # noqa: ASYNC110 - it looks every 2 s
                await asyncio.sleep(0.1)

        await asyncio.to_thread(etcd.stop)
        await asyncio.to_thread(etcd.start)

        await sees_the_host(cluster)
        await wins(cluster)


async def test_a_wiped_etcd_serves_at_once_and_is_secured_again(
    etcd: EtcdServer, parties: Guarded, tmp_path: Path
) -> None:
    async with daemons(etcd, parties, tmp_path) as (cluster, registry):
        await asyncio.wait_for(registry.registered(), 10)
        await asyncio.to_thread(etcd.wipe)
        await sees_the_host(cluster)

        said = await asyncio.to_thread(parties.secure, etcd)

        assert f"granted {H1}" in said
        await sees_the_host(cluster)
        assert refused(etcd, parties.h2, lambda c: c.put(host_key(H1), "forged"))
        await asyncio.sleep(8)  # longer than the lease: the host renews it still
        assert H1 in (await cluster.read()).hosts


async def test_a_certificate_that_etcd_does_not_know_is_told_so_and_admitted_later(
    etcd: EtcdServer, parties: Guarded, tmp_path: Path
) -> None:
    ident = new_id("host")
    late = parties.write(parties.authority.issue_host("h3", host_id=ident), tmp_path / "h3")
    registry = EtcdRegistry([etcd.endpoint], late, remember=tmp_path / "s.json", timeout_s=1.0)
    registry.put(a_record(ident))
    stranger = EtcdCluster([etcd.endpoint], late, "s9")
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as caught:
        await stranger.register(SchedulerRecord("s9", "127.0.0.1:7443", "1"))
    await stranger.close()
    assert caught.value.reason == "ETCD_REFUSED"
    assert logs == []

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(registry.run())
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(registry.registered(), 2)
            await asyncio.to_thread(parties.secure, etcd)
            await asyncio.wait_for(registry.registered(), 10)
        finally:
            running.cancel()
            await asyncio.wait([running])
    assert [line["reason"] for line in logs if line["event"] == "etcd_unavailable"] == [
        "ETCD_REFUSED"
    ]


async def test_a_scheduler_warns_of_an_etcd_that_asks_nobody(
    etcd: EtcdServer, parties: Guarded
) -> None:
    async def warnings() -> list[str]:
        with structlog.testing.capture_logs() as logs:
            cluster = EtcdCluster([etcd.endpoint], parties.scheduler, "s1")
            await cluster.register(SchedulerRecord("s1", "127.0.0.1:7443", "1"))
            await cluster.close()
        return [line["event"] for line in logs]

    assert await warnings() == []
    await asyncio.to_thread(etcd.wipe)
    assert await warnings() == ["etcd_open_to_every_certificate"]

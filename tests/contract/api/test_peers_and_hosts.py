"""Hosts with their live figures, from the leader and through any other scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.api import Api, FakeLeading, an_api, refused, tls_files
from tests.support.builders import NOON, a_host
from unkai.compute.v1 import instance_service_pb2
from unkai.event.v1 import event_service_pb2
from unkai.host.v1 import host_pb2, host_service_pb2
from unkai.scheduler.v1 import peer_service_pb2, peer_service_pb2_grpc
from unkai_scheduler import certificates
from unkai_scheduler.agents.fake_host import idle_usage
from unkai_scheduler.agents.port import UsageSample
from unkai_scheduler.api.callers import Caller, calling, principal_of_text
from unkai_scheduler.api.peers import LeaderRoute, PeerWaker
from unkai_scheduler.cluster.fake import FakeEtcd
from unkai_scheduler.domain.hosts import Host, HostState
from unkai_scheduler.store import hosts
from unkai_wire.cluster_records import SchedulerRecord
from unkai_wire.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from unkai_wire.tls import SCHEDULER_TLS_NAME, channel_options

pb = host_service_pb2


async def a_known_host(api: Api, name: str = "h1", *, live: bool = True) -> Host:
    host = a_host(name=name)
    await api.lead(lambda conn: hosts.insert(conn, host))
    if live:
        api.live.put_sample(UsageSample(host.id, idle_usage(host.memory_bytes, NOON), ()))
    return host


async def get(api: Api, host: Host) -> host_pb2.Host:
    return (await api.hosts.GetHost(pb.GetHostRequest(host_id=host.id))).host


@asynccontextmanager
async def two_schedulers(folder: Path) -> AsyncIterator[tuple[Api, Api, FakeEtcd]]:
    """Serve a leader and a replica on one store, with certificates of one CA."""
    pki = folder / "pki"
    certificates.init(pki).issue_scheduler("s1", ["127.0.0.1"]).write(pki)
    etcd = FakeEtcd()
    async with an_api(folder / "leader", pki=pki, cluster=etcd.member("s1")) as leader:
        etcd.leader = SchedulerRecord("s1", f"127.0.0.1:{leader.port}", "0")
        async with an_api(
            folder / "replica",
            name="s2",
            pki=pki,
            cluster=etcd.member("s2"),
            uow=leader.uow,
            leading=FakeLeading(is_leading=False),
        ) as replica:
            yield leader, replica, etcd


async def test_a_host_shows_what_may_be_claimed_and_its_newest_sample(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        host = await a_known_host(api)
        shown = await get(api, host)
        page = await api.hosts.ListHosts(pb.ListHostsRequest())
    assert shown.claimable_vcpus == host.cpus * 4
    assert shown.claimable_memory_bytes == host.memory_bytes
    assert shown.usage.memory_total_bytes == host.memory_bytes
    assert shown.usage_age_s >= 0
    assert [h.id for h in page.hosts] == [host.id]


async def test_a_host_without_a_sample_shows_none(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        shown = await get(api, await a_known_host(api, live=False))
    assert not shown.HasField("usage")


async def test_cordoning_is_kept_with_its_reason_until_uncordoned(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        host = await a_known_host(api)
        cordon = pb.CordonHostRequest(host_id=host.id, reason="new disk")
        cordoned = (await api.hosts.CordonHost(cordon)).host
        again = (await api.hosts.CordonHost(cordon)).host
        freed = (await api.hosts.UncordonHost(pb.UncordonHostRequest(host_id=host.id))).host
        long = pb.CordonHostRequest(host_id=host.id, reason="x" * 256)
        assert (await refused(api.hosts.CordonHost(long))).reason == "TEXT_TOO_LONG"
    assert (cordoned.cordoned, cordoned.cordon_reason) == (True, "new disk")
    assert again.etag == cordoned.etag
    assert (freed.cordoned, freed.cordon_reason) == (False, "")


def to_zone(host_id: str, zone: str, *, paths: Sequence[str] = ("zone",), **more: Any) -> Any:
    etag = more.pop("etag", "")
    wanted = host_pb2.Host(id=host_id, zone=zone, etag=etag)
    return pb.UpdateHostRequest(host=wanted, update_mask=FieldMask(paths=paths), **more)


async def test_a_host_is_in_the_zone_that_the_operator_says(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        host = await a_known_host(api)
        before = await get(api, host)
        change = to_zone(host.id, "room-2", etag=before.etag, request_id="r-1")
        moved = (await api.hosts.UpdateHost(change)).host
        again = (await api.hosts.UpdateHost(change)).host
        same = (await api.hosts.UpdateHost(to_zone(host.id, "room-2"))).host
        late = await refused(api.hosts.UpdateHost(to_zone(host.id, "x", etag=before.etag)))
        await api.stamp()
        told = await api.events.ListEvents(event_service_pb2.ListEventsRequest(resource_id=host.id))

    assert (before.zone, moved.zone) == ("default", "room-2")
    assert moved.etag != before.etag
    assert (again.etag, same.etag) == (moved.etag, moved.etag)
    assert late.reason == "ETAG_MISMATCH"
    assert [event.message for event in told.events] == [
        "host h1 is in zone room-2 now; it was in default"
    ]


async def test_a_host_that_is_gone_is_removed_on_an_operator_s_word(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        host = await a_known_host(api, live=False)
        remove = pb.RemoveHostRequest(host_id=host.id, statement="burnt", request_id="r-1")
        assert (await refused(api.hosts.RemoveHost(remove))).reason == "HOST_NOT_GONE"
        api.leading.gone_hosts.add(host.id)
        removed = await api.hosts.RemoveHost(remove)
        again = await api.hosts.RemoveHost(remove)
        gone = await refused(api.hosts.GetHost(pb.GetHostRequest(host_id=host.id)))
        silent = pb.RemoveHostRequest(host_id=host.id)
        assert (await refused(api.hosts.RemoveHost(silent))).reason == "STATEMENT_REQUIRED"
    assert removed.host.name == host.name
    assert again == removed
    assert gone.reason == "HOST_NOT_FOUND"
    assert api.leading.forgotten_hosts[0] == host.id


async def test_usage_is_watched_for_the_hosts_asked_for(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        one, two = await a_known_host(api, "h1"), await a_known_host(api, "h2")
        watch = api.hosts.WatchUsage(pb.WatchUsageRequest(host_ids=[two.id]))
        async with asyncio.timeout(5):
            assert (await watch.read()).host_id == two.id
            for host in (one, two):
                api.live.put_sample(UsageSample(host.id, idle_usage(1, NOON), ()))
            newest = await watch.read()
        watch.cancel()
    assert (newest.host_id, newest.host.memory_total_bytes) == (two.id, 1)


async def test_a_replica_shows_the_leader_s_live_figures(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        host = await a_known_host(leader)
        shown = await get(replica, host)
        watch = replica.hosts.WatchUsage(pb.WatchUsageRequest())
        async with asyncio.timeout(5):
            assert (await watch.read()).host_id == host.id
        watch.cancel()
    assert shown.HasField("usage")


@pytest.mark.parametrize("through", ["leader", "replica"])
async def test_a_watch_of_usage_ends_as_unavailable_when_the_reign_ends(
    tmp_path: Path, through: str
) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        host = await a_known_host(leader)
        asked = leader if through == "leader" else replica
        watch = asked.hosts.WatchUsage(pb.WatchUsageRequest())
        async with asyncio.timeout(5):
            assert (await watch.read()).host_id == host.id
            leader.leading.is_leading = False
            leader.live.clear()
            ended = await refused(watch.read())
    assert (type(ended), ended.reason) == (Unavailable, "NOT_LEADER")


async def test_a_console_is_reached_through_a_replica(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        ident = (await replica.create("web")).instance.id
        await leader.place(ident)
        kind = instance_service_pb2.AttachConsoleRequest

        async def typed() -> AsyncIterator[Any]:
            yield kind(open=kind.Open(instance_id=ident))
            yield kind(input=b"ls\n")

        async with asyncio.timeout(5):
            got = [r.output async for r in replica.instances.AttachConsole(typed())]
    assert got == [b"", b"echo ls\n"]


@pytest.mark.parametrize("etcd_is_away", [False, True])
async def test_consoles_go_on_while_nobody_leads(tmp_path: Path, etcd_is_away: bool) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, etcd):
        ident = (await replica.create("web")).instance.id
        host = await leader.place(ident)
        leader.leading.is_leading = False
        leader.live.clear()
        etcd.leader = None
        if etcd_is_away:
            etcd.stop()
        kind = instance_service_pb2.AttachConsoleRequest
        read = instance_service_pb2.ReadConsoleLogRequest(instance_id=ident)

        async def typed() -> AsyncIterator[Any]:
            yield kind(open=kind.Open(instance_id=ident))
            yield kind(input=b"ls\n")

        for api in (leader, replica):
            async with asyncio.timeout(5):
                told = [r.output async for r in api.instances.AttachConsole(typed())]
                logged = [r.output async for r in api.instances.ReadConsoleLog(read)]
            assert (told, logged) == ([b"", b"echo ls\n"], [b"login: "])

        silent = replace(host, state=HostState.UNKNOWN)
        await leader.uow.write(lambda conn: hosts.replace(conn, silent, etag=None))
        caught = await refused(replica.instances.ReadConsoleLog(read).read())
    assert (type(caught), caught.reason) == (Unavailable, "HOST_UNREACHABLE")


async def test_what_is_typed_at_once_does_not_hide_that_the_leader_refuses(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        unplaced = (await replica.create("web")).instance.id
        kind = instance_service_pb2.AttachConsoleRequest
        opened = kind(open=kind.Open(instance_id=unplaced)).SerializeToString()

        async def typed() -> AsyncIterator[bytes]:
            while True:
                yield kind(input=b"x" * 60_000).SerializeToString()
                await asyncio.sleep(0)

        etcd = FakeEtcd()
        etcd.leader = SchedulerRecord("s1", f"127.0.0.1:{leader.port}", "0")
        tls = tls_files(tmp_path / "pki", "scheduler")
        route = LeaderRoute("s2", etcd.member("s2"), FakeLeading(is_leading=False), tls)
        method = "/unkai.compute.v1.InstanceService/AttachConsole"
        caller = Caller(principal_of_text("client:admin"), method)
        for _ in range(20):
            with calling(caller), pytest.raises(FailedPrecondition) as caught:
                async with aclosing(route.forward(method, opened, typed(), hops_left=0)) as answers:
                    await anext(answers)
            assert caught.value.reason == "INSTANCE_NOT_PLACED"
        await route.close()


async def test_a_console_that_is_not_opened_first_is_refused_through_a_replica_too(
    tmp_path: Path,
) -> None:
    async def nothing() -> AsyncIterator[Any]:
        for _ in ():
            yield

    async with two_schedulers(tmp_path) as (leader, replica, _):
        for api in (leader, replica):
            caught = await refused(api.instances.AttachConsole(nothing()).read())
            assert type(caught) is InvalidArgument


async def test_an_error_of_the_leader_reaches_the_replica_s_client(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (_, replica, _etcd):
        request = pb.GetHostRequest(host_id="hst-01m81dvqxpet3rww6hvj271aqz")
        caught = await refused(replica.hosts.GetHost(request))
    assert caught.reason == "HOST_NOT_FOUND"


async def test_without_a_leader_hosts_are_shown_without_figures_and_streams_refused(
    tmp_path: Path,
) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, etcd):
        host = await a_known_host(leader)
        etcd.leader = None
        assert not (await get(replica, host)).HasField("usage")
        caught = await refused(replica.hosts.WatchUsage(pb.WatchUsageRequest()).read())
    assert (type(caught), caught.reason) == (Unavailable, "NO_LEADER")


async def test_a_call_is_passed_on_once_at_most(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        host = await a_known_host(leader)
        leader.leading.is_leading = False  # both believe that the other leads
        caught = await refused(_proxy(tmp_path, replica.port, host, hops_left=0))
        assert (type(caught), caught.reason) == (Unavailable, "NOT_LEADER")
        leader.leading.is_leading = True
        answer = await _proxy(tmp_path, replica.port, host, hops_left=1)
        too_far = await refused(_proxy(tmp_path, replica.port, host, hops_left=2))
    assert pb.GetHostResponse.FromString(answer.message).host.id == host.id
    assert too_far.reason == "NOT_LEADER"


@pytest.mark.parametrize(
    ("method", "principal"),
    [
        ("/unkai.compute.v1.InstanceService/DeleteInstance", "local"),
        ("/unkai.host.v1.HostService/GetHost", "host:h1"),
    ],
)
async def test_only_live_methods_are_proxied_and_only_for_those_who_may(
    tmp_path: Path, method: str, principal: str
) -> None:
    async with two_schedulers(tmp_path) as (leader, _, _etcd):
        host = await a_known_host(leader)
        call = _proxy(tmp_path, leader.port, host, 1, method=method, principal=principal)
        assert type(await refused(call)) is PermissionDenied


async def _proxy(
    folder: Path,
    port: int,
    host: Host,
    hops_left: int,
    *,
    method: str = "/unkai.host.v1.HostService/GetHost",
    principal: str = "client:admin",
) -> Any:
    credentials = tls_files(folder / "pki", "scheduler").channel_credentials()
    options = channel_options(SCHEDULER_TLS_NAME)
    kind = peer_service_pb2.ProxyRequest

    message = pb.GetHostRequest(host_id=host.id).SerializeToString()

    async def requests() -> AsyncIterator[Any]:
        yield kind(method=method, hops_left=hops_left, principal=principal, message=message)
        await over.wait()

    over = asyncio.Event()
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            return await peer_service_pb2_grpc.PeerServiceStub(channel).Proxy(requests()).read()
        finally:
            over.set()


async def test_a_replica_s_wake_reaches_the_leader(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, _, etcd):
        tls = tls_files(tmp_path / "pki", "scheduler")
        elsewhere = FakeLeading(is_leading=False)
        route = LeaderRoute("s2", etcd.member("s2"), elsewhere, tls)
        waker = PeerWaker(route, elsewhere)
        running = asyncio.ensure_future(waker.run())
        waker.wake(["ins-1"])
        async with asyncio.timeout(5):
            await leader.leading.woken.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await route.close()
    assert elsewhere.wakes == 0

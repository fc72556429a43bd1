"""The agent's services over real gRPC: the unix socket, and mTLS with certificates of our CA."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.agent import IMAGE, a_spec, an_instance_id
from tests.support.ports import a_full_port, a_port
from tests.support.served_agent import HOST_ID, a_host_on_fakes, host_tls
from unkai.agent.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    machine_pb2,
    machine_service_pb2,
    machine_service_pb2_grpc,
    network_service_pb2,
    storage_service_pb2,
    storage_service_pb2_grpc,
)
from unkai.agent.v1.fence_pb2 import Fence
from unkai.compute.v1.instance_pb2 import Instance
from unkai.storage.v1.image_pb2 import Image
from unkai_agent.api.convert_ports import port_message
from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.policy import POLICY
from unkai_agent.api.server import SERVICES, AgentServer
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.host import RunningHost
from unkai_scheduler.agents.client import GrpcAgents
from unkai_scheduler.agents.port import Endpoint
from unkai_scheduler.certificates import Authority, init
from unkai_wire.doctor.findings import Report
from unkai_wire.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    UnkaiError,
)
from unkai_wire.ids import encode, uuid7
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import Role, TlsFiles, channel_options, host_tls_name

OTHER_ID = encode("hst", uuid7(0, 2))
M = machine_service_pb2
ID = an_instance_id()


@dataclass
class Site:
    """One server with two hosts behind it."""

    socket: Path
    port: int
    authority: Authority
    hosts: dict[str, RunningHost]
    computes: dict[str, FakeCompute]
    folder: Path

    def tls(self, kind: str) -> TlsFiles:
        makers = {
            "scheduler": lambda: self.authority.issue_scheduler("s1"),
            "client": lambda: self.authority.issue_client("admin"),
            "host": lambda: self.authority.issue_host("h9"),
        }
        folder = self.folder / kind
        if not folder.exists():
            folder.mkdir()
            makers[kind]().write(folder)
        stem = {"client": "client-admin"}.get(kind, kind)
        return TlsFiles(folder / "ca.crt", folder / f"{stem}.crt", folder / f"{stem}.key")

    @asynccontextmanager
    async def channel(self, kind: str) -> AsyncIterator[grpc.aio.Channel]:
        if kind == "local":
            channel = grpc.aio.insecure_channel(f"unix:{self.socket}")
        else:
            channel = grpc.aio.secure_channel(
                f"127.0.0.1:{self.port}",
                self.tls(kind).channel_credentials(),
                options=channel_options(host_tls_name(HOST_ID)),
            )
        try:
            yield channel
        finally:
            await channel.close()

    @asynccontextmanager
    async def machines(
        self, kind: str
    ) -> AsyncIterator[machine_service_pb2_grpc.MachineServiceStub]:
        async with self.channel(kind) as channel:
            yield machine_service_pb2_grpc.MachineServiceStub(channel)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    authority = init(tmp_path / "ca")
    tls = host_tls(tmp_path / "pki", authority)
    computes = {ident: FakeCompute(write_console_logs=True) for ident in (HOST_ID, OTHER_ID)}
    hosts = {ident: a_host_on_fakes(tmp_path, ident, computes[ident]) for ident in computes}
    directory = HostDirectory({ident: host.host for ident, host in hosts.items()})
    server = AgentServer(directory)
    port = server.listen("127.0.0.1:0", tls)
    server.listen_locally(tmp_path / "agent.sock")
    running = [asyncio.create_task(host.run()) for host in hosts.values()]
    await server.start()
    for host in hosts.values():
        host.converger.ready()
    yield Site(tmp_path / "agent.sock", port, authority, hosts, computes, tmp_path)
    await server.stop(0)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def an_order(**changes: object) -> M.EnsureMachineRequest:
    spec = a_spec()
    generation = int(str(changes.pop("generation", 1)))
    request = M.EnsureMachineRequest(
        host_id=HOST_ID,
        fence=Fence(term=1, generation=generation, run_epoch=1),
        spec=machine_pb2.MachineSpec(
            instance=Instance(
                id=ID,
                name=spec.name,
                project_id=spec.project_id,
                vcpus=1,
                memory_bytes=1 << 30,
                desired_power=Instance.POWER_ON,
                labels={"tier": "web"},
            ),
            disks=[
                machine_pb2.DiskSpec(
                    name="root",
                    size_bytes=2 << 30,
                    image=Image(
                        id=IMAGE.image_id,
                        sha256=IMAGE.sha256,
                        format=Image.FORMAT_QCOW2,
                        size_bytes=IMAGE.size_bytes,
                        virtual_size_bytes=IMAGE.virtual_size_bytes,
                    ),
                    existence=machine_pb2.DiskSpec.EXISTENCE_CREATE,
                )
            ],
            seed=machine_pb2.SeedSpec(hostname=spec.name, user_data=b"#!/bin/sh\n"),
            stop_grace=Duration(seconds=1),
        ),
    )
    for path, value in changes.items():
        setattr(request, path, value)
    return request


async def refused(call: Awaitable[object]) -> UnkaiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - another loop or process changes it
            await asyncio.sleep(0.01)


async def _launch(site: Site) -> None:
    async with site.machines("scheduler") as stub:
        await stub.EnsureMachine(an_order())
        converger = site.hosts[HOST_ID].converger
        await until(lambda: converger.machine(ID).state.value == "RUNNING")


def test_the_policy_table_lists_exactly_the_methods_there_are() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (
            host_service_pb2.DESCRIPTOR,
            machine_service_pb2.DESCRIPTOR,
            network_service_pb2.DESCRIPTOR,
            storage_service_pb2.DESCRIPTOR,
            health_pb2.DESCRIPTOR,
            reflection_pb2.DESCRIPTOR,
        )
        for service in file.services_by_name.values()
        for method in service.methods
    }
    ours = {method for method in methods if "grpc.health" not in method}
    assert ours == {method for method in POLICY if "grpc.health" not in method}
    assert {m for m in POLICY if "grpc.health" in m} <= methods
    for method, roles in POLICY.items():
        if "unkai.agent.v1" in method:
            assert roles <= {Role.SCHEDULER, Role.LOCAL}


async def test_a_scheduler_makes_watches_and_removes_a_machine(site: Site) -> None:
    async with site.machines("scheduler") as stub:
        watch = stub.WatchMachines(M.WatchMachinesRequest(host_id=HOST_ID))
        changes = aiter(watch)
        assert (await anext(changes)).synced
        answer = await stub.EnsureMachine(an_order())
        assert answer.machine.instance_id == ID
        seen = []
        async for change in changes:
            if change.HasField("machine"):
                seen.append(change.machine)
                if change.machine.state == machine_pb2.Machine.STATE_RUNNING:
                    break
        assert seen[-1].observed_generation == 1
        assert seen[-1].instance.labels == {"tier": "web"}
        removal = M.RemoveMachineRequest(
            host_id=HOST_ID, fence=Fence(term=1, generation=2, run_epoch=1), instance_id=ID
        )
        await stub.RemoveMachine(removal)
        async for change in changes:
            if change.HasField("tombstone"):
                assert change.tombstone.generation == 2
                break
        listed = await stub.ListMachines(M.ListMachinesRequest(host_id=HOST_ID))
        assert not listed.machines
        assert [t.instance_id for t in listed.tombstones] == [ID]
        assert (await stub.RemoveMachine(removal)).tombstone.generation == 2
        watch.cancel()


async def test_a_scheduler_is_told_what_a_machine_was_ordered_to_be(site: Site) -> None:
    order = an_order(generation=4)
    async with site.machines("scheduler") as stub, asyncio.timeout(20):
        await stub.EnsureMachine(order)
        request = M.GetMachineSpecRequest(host_id=HOST_ID, instance_id=ID)
        fresh = await stub.GetMachineSpec(request)
        async for change in stub.WatchMachines(M.WatchMachinesRequest(host_id=HOST_ID)):
            if change.machine.state == machine_pb2.Machine.STATE_RUNNING:
                break
        told = await stub.GetMachineSpec(request)
        other = M.GetMachineSpecRequest(host_id=OTHER_ID, instance_id=ID)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetMachineSpec(other)

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert fresh.machine.generation == told.machine.generation == 4
    assert told.spec.instance == order.spec.instance
    assert told.spec.seed.user_data == order.spec.seed.user_data
    assert told.spec.disks[0].image.sha256 == order.spec.disks[0].image.sha256
    assert told.spec.disks[0].existence == machine_pb2.DiskSpec.EXISTENCE_MUST_EXIST, "it ran"
    async with site.machines("local") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetMachineSpec(request)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_machines_ports_are_told_back_as_they_were_ordered(site: Site) -> None:
    order = an_order()
    order.spec.ports.extend(port_message(port) for port in (a_full_port(), a_port(2)))
    order.spec.metadata_seed = True
    async with site.machines("scheduler") as stub, asyncio.timeout(20):
        await stub.EnsureMachine(order)
        request = M.GetMachineSpecRequest(host_id=HOST_ID, instance_id=ID)
        told = (await stub.GetMachineSpec(request)).spec
        order.spec.ports[0].mtu = 1
        error = await refused(stub.EnsureMachine(order))
    assert list(told.ports) == [port_message(port) for port in (a_full_port(), a_port(2))]
    assert told.metadata_seed
    assert error.metadata["field"] == "spec.ports[0].mtu"


async def test_a_scheduler_reads_back_what_an_adoption_needs(site: Site) -> None:
    order = an_order(generation=4)
    async with site.machines("scheduler") as stub:
        await stub.EnsureMachine(order)
    agents = GrpcAgents(site.tls("scheduler"))
    try:
        endpoint = Endpoint(HOST_ID, f"127.0.0.1:{site.port}", host_tls_name(HOST_ID))
        held = await agents.machine_spec(endpoint, ID)
    finally:
        await agents.close()

    sent, told = order.spec.instance, held.order.instance
    assert (held.machine.generation, held.machine.wants_power) == (4, True)
    assert (told.id, told.spec.name, told.project_id) == (ID, sent.name, sent.project_id)
    assert (told.spec.vcpus, told.spec.memory_bytes) == (sent.vcpus, sent.memory_bytes)
    assert told.spec.labels == {"tier": "web"}
    assert held.order.disk_bytes == order.spec.disks[0].size_bytes
    assert held.order.image.sha256 == order.spec.disks[0].image.sha256
    assert held.order.user_data == order.spec.seed.user_data


async def test_a_watch_counts_as_a_leaders_word_only_from_a_scheduler(site: Site) -> None:
    contact = site.hosts[HOST_ID].converger.contact
    for kind, silent in (("local", True), ("scheduler", False)):
        async with site.machines(kind) as stub:
            watch = stub.WatchMachines(M.WatchMachinesRequest(host_id=HOST_ID))
            await watch.read()
            assert contact.silent_since(0.0) is silent
            watch.cancel()


async def test_the_socket_is_roots_alone_and_may_only_read(site: Site) -> None:
    mode = os.stat(site.socket).st_mode
    assert stat.S_IMODE(mode) == 0o600
    async with site.machines("local") as stub:
        await stub.ListMachines(M.ListMachinesRequest(host_id=HOST_ID))
        for call in (
            stub.EnsureMachine(an_order()),
            stub.RemoveMachine(M.RemoveMachineRequest(host_id=HOST_ID)),
        ):
            assert isinstance(await refused(call), PermissionDenied)


@pytest.mark.parametrize("kind", ["client", "host"])
async def test_other_certificates_of_our_ca_may_not_even_read(site: Site, kind: str) -> None:
    async with site.machines(kind) as stub:
        error = await refused(stub.ListMachines(M.ListMachinesRequest(host_id=HOST_ID)))
    assert error.reason == "METHOD_NOT_ALLOWED"


async def test_a_request_for_another_host_is_refused_and_one_behind_the_address_is_found(
    site: Site,
) -> None:
    async with site.machines("scheduler") as stub:
        error = await refused(stub.EnsureMachine(an_order(host_id="hst-x")))
        assert isinstance(error, NotFound)
        assert error.reason == "HOST_NOT_HERE"
        await stub.EnsureMachine(an_order(host_id=OTHER_ID))
        assert not (await stub.ListMachines(M.ListMachinesRequest(host_id=HOST_ID))).machines
        assert (await stub.ListMachines(M.ListMachinesRequest(host_id=OTHER_ID))).machines


async def test_an_older_term_is_told_the_highest(site: Site) -> None:
    async with site.channel("scheduler") as channel:
        hosts = host_service_pb2_grpc.HostServiceStub(channel)
        announce = host_service_pb2.AnnounceTermRequest
        answer = await hosts.AnnounceTerm(announce(host_id=HOST_ID, fence=Fence(term=8)))
        assert answer.highest_term == 8
        error = await refused(hosts.AnnounceTerm(announce(host_id=HOST_ID, fence=Fence(term=7))))
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.metadata["highest_term"]) == ("STALE_TERM", "8")
        described = await hosts.Describe(host_service_pb2.DescribeRequest(host_id=HOST_ID))
        assert described.host.highest_term == 8
        storage = storage_service_pb2_grpc.StorageServiceStub(channel)
        evict = storage_service_pb2.EvictImageRequest(
            host_id=HOST_ID, fence=Fence(term=7), sha256=IMAGE.sha256
        )
        assert (await refused(storage.EvictImage(evict))).reason == "STALE_TERM"


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "ins-1"), ("name", "../etc"), ("vcpus", 0), ("desired_power", 0), ("project_id", "")],
)
async def test_a_spec_that_says_nonsense_is_refused_by_field(
    site: Site, field: str, value: object
) -> None:
    order = an_order()
    setattr(order.spec.instance, field, value)
    async with site.machines("scheduler") as stub:
        error = await refused(stub.EnsureMachine(order))
    assert isinstance(error, InvalidArgument)
    assert error.violations[0][0] == f"spec.instance.{field}"


async def test_the_console_log_has_its_tail_and_is_followed_through_a_rotation(site: Site) -> None:
    await _launch(site)
    host, compute = site.hosts[HOST_ID].host, site.computes[HOST_ID]
    path = await host.storage.console_log(ID)
    async with site.machines("local") as stub:
        tail = stub.ReadConsoleLog(
            M.ReadConsoleLogRequest(host_id=HOST_ID, instance_id="web-1", tail_bytes=6)
        )
        assert b"".join([piece.output async for piece in tail]) == b"ogin: "
        follow = stub.ReadConsoleLog(
            M.ReadConsoleLogRequest(host_id=HOST_ID, instance_id=ID, follow=True)
        )
        text = b""
        while b"login: " not in text:
            text += (await follow.read()).output  # type: ignore[union-attr]
        compute.print_on_console(ID, b"before")
        path.rename(path.with_name("console.log.0"))
        compute.print_on_console(ID, b" after")
        while b"before after" not in text:
            text += (await follow.read()).output  # type: ignore[union-attr]
        held = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [fd for fd in held if fd.is_symlink() and fd.readlink().name == "console.log.0"]
        follow.cancel()
        whole = stub.ReadConsoleLog(M.ReadConsoleLogRequest(host_id=HOST_ID, instance_id=ID))
        assert b"".join([piece.output async for piece in whole]) == text


async def test_an_address_that_is_taken_is_named(site: Site) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        AgentServer(HostDirectory()).listen(f"127.0.0.1:{site.port}", site.tls("scheduler"))
    assert caught.value.reason == "ADDRESS_NOT_FREE"


async def test_following_a_console_log_ends_with_the_machine(site: Site) -> None:
    await _launch(site)
    async with site.machines("scheduler") as stub:
        follow = stub.ReadConsoleLog(
            M.ReadConsoleLogRequest(host_id=HOST_ID, instance_id=ID, follow=True)
        )
        pieces = aiter(follow)
        text = (await anext(pieces)).output
        site.computes[HOST_ID].print_on_console(ID, b"last words")
        removal = M.RemoveMachineRequest(
            host_id=HOST_ID, fence=Fence(term=1, generation=2, run_epoch=1), instance_id=ID
        )
        await stub.RemoveMachine(removal)
        async with asyncio.timeout(10):
            text += b"".join([piece.output async for piece in pieces])
        assert text.endswith(b"last words")


async def test_a_console_is_attached_typed_into_and_taken_over_by_force_only(site: Site) -> None:
    await _launch(site)
    attach = M.AttachConsoleRequest
    opening = attach(open=attach.Open(host_id=HOST_ID, instance_id=ID))
    async with site.machines("local") as stub:
        console = stub.AttachConsole()
        await console.write(opening)
        assert (await console.read()).output == b""  # type: ignore[union-attr]
        await console.write(attach(input=b"ls\r"))
        assert (await console.read()).output == b"ls\r"  # type: ignore[union-attr]
        second = stub.AttachConsole()
        await second.write(opening)
        error = await refused(second.read())
        assert isinstance(error, Conflict)
        assert error.reason == "CONSOLE_IN_USE"
        third = stub.AttachConsole()
        opening.open.force = True
        await third.write(opening)
        assert (await third.read()).output == b""  # type: ignore[union-attr]
        error = await refused(console.read())
        assert isinstance(error, Conflict)
        assert error.reason == "CONSOLE_TAKEN_OVER"
        third.cancel()


async def test_an_attachment_must_begin_by_opening(site: Site) -> None:
    async with site.machines("local") as stub:
        console = stub.AttachConsole()
        await console.write(M.AttachConsoleRequest(input=b"x"))
        assert isinstance(await refused(console.read()), InvalidArgument)


async def test_usage_is_streamed(site: Site) -> None:
    async with site.channel("scheduler") as channel:
        hosts = host_service_pb2_grpc.HostServiceStub(channel)
        watch = hosts.WatchUsage(host_service_pb2.WatchUsageRequest(host_id=HOST_ID))
        sample = await watch.read()
        assert isinstance(sample, host_service_pb2.WatchUsageResponse)
        assert sample.host_id == HOST_ID
        assert sample.host.memory_total_bytes == 8 << 30
        watch.cancel()


async def test_an_image_is_prefetched_listed_and_evicted(site: Site) -> None:
    async with site.channel("scheduler") as channel:
        storage = storage_service_pb2_grpc.StorageServiceStub(channel)
        right = Fence(term=1)
        image = an_order().spec.disks[0].image
        got = await storage.PrefetchImage(
            storage_service_pb2.PrefetchImageRequest(host_id=HOST_ID, fence=right, image=image)
        )
        assert got.cached_image.sha256 == IMAGE.sha256
        asked = storage_service_pb2.ListCachedImagesRequest(host_id=HOST_ID)
        assert len((await storage.ListCachedImages(asked)).cached_images) == 1
        await storage.EvictImage(
            storage_service_pb2.EvictImageRequest(host_id=HOST_ID, fence=right, sha256=IMAGE.sha256)
        )
        assert not (await storage.ListCachedImages(asked)).cached_images


async def test_health_and_reflection_answer(site: Site) -> None:
    async with site.channel("local") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            status = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert status.status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert set(SERVICES) <= names
        call.cancel()


async def test_one_examination_at_a_time_whichever_door_it_was_asked_for_at(
    tmp_path: Path,
) -> None:
    under_way, most = 0, 0

    async def examine(_names: Sequence[str]) -> Report:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.2)
        under_way -= 1
        return Report("agent h1", "0", 1, ())

    host = a_host_on_fakes(tmp_path, HOST_ID, FakeCompute())
    server = AgentServer(HostDirectory({HOST_ID: host.host}), examine)
    sockets = [tmp_path / name for name in ("a.sock", "b.sock")]
    for path in sockets:
        server.listen_locally(path)
    await server.start()

    async def ask(path: Path) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub = host_service_pb2_grpc.HostServiceStub(channel)
            await stub.Diagnose(host_service_pb2.DiagnoseRequest(host_id=HOST_ID), timeout=20)

    await asyncio.gather(*(ask(path) for path in sockets))
    await server.stop(0)
    assert most == 1

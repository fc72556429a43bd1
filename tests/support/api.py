"""A scheduler's API in one process: real server on a unix socket, real store, fake hosts."""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from tests.support.builders import a_claim, a_host, an_id
from tests.support.store import noon, open_store
from unkai.compute.v1 import (
    flavor_service_pb2_grpc,
    instance_pb2,
    instance_service_pb2,
    instance_service_pb2_grpc,
    key_pair_service_pb2_grpc,
    placement_group_service_pb2_grpc,
)
from unkai.event.v1 import event_service_pb2_grpc
from unkai.host.v1 import (
    aggregate_service_pb2_grpc,
    audit_service_pb2_grpc,
    host_service_pb2_grpc,
    placement_service_pb2_grpc,
)
from unkai.identity.v1 import project_service_pb2_grpc
from unkai.network.v1 import (
    floating_ip_service_pb2_grpc,
    load_balancer_service_pb2_grpc,
    network_service_pb2_grpc,
    port_service_pb2_grpc,
    router_service_pb2_grpc,
    security_group_service_pb2_grpc,
    subnet_service_pb2_grpc,
)
from unkai.operation.v1 import operation_service_pb2_grpc
from unkai.storage.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from unkai_scheduler import certificates
from unkai_scheduler.agents.fake_host import idle_usage
from unkai_scheduler.agents.port import Endpoint, ForwardTarget
from unkai_scheduler.api.peers import LeaderRoute
from unkai_scheduler.api.rpc_metrics import RpcMetrics
from unkai_scheduler.api.server import ApiServer, Services
from unkai_scheduler.cluster.fake import FakeEtcd
from unkai_scheduler.cluster.port import Cluster
from unkai_scheduler.daemon import build_services
from unkai_scheduler.decision_log.fake import FakeSegments
from unkai_scheduler.domain.findings import Audited, Finding
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.machines import Machine
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.reconcile.decision_log import DecisionLog
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.follower import Follower
from unkai_scheduler.settings import ImageSettings, Settings
from unkai_scheduler.store import claims, events, hosts, instances, operations
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.doctor.findings import Report
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import TlsFiles

MIB = 1 << 20
MAX_IMAGE_BYTES = 8 * MIB
NETWORKING = NetworkSettings(
    northbound=("unix:/run/ovn/nb.sock",), physical_networks={"public": 1500}
)
"""Networks are there to be asked for; nothing of these tests talks to an OVN."""


@dataclass
class FakeLeading:
    """The leader's part of a process: leads or not, and counts the wakes."""

    is_leading: bool = True
    term: int = 1
    wakes: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    findings: list[Finding] = field(default_factory=list)
    unseen_hosts: list[str] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    gone_hosts: set[str] = field(default_factory=set)
    forgotten_hosts: list[str] = field(default_factory=list)
    uow: UnitOfWork | None = None
    """Whose hosts are its fleet: `an_api` says."""

    async def fleet(self) -> Fleet:
        """Its fleet is the store's hosts, all idle."""
        assert self.audit.uow is not None
        fleet, rows = Fleet(), await self.uow.read(hosts.list_all)
        for row in rows:
            fleet.upsert_host(row, AllocationRatios())
            fleet.fold([(row.id, idle_usage(row.memory_bytes, noon()), 100.0)])
        return fleet

    @property
    def hosts(self) -> FakeLeading:
        """It knows of hosts what a test says."""
        return self.audit

    def is_gone(self, host_id: str) -> bool:
        return host_id in self.gone_hosts

    def forget(self, host_id: str) -> None:
        self.forgotten_hosts.append(host_id)

    @property
    def audit(self) -> FakeLeading:
        """It is its own audit, of what a test says."""
        if not self.is_leading:
            raise Unavailable("this scheduler does not lead", reason="NOT_LEADER")
        return self

    async def look(self) -> Audited:
        return Audited(noon(), tuple(self.findings), tuple(self.unseen_hosts))

    def holders(self, instance_id: str) -> list[Machine]:
        return [machine for machine in self.machines if machine.instance_id == instance_id]

    def wake(self) -> None:
        self.wakes += 1
        self.woken.set()


@dataclass
class ConsoleAgents:
    """Agents of which only consoles answer: what was written before, and an echo."""

    log: bytes = b"login: "
    calls: list[tuple[str, str]] = field(default_factory=list)
    forwards: int = 0
    """Connections open now."""
    gone: bool = False
    """The hosts' agents have ended: no connection is opened."""

    async def read_console_log(
        self, endpoint: Endpoint, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncIterator[bytes]:
        self.calls.append((endpoint.host_id, instance_id))
        yield self.log[-tail_bytes:] if tail_bytes else self.log

    async def attach_console(
        self, endpoint: Endpoint, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        yield b""
        async for piece in typed:
            yield b"echo " + piece

    async def forward(
        self, endpoint: Endpoint, target: ForwardTarget, incoming: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes | None, None]:
        """Say its end, then go on to echo: an end of one direction is not that of the other."""
        if target.port_number == 9:
            raise FailedPrecondition("the machine refuses TCP port 9", reason="FORWARD_REFUSED")
        # What gRPC says by itself, as `from_rpc_error` makes it.
        silence = Unavailable("Socket closed", metadata={"grpc_code": "UNAVAILABLE"})
        if self.gone:
            raise silence
        self.calls.append((endpoint.host_id, target.port_id))
        self.forwards += 1
        try:
            yield b""
            yield b"hello\n"
            if target.port_number == 10:
                raise silence
            got = 0
            async for piece in incoming:
                got += len(piece)
                yield b"echo " + piece
            yield f"{got} bytes\n".encode()
            yield None
        finally:
            self.forwards -= 1


@dataclass
class Api:
    """A served API and what stands behind it."""

    channel: grpc.aio.Channel
    uow: UnitOfWork
    live: LiveState
    leading: FakeLeading
    agents: Any
    server: ApiServer
    services: Services
    settings: Settings
    folder: Path
    pki: Path
    port: int
    decisions: FakeSegments

    def __post_init__(self) -> None:
        self.instances = instance_service_pb2_grpc.InstanceServiceStub(self.channel)
        self.flavors = flavor_service_pb2_grpc.FlavorServiceStub(self.channel)
        self.key_pairs = key_pair_service_pb2_grpc.KeyPairServiceStub(self.channel)
        self.placement_groups = placement_group_service_pb2_grpc.PlacementGroupServiceStub(
            self.channel
        )
        self.images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self.aggregates = aggregate_service_pb2_grpc.AggregateServiceStub(self.channel)
        self.hosts = host_service_pb2_grpc.HostServiceStub(self.channel)
        self.audits = audit_service_pb2_grpc.AuditServiceStub(self.channel)
        self.placement = placement_service_pb2_grpc.PlacementServiceStub(self.channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(self.channel)
        self.events = event_service_pb2_grpc.EventServiceStub(self.channel)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(self.channel)
        self.networks = network_service_pb2_grpc.NetworkServiceStub(self.channel)
        self.subnets = subnet_service_pb2_grpc.SubnetServiceStub(self.channel)
        self.ports = port_service_pb2_grpc.PortServiceStub(self.channel)
        self.security_groups = security_group_service_pb2_grpc.SecurityGroupServiceStub(
            self.channel
        )
        self.routers = router_service_pb2_grpc.RouterServiceStub(self.channel)
        self.floating_ips = floating_ip_service_pb2_grpc.FloatingIpServiceStub(self.channel)
        self.load_balancers = load_balancer_service_pb2_grpc.LoadBalancerServiceStub(self.channel)

    async def lead(self, work: Callable[[Any], Any]) -> Any:
        """Run work as the leader would."""
        term = self.leading.term = await self.uow.take_term(0)
        return await self.uow.lead(term, work)

    async def stamp(self) -> int:
        """Number the new events, as the leader's sequencer does."""
        return int(await self.lead(lambda conn: events.stamp(conn, 1000)))

    async def a_ready_image(self, name: str = "tiny", size: int = 2 * MIB) -> image_pb2.Image:
        """Make and upload a raw image."""
        created = await self.images.CreateImage(
            image_service_pb2.CreateImageRequest(image=image_pb2.Image(name=name))
        )
        return await self.upload(created.image.id, b"\x01" * size)

    async def upload(self, image_id: str, content: bytes, **opened: Any) -> image_pb2.Image:
        """Upload bytes in chunks of 1 MiB."""

        async def requests() -> AsyncIterator[image_service_pb2.UploadImageRequest]:
            kind = image_service_pb2.UploadImageRequest
            yield kind(open=kind.Open(image_id=image_id, **opened))
            for start in range(0, len(content), MIB):
                yield kind(chunk=content[start : start + MIB])

        return (await self.images.UploadImage(requests())).image

    async def create(self, name: str = "web", **changes: Any) -> Any:
        """Create an instance of one CPU and 64 MiB; an image is made when none is named."""
        request = {k: changes.pop(k) for k in ("request_id", "project_id") if k in changes}
        if "image_id" not in changes:
            changes["image_id"] = (await self.a_ready_image(f"image-of-{name}")).id
        figures = {"vcpus": 1, "memory_bytes": 64 * MIB} if "flavor_id" not in changes else {}
        instance = instance_pb2.Instance(name=name, **{**figures, **changes})
        return await self.instances.CreateInstance(
            instance_service_pb2.CreateInstanceRequest(instance=instance, **request)
        )

    async def settle(self, instance_id: str, **changes: Any) -> None:
        """End the instance's operation and give it a state, as the leader does."""

        def work(conn: Any) -> None:
            active = operations.active_for(conn, instance_id)
            if active is not None:
                ended = replace(active, state=OperationState.SUCCEEDED, end_time=noon())
                operations.replace(conn, ended)
            row = instances.get(conn, instance_id)
            assert row is not None
            instances.replace(conn, replace(row, operation_id="", **changes), etag=None)

        await self.lead(work)

    async def place(self, instance_id: str) -> Host:
        """Give the instance a host that can be reached."""
        host = a_host()

        def work(conn: Any) -> None:
            hosts.insert(conn, host)
            row = instances.get(conn, instance_id)
            assert row is not None
            claims.insert(conn, [a_claim(row, host)])

        await self.lead(work)
        self.live.set_endpoint(Endpoint(host.id, host.address, host.tls_name))
        return host


def make_certificates(folder: Path, name: str = "s1") -> TlsFiles:
    """Make a CA, a scheduler's and a client's certificate in a folder."""
    authority = certificates.init(folder)
    authority.issue_scheduler(name, ["127.0.0.1"]).write(folder)
    authority.issue_client("admin").write(folder)
    return tls_files(folder, "scheduler")


def tls_files(folder: Path, name: str) -> TlsFiles:
    """Return the paths of one certificate in a folder."""
    return TlsFiles(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")


_issued: dict[str, TlsFiles] = {}


async def _healthy(checks: Sequence[str]) -> Report:
    """Stand for the scheduler's checks, which look at a whole machine."""
    return Report("scheduler s1", "0.1.0", len(checks) or 31, ())


def _own_certificates(name: str) -> TlsFiles:
    """Return certificates that this process makes once for each scheduler's name."""
    if name not in _issued:
        folder = Path(tempfile.mkdtemp(prefix="pki-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _issued[name] = make_certificates(folder / "pki", name)
    return _issued[name]


@asynccontextmanager
async def an_api(
    folder: Path,
    *,
    agents: Any = None,
    name: str = "s1",
    pki: Path | None = None,
    cluster: Cluster | None = None,
    uow: UnitOfWork | None = None,
    leading: FakeLeading | None = None,
    network: NetworkSettings = NETWORKING,
) -> AsyncIterator[Api]:
    """Serve an API on a unix socket and on mTLS at a free loopback port."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    tls = tls_files(pki, "scheduler") if pki else await asyncio.to_thread(_own_certificates, name)
    async with AsyncExitStack() as stack:
        if uow is None:
            uow = await open_store(folder)
            stack.push_async_callback(uow.close)
        leading = leading or FakeLeading()
        leading.uow = uow
        live = LiveState()
        agents = agents or ConsoleAgents()
        follower = Follower(uow, poll_s=0.01)
        route = LeaderRoute(name, cluster or FakeEtcd().member(name), leading, tls)
        stack.push_async_callback(route.close)
        settings = Settings(
            images=ImageSettings(url=f"file://{folder / 'images'}", max_size_bytes=MAX_IMAGE_BYTES),
            network=network,
        )
        decisions = FakeSegments()
        services = build_services(
            context=ServiceContext(uow, noon, an_id, lambda ids: leading.wake()),
            follower=follower,
            leader=leading,
            live=live,
            agents=agents,
            images=open_image_store(settings.images.url),
            settings=settings,
            examine=_healthy,
            decisions=decisions,
            unsaved=DecisionLog(decisions, settings.decision_log, noon, noon),
        )
        server = ApiServer(services, leading, route, RpcMetrics(CollectorRegistry()))
        socket = folder / "api.sock"
        port = server.listen("127.0.0.1:0", tls)
        server.listen_locally(socket)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{socket}"))
        following = asyncio.get_running_loop().create_task(follower.run())
        stack.callback(following.cancel)
        yield Api(
            channel,
            uow,
            live,
            leading,
            agents,
            server,
            services,
            settings,
            folder,
            tls.ca.parent,
            port,
            decisions,
        )


async def refused(call: Any) -> UnkaiError:
    """Await a call that must fail; return the error its caller sees."""
    try:
        await call
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call was not refused")


def an_ssh_key(seed: str = "one") -> str:
    """Make a public key of the right form."""
    kind = b"ssh-ed25519"
    key = hashlib.sha256(seed.encode()).digest()
    blob = len(kind).to_bytes(4, "big") + kind + len(key).to_bytes(4, "big") + key
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {seed}@test"

"""`agent.v1.NetworkService`: what is refused, what is kept, and what passes through."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.support.agent import a_running_agent, a_spec
from tests.support.ports import a_network_id, a_port, a_port_id, an_ipv4
from unkai.agent.v1 import network_service_pb2 as pb
from unkai.agent.v1 import network_service_pb2_grpc
from unkai.agent.v1.fence_pb2 import Fence
from unkai_agent.api.directory import Host, HostDirectory
from unkai_agent.api.networks import NetworkServicer
from unkai_agent.network import forwarding
from unkai_agent.network.driver import sites_of
from unkai_agent.network.fake import FakeNetwork
from unkai_agent.network.flows import FlowCounters
from unkai_agent.network.forwarding import Forwarder
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.names.table import NameTables
from unkai_agent.network.service import HostNetworks
from unkai_wire.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unsupported,
)

HOST_ID = "hst-1"
SPEC = a_spec(ports=(a_port(addresses=(an_ipv4("127.0.0.1"),)),))
CONTEXT: Any = None


async def _nobody(*_: object) -> Any:
    raise OSError


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[NetworkServicer, Host]]:
    driver = FakeNetwork()
    await driver.ensure_sites(sites_of(SPEC.ports))
    async with a_running_agent(tmp_path) as agent:
        await agent.ensure(SPEC)
        host = Host(
            record=SimpleNamespace(host_id=HOST_ID, name="h1"),  # type: ignore[arg-type]
            converger=agent.converger,
            compute=agent.compute,
            storage=agent.storage,
            usage=None,  # type: ignore[arg-type]
            networks=HostNetworks(driver, NameTables(tmp_path / "names"), _nobody, Tokens()),
            forwarder=Forwarder(driver, {4: "127.0.0.1"}),
        )
        yield NetworkServicer(HostDirectory({HOST_ID: host})), host


def told(**changes: Any) -> pb.EnsureNamesRequest:
    base = {
        "host_id": HOST_ID,
        "fence": Fence(term=1),
        "network_id": a_network_id(),
        "revision": 1,
        "domain": "internal",
        "put": [pb.NameRecord(name="web", addresses=["10.0.0.5", "FD00:0::5"])],
    }
    return pb.EnsureNamesRequest(**(base | changes))


async def test_names_are_kept_in_their_canonical_form(
    served: tuple[NetworkServicer, Host],
) -> None:
    servicer, host = served
    assert (await servicer.EnsureNames(told(), CONTEXT)).revision == 1
    more = told(base_revision=1, revision=2, put=[], removed=["web"])
    assert host.networks is not None
    assert host.networks.names.of(a_network_id()).names == {"web": ("10.0.0.5", "fd00::5")}
    assert (await servicer.EnsureNames(more, CONTEXT)).revision == 2
    assert host.networks.names.of(a_network_id()).names == {}


async def test_names_of_a_deposed_leader_are_refused(served: tuple[NetworkServicer, Host]) -> None:
    servicer, host = served
    await host.converger.announce_term(5)
    with pytest.raises(FailedPrecondition) as caught:
        await servicer.EnsureNames(told(), CONTEXT)
    assert caught.value.reason == "STALE_TERM"
    assert host.networks is not None
    assert host.networks.names.of(a_network_id()).revision == 0


async def test_names_based_on_what_is_not_held_are_refused(
    served: tuple[NetworkServicer, Host],
) -> None:
    servicer, _ = served
    with pytest.raises(FailedPrecondition) as caught:
        await servicer.EnsureNames(told(base_revision=3, revision=4), CONTEXT)
    assert caught.value.reason == "NAMES_REVISION"
    assert caught.value.metadata["held"] == "0"


async def test_names_that_come_late_take_nothing_back(
    served: tuple[NetworkServicer, Host],
) -> None:
    """A call that its leader has given up may arrive after the next one."""
    servicer, host = served
    db = [pb.NameRecord(name="db", addresses=["10.0.0.6"])]
    await servicer.EnsureNames(told(revision=7, put=db), CONTEXT)
    for late in (told(revision=6), told(base_revision=5, revision=6)):
        with pytest.raises(FailedPrecondition) as caught:
            await servicer.EnsureNames(late, CONTEXT)
        assert caught.value.reason == "NAMES_REVISION"
        assert caught.value.metadata["held"] == "7"
    assert host.networks is not None
    assert host.networks.names.of(a_network_id()).names == {"db": ("10.0.0.6",)}

    await servicer.EnsureNames(told(revision=7), CONTEXT)
    assert host.networks.names.of(a_network_id()).names == {"web": ("10.0.0.5", "fd00::5")}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"network_id": "../x"}, "network_id"),
        ({"revision": 0}, "revision"),
        ({"base_revision": -1}, "revision"),
        ({"base_revision": 1}, "revision"),
        ({"domain": "a b"}, "domain"),
        ({"put": [pb.NameRecord(name="Web")]}, "put[0].name"),
        ({"put": [pb.NameRecord(name="a.b")]}, "put[0].name"),
        ({"put": [pb.NameRecord(name="a", addresses=["x"])]}, "put[0].addresses"),
        ({"put": [pb.NameRecord(name="a", addresses=["10.0.0.1"] * 33)]}, "put[0].addresses"),
        ({"removed": [""]}, "removed[0]"),
        ({"removed": ["a"] * 20_001}, "removed"),
    ],
)
async def test_what_are_no_names_is_refused_by_its_field(
    served: tuple[NetworkServicer, Host], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await served[0].EnsureNames(told(**changes), CONTEXT)
    assert caught.value.metadata["field"] == field


async def test_a_host_without_a_switch_says_so(served: tuple[NetworkServicer, Host]) -> None:
    bare = replace(served[1], networks=None, forwarder=None)
    servicer = NetworkServicer(HostDirectory({HOST_ID: bare}))
    with pytest.raises(Unsupported) as caught:
        await servicer.EnsureNames(told(), CONTEXT)
    assert caught.value.reason == "HOST_WITHOUT_NETWORKS"
    with pytest.raises(Unsupported):
        await anext(servicer.Forward(requests(an_open()), CONTEXT))  # type: ignore[arg-type]
    with pytest.raises(Unsupported):
        await servicer.CountFlows(pb.CountFlowsRequest(host_id=HOST_ID, cookies=[1]), CONTEXT)


async def test_flows_are_counted_by_their_cookies_and_a_ports_by_what_is_handed_to_it(
    served: tuple[NetworkServicer, Host], tmp_path: Path
) -> None:
    said = " cookie=0x{}, duration=1s, table={}, n_packets={}, n_bytes=9, idle_age=1 actions=drop"
    program = tmp_path / "ovs-ofctl"
    program.write_text(
        "#!/bin/sh\n"
        'case "$5" in\n'
        f"cookie=0xffffffff/-1) echo '{said.format('ffffffff', 8, 3)}'; "
        f"echo '{said.format('ffffffff', 8, 4)}';;\n"
        f"cookie=0x7/-1) echo '{said.format('7', 0, 30)}'; "
        f"echo '{said.format('7', 65, 5)}';;\n"
        f"cookie=0x6/-1) echo '{said.format('6', 39, 30)}';;\n"
        "cookie=0x9/-1) echo 'connection refused' >&2; exit 1;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    counters = FlowCounters(f"unix:{tmp_path}/db.sock", program=str(program))
    servicer = NetworkServicer(HostDirectory({HOST_ID: replace(served[1], flows=counters)}))

    def asked(*cookies: int) -> pb.CountFlowsRequest:
        return pb.CountFlowsRequest(host_id=HOST_ID, cookies=cookies)

    answer = await servicer.CountFlows(asked(0xFFFFFFFF, 6, 7, 8), CONTEXT)
    counts = [(count.cookie, count.packet_count) for count in answer.counts]
    assert counts == [(7, 5), (0xFFFFFFFF, 7)]
    with pytest.raises(Unavailable) as caught:
        await servicer.CountFlows(asked(9), CONTEXT)
    assert caught.value.reason == "SWITCH_UNAVAILABLE"
    for wrong in ((), range(65)):
        with pytest.raises(InvalidArgument):
            await servicer.CountFlows(asked(*wrong), CONTEXT)


def an_open(**changes: Any) -> pb.ForwardRequest:
    base = {
        "host_id": HOST_ID,
        "instance_id": SPEC.instance_id,
        "port_id": SPEC.ports[0].port_id,
        "port_number": 22,
    }
    return pb.ForwardRequest(open=pb.ForwardRequest.Open(**(base | changes)))


async def requests(*messages: pb.ForwardRequest) -> AsyncIterator[pb.ForwardRequest]:
    for message in messages:
        yield message


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (pb.ForwardRequest(data=b"x"), InvalidArgument),
        (an_open(instance_id="x"), InvalidArgument),
        (an_open(port_id="x"), InvalidArgument),
        (an_open(port_number=0), InvalidArgument),
        (an_open(port_number=65536), InvalidArgument),
        (an_open(host_id="hst-2"), NotFound),
        (an_open(instance_id=a_spec(9).instance_id), NotFound),
        (an_open(port_id=a_port_id(9)), NotFound),
    ],
)
async def test_what_is_no_machines_port_is_not_connected_to(
    served: tuple[NetworkServicer, Host], first: pb.ForwardRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await anext(served[0].Forward(requests(first), CONTEXT))  # type: ignore[arg-type]


async def test_bytes_pass_both_ways_until_both_have_ended(
    served: tuple[NetworkServicer, Host],
) -> None:
    machine = socket.create_server(("127.0.0.1", 0))
    machine.settimeout(20)

    def echo() -> None:
        connection, _ = machine.accept()
        with connection:
            text = b""
            while piece := connection.recv(4096):
                text += piece
            connection.sendall(text.upper())

    with machine:
        echoing = asyncio.ensure_future(asyncio.to_thread(echo))
        said = requests(
            an_open(port_number=machine.getsockname()[1]),
            pb.ForwardRequest(data=b"hello "),
            pb.ForwardRequest(data=b"there"),
            pb.ForwardRequest(end=True),
        )
        async with asyncio.timeout(20):
            answers = [a async for a in served[0].Forward(said, CONTEXT)]  # type: ignore[arg-type]
            await echoing
    assert answers[0] == pb.ForwardResponse(data=b"")
    assert b"".join(a.data for a in answers) == b"HELLO THERE"
    assert answers[-1].end


async def test_a_message_that_carries_nothing_ends_the_connection(
    served: tuple[NetworkServicer, Host],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as machine:
        first = an_open(port_number=machine.getsockname()[1])
        answers = served[0].Forward(requests(first, pb.ForwardRequest()), CONTEXT)

        async def read_all() -> None:
            async for _ in answers:  # type: ignore[attr-defined]
                pass

        with pytest.raises(InvalidArgument):
            await asyncio.wait_for(read_all(), 20)


@pytest.mark.parametrize("floods", [False, True], ids=["silent", "flooding"])
async def test_a_connection_ends_with_its_call(
    served: tuple[NetworkServicer, Host],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    floods: bool,
) -> None:
    """And its place is free, also when the caller took nothing of what the machine sent."""
    monkeypatch.setattr(forwarding, "CONNECTIONS_EACH", 1)
    machine = socket.create_server(("127.0.0.1", 0))
    machine.settimeout(20)
    async with a_server(served[0], tmp_path) as address, grpc.aio.insecure_channel(address) as one:
        open_call = network_service_pb2_grpc.NetworkServiceStub(one).Forward
        first = an_open(port_number=machine.getsockname()[1])
        with machine:
            call = open_call()
            await call.write(first)
            assert (await call.read()).data == b""
            connection, _ = await asyncio.to_thread(machine.accept)
            reader, writer = await asyncio.open_connection(sock=connection)
            if floods:
                await _fill(writer)
            call.cancel()
            async with asyncio.timeout(20):
                await _until_ended(reader)
                while not await _is_opened(open_call(), first):
                    pass
            writer.close()


async def _is_opened(call: Any, first: pb.ForwardRequest) -> bool:
    try:
        await call.write(first)
        return bool((await call.read()).data == b"")
    except grpc.aio.AioRpcError:
        return False


@asynccontextmanager
async def a_server(servicer: NetworkServicer, folder: Path) -> AsyncIterator[str]:
    server = grpc.aio.server()
    network_service_pb2_grpc.add_NetworkServiceServicer_to_server(servicer, server)
    address = f"unix:{folder}/agent.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


async def _fill(writer: asyncio.StreamWriter) -> None:
    """Send until nobody takes more."""
    writer.transport.set_write_buffer_limits(high=0)
    with suppress(TimeoutError):
        while True:
            writer.write(bytes(1 << 20))
            async with asyncio.timeout(1):
                await writer.drain()


async def _until_ended(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 20):
            pass

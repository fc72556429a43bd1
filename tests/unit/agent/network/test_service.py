"""A host's networks as they are served: real namespaces, and guests that ask."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from tests.support.agent import a_spec
from tests.support.fake_vsctl import FakeSwitch
from tests.support.metadata import ask
from tests.support.namespaces import Guest, cleaned, needs_namespaces, run
from tests.support.ports import a_port, an_ipv4, an_ipv6
from unkai_agent.domain.machines import MachineSpec
from unkai_agent.domain.ports import MetadataPort, PortAddress, PortSpec
from unkai_agent.network import namespaces
from unkai_agent.network.forwarding import Forwarder
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.names.table import NameChanges, NameTables
from unkai_agent.network.namespaces import (
    ADDRESS_V4,
    ADDRESS_V6,
    Namespaces,
    device_of,
    namespace_of,
)
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.ovs_driver import OvsNetwork
from unkai_agent.network.service import HostNetworks
from unkai_agent.network.setns import call_inside
from unkai_wire.errors import NotFound, Unavailable, UnkaiError
from unkai_wire.ids import new_id

pytestmark = needs_namespaces
METADATA = MetadataPort("meta-1", "02:00:00:00:fe:01")


async def _nobody(query: dns.message.Message, by_tcp: bool) -> dns.message.Message:
    raise OSError("no resolver")


class Host:
    """A host with a stand-in for its switch."""

    def __init__(self, folder: Path, networks: list[str]) -> None:
        self.root = folder / "netns"
        self.switch = FakeSwitch(folder)
        self.names = NameTables(folder / "names")
        self.ids = networks
        self.driver = OvsNetwork(OvsDatabase(self.switch.program), Namespaces(self.root))
        self.networks = self.restarted()

    def restarted(self) -> HostNetworks:
        return HostNetworks(self.driver, self.names, _nobody, Tokens())

    def machine(self, number: int) -> MachineSpec:
        port = a_port(
            number,
            network_id=self.ids[number - 1],
            addresses=(an_ipv4("10.0.0.5"),),
            metadata=METADATA,
        )
        return a_spec(number, ports=(port,))


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    networks = [new_id("network") for _ in range(2)]
    with cleaned(tmp_path / "netns", *networks):
        made = Host(tmp_path, networks)
        yield made
        await made.networks.close()


async def name_read_by(guest: Guest) -> str:
    connection = await call_inside(
        guest.path, lambda: socket.create_connection((ADDRESS_V4, 80), timeout=20)
    )
    answer = await ask(connection, "/openstack/latest/meta_data.json")
    return str(json.loads(answer.body)["name"])


async def test_guests_are_served_who_they_are_and_whom_they_know(host: Host) -> None:
    first, second = host.machine(1), host.machine(2)
    await host.networks.hold([first, second])
    assert host.networks.are_up(host.ids)
    host.names.change(NameChanges(host.ids[0], 0, 1, "internal", {"db": ("10.0.0.9",)}))
    guests = [Guest(host.root, ident, "10.0.0.5/24") for ident in host.ids]
    try:
        assert [await name_read_by(guest) for guest in guests] == [first.name, second.name]
        query = dns.message.make_query("db.internal", "A")
        rcodes = []
        for guest in guests:
            bound = await call_inside(guest.path, _packets)
            bound.setblocking(False)
            with bound:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(20):
                    await loop.sock_connect(bound, (ADDRESS_V4, 53))
                    await loop.sock_sendall(bound, query.to_wire())
                    response = dns.message.from_wire(await loop.sock_recv(bound, 4096))
            rcodes.append(response.rcode())
        # The other network was told of no names: it is somebody else's to answer.
        assert rcodes == [dns.rcode.NOERROR, dns.rcode.SERVFAIL]
    finally:
        for guest in guests:
            guest.close()


def _packets() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


async def test_holding_again_opens_nothing_and_writes_nothing(host: Host) -> None:
    machines = [host.machine(1)]
    await host.networks.hold(machines)
    before = len(host.switch.writes)
    await host.networks.hold(machines)
    assert len(host.switch.writes) == before


async def test_a_network_whose_last_machine_went_leaves_nothing(host: Host) -> None:
    await host.networks.hold([host.machine(1), host.machine(2)])
    await host.networks.hold([host.machine(2)])
    assert not host.networks.are_up([host.ids[0]])
    assert host.networks.are_up([host.ids[1]])
    assert host.switch.devices() == [device_of(host.ids[1])]
    with pytest.raises(NotFound):
        await host.driver.open_socket(host.ids[0], _packets)
    await host.networks.hold([])
    assert host.switch.devices() == []
    assert Namespaces(host.root).found() == []


async def test_a_restarted_agent_takes_over_what_is_there(host: Host) -> None:
    machine = host.machine(1)
    await host.networks.hold([machine])
    writes = len(host.switch.writes)
    await host.networks.close()
    host.networks = host.restarted()
    await host.networks.hold([machine])
    assert len(host.switch.writes) == writes
    guest = Guest(host.root, host.ids[0], "10.0.0.5/24")
    try:
        assert await name_read_by(guest) == machine.name
    finally:
        guest.close()


async def test_a_namespace_that_was_made_anew_is_served_anew(host: Host) -> None:
    machine = host.machine(1)
    await host.networks.hold([machine])
    await Namespaces(host.root).remove(host.ids[0])  # as somebody may do by hand
    await host.networks.hold([machine])
    guest = Guest(host.root, host.ids[0], "10.0.0.5/24")
    try:
        assert await name_read_by(guest) == machine.name
    finally:
        guest.close()


async def _answers(host: Host, machine: MachineSpec, number: int) -> None:
    guest = Guest(host.root, host.ids[number - 1], "10.0.0.5/24")
    try:
        assert await name_read_by(guest) == machine.name
    finally:
        guest.close()


async def test_a_network_that_cannot_be_made_leaves_others_served(host: Host) -> None:
    first, second = host.machine(1), host.machine(2)
    in_the_way = host.root / namespace_of(host.ids[0])
    in_the_way.mkdir(parents=True)
    with pytest.raises(UnkaiError):
        await host.networks.hold([first, second])
    assert not host.networks.are_up([host.ids[0]])
    assert host.networks.are_up([host.ids[1]])
    in_the_way.rmdir()
    await host.networks.hold([first, second])
    await _answers(host, first, 1)
    await _answers(host, second, 2)


async def test_a_port_in_use_leaves_others_served_and_is_tried_again(host: Host) -> None:
    first, second = host.machine(1), host.machine(2)
    await host.networks.hold([first])
    await host.networks.close()

    def listening() -> socket.socket:
        return socket.create_server((ADDRESS_V4, 53))

    with await host.driver.open_socket(host.ids[0], listening):
        with pytest.raises(Unavailable) as caught:
            await host.networks.hold([first, second])
        assert caught.value.reason == "NETWORK_NOT_SERVED"
        assert "in use" in caught.value.message
        assert not host.networks.are_up([host.ids[0]])
        await _answers(host, second, 2)
    await host.networks.hold([first, second])
    await _answers(host, first, 1)


async def test_a_server_that_ended_is_seen_and_started_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    open_socket = host.driver.open_socket

    async def noted(network_id: str, make: Callable[[], socket.socket]) -> socket.socket:
        made.append(await open_socket(network_id, make))
        return made[-1]

    monkeypatch.setattr(host.driver, "open_socket", noted)
    machine = host.machine(1)
    await host.networks.hold([machine])
    assert await host.networks.are_whole()
    made[0].shutdown(socket.SHUT_RDWR)
    async with asyncio.timeout(20):
        while await host.networks.are_whole():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    await host.networks.hold([machine])
    assert await host.networks.are_whole()
    await _answers(host, machine, 1)


def _take_device(host: Host) -> None:
    run("ip", "link", "del", device_of(host.ids[0]))


def _take_mount(host: Host) -> None:
    run("umount", str(host.root / namespace_of(host.ids[0])))


def _take_namespace(host: Host) -> None:
    _take_mount(host)  # `ip netns delete`, in a folder of its own
    (host.root / namespace_of(host.ids[0])).unlink()


def _leave_the_file(host: Host) -> None:
    _take_mount(host)
    _take_device(host)


damages = pytest.mark.parametrize(
    "damage", [_take_device, _take_mount, _take_namespace, _leave_the_file]
)
Damage = Callable[[Host], None]


@damages
async def test_what_somebody_takes_away_by_hand_is_seen_and_made_again(
    host: Host, damage: Damage
) -> None:
    machine = host.machine(1)
    await host.networks.hold([machine])
    assert await host.networks.are_whole()
    damage(host)
    assert not await host.networks.are_whole()
    await host.networks.hold([machine])
    assert await host.networks.are_whole()
    await _answers(host, machine, 1)


@damages
async def test_a_network_made_anew_while_the_switch_failed_is_served_anew(
    host: Host, damage: Damage
) -> None:
    """Its old sockets are open, in a namespace that nobody reaches any more."""
    machine = host.machine(1)
    await host.networks.hold([machine])
    damage(host)
    host.switch.change(fail_at="add-port")
    with pytest.raises(UnkaiError, match="switch"):
        await host.networks.hold([machine])
    assert Namespaces(host.root).found() == [host.ids[0]]
    assert not host.networks.are_up([host.ids[0]])
    host.switch.change(fail_at=None)
    await host.networks.hold([machine])
    assert host.networks.are_up([host.ids[0]])
    await _answers(host, machine, 1)


async def test_a_network_made_anew_that_has_no_addresses_yet_is_served_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = host.machine(1)
    await host.networks.hold([machine])
    _take_namespace(host)
    with monkeypatch.context() as broken:
        broken.setattr(namespaces, "_prepare", _fails)
        with pytest.raises(UnkaiError):
            await host.networks.hold([machine])
    await host.networks.hold([machine])
    await _answers(host, machine, 1)


def _fails() -> None:
    raise OSError("no memory")


async def test_a_network_that_cannot_be_made_again_is_not_up(host: Host) -> None:
    """So that no guest that waits for it goes on without it; one that stands stays served."""
    first, second = host.machine(1), host.machine(2)
    await host.networks.hold([first, second])
    _take_namespace(host)
    in_the_way = host.root / namespace_of(host.ids[0])
    in_the_way.mkdir()
    with pytest.raises(UnkaiError):
        await host.networks.hold([first, second])
    assert not host.networks.are_up([host.ids[0]])
    assert host.networks.are_up([host.ids[1]])
    in_the_way.rmdir()
    await host.networks.hold([first, second])
    await _answers(host, first, 1)


async def test_what_an_agent_left_that_was_killed_before_it_mounted_is_replaced(
    host: Host,
) -> None:
    machine = host.machine(1)
    host.root.mkdir()
    (host.root / namespace_of(host.ids[0])).touch()
    await host.networks.hold([machine])
    await _answers(host, machine, 1)


async def test_a_network_that_got_an_address_answers_names_there(host: Host) -> None:
    machine = host.machine(1)
    await host.networks.hold([machine])
    moved = replace(METADATA, addresses=("10.0.0.2/24",))
    port = replace(machine.ports[0], metadata=moved)
    await host.networks.hold([replace(machine, ports=(port,))])
    host.names.change(NameChanges(host.ids[0], 0, 1, "internal", {"db": ("10.0.0.9",)}))
    guest = Guest(host.root, host.ids[0], "10.0.0.5/24")
    try:
        connection = await call_inside(
            guest.path, lambda: socket.create_connection(("10.0.0.2", 53), timeout=20)
        )
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        query = dns.message.make_query("db", "A").to_wire()
        async with asyncio.timeout(20):
            writer.write(len(query).to_bytes(2) + query)
            length = int.from_bytes(await reader.readexactly(2))
            response = dns.message.from_wire(await reader.readexactly(length))
        writer.close()
        assert response.answer[0][0].to_text() == "10.0.0.9"
    finally:
        guest.close()


@pytest.mark.parametrize(
    ("address", "own", "source"),
    [
        (an_ipv4("10.0.0.5"), (), ADDRESS_V4),
        (an_ipv4("10.0.0.5"), ("10.0.0.2/24",), ADDRESS_V4),
        (an_ipv6("fd00::5"), (), ADDRESS_V6),
        (an_ipv6("fd00::5"), ("fd00::2/64",), ADDRESS_V6),
    ],
)
async def test_a_machine_is_reached_from_the_address_that_rules_name(
    host: Host, address: PortAddress, own: tuple[str, ...], source: str
) -> None:
    """From inside its network, whatever other addresses the host has there."""
    machine = host.machine(1)
    port = replace(
        machine.ports[0], addresses=(address,), metadata=replace(METADATA, addresses=own)
    )
    await host.networks.hold([replace(machine, ports=(port,))])
    guest = Guest(host.root, host.ids[0], str(address.interface))
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    listening = await call_inside(
        guest.path, lambda: socket.create_server((address.address, 22), family=family)
    )
    listening.settimeout(20)
    try:
        peer = await _reach(host, port, listening)
    finally:
        listening.close()
        guest.close()
    assert peer.partition("%")[0] == source


async def _reach(host: Host, port: PortSpec, listening: socket.socket) -> str:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    talk = Forwarder(host.driver).talk(port, 22, nothing())
    async with asyncio.timeout(20):
        assert await anext(talk) == b""
        connection, peer = await asyncio.to_thread(listening.accept)
        connection.sendall(b"SSH-2.0-guest\r\n")
        connection.close()
        assert [piece async for piece in talk] == [b"SSH-2.0-guest\r\n", None]
    return str(peer[0])

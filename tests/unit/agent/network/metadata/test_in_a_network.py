"""The metadata service inside real namespaces, asked by guests on the other end of a wire."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.agent import a_spec
from tests.support.metadata import Said, ask
from tests.support.namespaces import Guest, cleaned, needs_namespaces
from tests.support.ports import a_port, an_ipv4
from unkai_agent.domain.machines import MachineSpec
from unkai_agent.network.driver import sites_of
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import MetadataSite
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.namespaces import ADDRESS_V4, ADDRESS_V6, INNER, Namespaces
from unkai_agent.network.setns import call_inside
from unkai_wire.ids import new_id

pytestmark = needs_namespaces
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


def _machine(number: int) -> MachineSpec:
    """All have one address, on a network of their own."""
    port = a_port(number, network_id=new_id("network"), addresses=(an_ipv4("10.0.0.5"),))
    return a_spec(number, ports=(port,))


def _listen_v6() -> socket.socket:
    listener = socket.socket(socket.AF_INET6)
    listener.bind((ADDRESS_V6, 80, 0, socket.if_nametoindex(INNER)))
    listener.listen()
    return listener


async def _from(guest: Guest, connect: Callable[[], socket.socket], path: str, **more: str) -> Said:
    return await ask(await call_inside(guest.path, connect), path, **more)  # type: ignore[arg-type]


def _connect() -> socket.socket:
    return socket.create_connection((ADDRESS_V4, 80), timeout=20)


async def test_two_networks_with_equal_addresses_are_not_confused(tmp_path: Path) -> None:
    machines = [_machine(1), _machine(2)]
    networks = [spec.ports[0].network_id for spec in machines]
    namespaces, guests, tokens = Namespaces(tmp_path), Guests(machines), Tokens()
    async with AsyncExitStack() as stack:
        stack.enter_context(cleaned(tmp_path, *networks))
        wired = []
        for site in sites_of(port for spec in machines for port in spec.ports):
            await namespaces.ensure(site)
            wired.append(Guest(tmp_path, site.network_id, "10.0.0.5/24"))
            stack.callback(wired[-1].close)
            served = MetadataSite(site.network_id, guests, tokens)
            stack.push_async_callback(served.close)
            for listen in (lambda: socket.create_server((ADDRESS_V4, 80)), _listen_v6):
                served.listen(await namespaces.call(site.network_id, listen))
        order = sorted(range(2), key=lambda at: networks[at])
        for guest, at in zip(wired, order, strict=True):
            read = await _from(guest, _connect, "/openstack/latest/meta_data.json")
            assert json.loads(read.body)["name"] == machines[at].name
        # A token that one was given is nothing to the other.
        connection = await call_inside(wired[0].path, _connect)
        given = await ask(connection, "/latest/api/token", method="PUT", headers=TTL)
        token = {"X-aws-ec2-metadata-token": given.body.decode()}
        for guest, status in zip(wired, (200, 401), strict=True):
            connection = await call_inside(guest.path, _connect)
            read = await ask(connection, "/latest/meta-data/instance-id", headers=token)
            assert read.status == status


async def test_a_guest_asks_by_its_link_local_address_and_a_token_stays_near(
    tmp_path: Path,
) -> None:
    spec = _machine(1)
    port = spec.ports[0]
    namespaces = Namespaces(tmp_path)
    async with AsyncExitStack() as stack:
        stack.enter_context(cleaned(tmp_path, port.network_id))
        [site] = sites_of(spec.ports)
        await namespaces.ensure(site)
        guest = Guest(tmp_path, port.network_id, "fe80::ff:fe00:1/64")  # what its MAC makes
        stack.callback(guest.close)
        served = MetadataSite(port.network_id, Guests([spec]), Tokens())
        stack.push_async_callback(served.close)
        served.listen(await namespaces.call(port.network_id, _listen_v6))

        def connect() -> socket.socket:
            made = socket.socket(socket.AF_INET6)
            made.settimeout(20)
            index = socket.if_nametoindex(guest.card)
            made.bind(("fe80::ff:fe00:1", 0, 0, index))
            made.connect((ADDRESS_V6, 80, 0, index))
            return made

        read = await _from(guest, connect, "/openstack/latest/meta_data.json")
        assert json.loads(read.body)["name"] == spec.name
        watch = await call_inside(
            guest.path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x86DD)
        )
        watch.settimeout(20)
        with watch:
            watch.bind((guest.card, 0x86DD))
            connection = await call_inside(guest.path, connect)
            given = await ask(connection, "/latest/api/token", method="PUT", headers=TTL)
            hops = _hops_of_answer(watch, given.body)
        assert given.status == 200
        assert hops == 1


def _hops_of_answer(watch: socket.socket, body: bytes) -> int:
    """Return the hop limit of the packet that carried a body (RFC 8200, section 3)."""
    while True:
        packet = watch.recv(65535)
        if body in packet:
            return packet[7]

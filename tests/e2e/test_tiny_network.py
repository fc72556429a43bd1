"""The tiny image on a network: what it asks there, what it serves, what the seed sets."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.agent import a_spec
from tests.support.guest_networks import GuestNetwork
from tests.support.guests import QEMU_USER, Guest
from tests.support.images import ImageSource, an_image, built_tiny, open_folder
from tests.support.ports import a_port, an_ipv4, an_ipv6
from unkai_agent.domain.machines import DiskSpec, ImageFormat, SeedSpec
from unkai_agent.domain.ports import HostRoute, Ipv6Mode, PortSpec
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import MetadataSite
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.setns import call_inside
from unkai_agent.storage import image_header
from unkai_agent.storage.qcow2 import Qcow2Storage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-x86_64", "mcopy", "dnsmasq"))),
        reason="needs the packages that 'make setup' installs",
    ),
]

T = TypeVar("T")
INSTANCE = "ins-00000000000000000000000001"
WITHIN_S = 120.0
"""A boot takes 5 s; a busy machine may take longer."""
TOLD = """ip route; ip link show eth0; cat /etc/resolv.conf; nslookup -type=a db.internal"""


class Ward:
    """One guest of the built image, on a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = GuestNetwork(folder)
        self.guest: Guest | None = None
        self._storage: Qcow2Storage | None = None

    async def boot(
        self, seed: SeedSpec | None, *addresses: str, ports: tuple[PortSpec, ...] = ()
    ) -> Guest:
        """Power it on; without a seed its chassis says that there is a metadata service."""
        content = built_tiny().read_bytes()
        header = image_header.parse(content[: image_header.HEAD_BYTES], len(content))
        image = an_image(
            content,
            image_format=ImageFormat.QCOW2,
            virtual_size_bytes=header.virtual_size_bytes,
        )
        source = ImageSource()
        source.serve(image, content)
        self._storage = Qcow2Storage(
            self.folder / "state", source.fetch, QEMU_USER, lambda: datetime.now(UTC)
        )
        await self._storage.ensure_image(image)
        disk = await self._storage.create_disk(INSTANCE, DiskSpec("root", 64 << 20, image, False))
        path = None
        if seed is not None:
            path = await self._storage.ensure_seed(INSTANCE, seed, ports)
        assert disk.backing_path is not None
        self.guest = Guest(
            self.folder / "guest",
            disk.path,
            path,
            base=disk.backing_path,
            tap=await self.network.plug(*addresses),
            asset="" if seed else "OpenStack Nova",
        )
        await self.guest.start()
        return self.guest

    async def asked(self, port: int, kind: socket.SocketKind, host: str, question: bytes) -> bytes:
        """Return what the guest answers, once it answers at all."""

        def ask() -> bytes:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, kind) as made:
                made.settimeout(5)
                made.connect((host, port))
                made.sendall(question)
                made.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: made.recv(4096), b""))

        return await self.until(lambda: call_inside(self.network.path, ask))

    async def until(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until nothing refuses."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                with suppress(OSError):
                    return await call()
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        if self.guest is not None:
            await self.guest.stop()
        if self._storage is not None:
            await self._storage.close()
        self.network.close()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that QEMU's user can pass through."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
async def ward(tmp_path: Path) -> AsyncIterator[Ward]:
    made = Ward(tmp_path)
    yield made
    await made.close()


async def test_what_dhcp_and_a_router_tell_is_taken_and_a_guest_says_its_name_by_http(
    ward: Ward,
) -> None:
    script = f"#!/bin/sh\n{TOLD}\n".encode()
    seed = SeedSpec("web-1", (), script)
    guest = await ward.boot(seed, "10.0.0.1/24", "fd00::1/64", "10.9.9.1/32")
    ward.network.serve(
        "--dhcp-range=10.0.0.5,10.0.0.5,255.255.255.0,1h",
        "--dhcp-option-force=121,169.254.169.254/32,0.0.0.0,0.0.0.0/0,10.0.0.1",
        "--dhcp-option-force=option:mtu,1442",
        "--dhcp-option=option:dns-server,10.0.0.1",
        "--domain=net1.internal",
        "--dhcp-range=fd00::,ra-only",
        "--enable-ra",
        "--address=/db.internal/10.9.9.1",
    )

    # 1. It has what it was told before its user-data runs.
    await guest.shows("unkai-tiny: user-data exit=0", within_s=WITHIN_S)
    await guest.shows("unkai-tiny: eth0=fd00::ff:fe00:1/64", within_s=WITHIN_S)
    text = guest.text()
    assert "unkai-tiny: eth0=10.0.0.5/24" in guest.lines()
    for told in (
        "default via 10.0.0.1 dev eth0",
        "169.254.169.254 dev eth0 scope link",
        "mtu 1442",
        "search net1.internal",
        "nameserver 10.0.0.1",
        "Address: 10.9.9.1",
    ):
        assert told in text, told

    # 2. It says its name at port 80.
    for host in ("10.0.0.5", "fd00::ff:fe00:1"):
        question = b"GET / HTTP/1.0\r\n\r\n"
        answer = await ward.asked(80, socket.SOCK_STREAM, host, question)
        assert answer.startswith(b"HTTP/1.")
        assert answer.endswith(b"\nweb-1\n")


async def test_what_the_seed_sets_needs_nobody_to_answer(ward: Ward) -> None:
    port = a_port(
        addresses=(an_ipv4(dhcp=False), an_ipv6("fd00::5", dhcp=False)),
        host_routes=(HostRoute("192.168.7.0/24", "10.0.0.9"),),
    )
    script = b"#!/bin/sh\nip route; ip -6 route; ip link show eth0; cat /etc/resolv.conf\n"
    guest = await ward.boot(
        SeedSpec("web-1", (), script), "10.0.0.1/24", "fd00::1/64", ports=(port,)
    )
    await guest.shows("unkai-tiny: eth0=fd00::5/64", within_s=WITHIN_S)
    await guest.shows("unkai-tiny: user-data exit=0", within_s=WITHIN_S)
    for told in (
        "default via 10.0.0.1 dev eth0",
        "192.168.7.0/24 via 10.0.0.9 dev eth0",
        "169.254.169.254 ",
        "default via fd00::1 dev eth0",
        "mtu 1442",
        "nameserver 10.0.0.1",
    ):
        assert told in guest.text(), told
    for address in ("10.0.0.5", "fd00::5"):
        assert " 0% packet loss" in ward.network.inside("ping", "-c1", "-w20", address)


async def test_with_ipv6_alone_names_are_asked_of_the_host(ward: Ward) -> None:
    """A router's advertisements name it (RFC 8106), which this guest does not read."""
    port = a_port(addresses=(an_ipv6("fd00::ff:fe00:1", Ipv6Mode.SLAAC),), dns_servers=())
    script = b"#!/bin/sh\ncat /etc/resolv.conf; nslookup -type=aaaa db\n"
    guest = await ward.boot(
        SeedSpec("web-1", (), script), "fd00::1/64", "fe80::a9fe:a9fe/64", ports=(port,)
    )
    ward.network.serve("--dhcp-range=fd00::,ra-only", "--enable-ra", "--address=/db/fd00::9")
    await guest.shows("unkai-tiny: user-data exit=0", within_s=WITHIN_S)
    assert guest.text().count("nameserver fe80::a9fe:a9fe%eth0") == 1
    assert "Address: fd00::9" in guest.text()


async def test_a_network_where_nobody_answers_keeps_no_prompt_away(ward: Ward) -> None:
    guest = await ward.boot(SeedSpec("web-1", (), b""))
    await guest.shows("web-1 login:", within_s=WITHIN_S)
    await guest.type("root\n")
    await guest.shows("root@web-1:/root#", within_s=WITHIN_S)
    asks = "until kill -0 $(cat /run/cards/eth0/pid); do sleep 1; done 2>/dev/null"
    await guest.type(f"{asks}; echo it''asks\n")
    await guest.shows("itasks", within_s=WITHIN_S)
    assert "eth0=" not in guest.text()


async def test_without_a_seed_disk_the_metadata_service_says_who_it_is(ward: Ward) -> None:
    keys = ("ssh-ed25519 AAAA ada", "ssh-rsa BBBB bob")
    seed = SeedSpec("meta-1", keys, b"#!/bin/sh\necho hello from $(hostname)\n")
    spec = replace(a_spec(1, ports=(a_port(1),)), seed=seed, metadata_seed=True)
    async with AsyncExitStack() as stack:
        guest = await ward.boot(None, "10.0.0.1/24", "169.254.169.254/32")
        site = MetadataSite(spec.ports[0].network_id, Guests([spec]), Tokens())
        stack.push_async_callback(site.close)
        site.listen(
            await call_inside(
                ward.network.path, lambda: socket.create_server(("169.254.169.254", 80))
            )
        )
        ward.network.serve(
            "--port=0",
            "--dhcp-range=10.0.0.5,10.0.0.5,255.255.255.0,1h",
            "--dhcp-option-force=121,169.254.169.254/32,0.0.0.0,0.0.0.0/0,10.0.0.1",
        )
        await guest.shows("unkai-tiny: user-data exit=0", within_s=WITHIN_S)
        await guest.shows("meta-1 login:", within_s=WITHIN_S)
    assert "hello from meta-1\n" in guest.text()
    for line in ("hostname=meta-1", f"instance-id={spec.instance_id}", f"ssh-key={keys[1]}"):
        assert f"unkai-tiny: {line}" in guest.lines(), line

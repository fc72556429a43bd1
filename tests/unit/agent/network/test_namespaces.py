"""Namespaces of networks, for real: made, made whole again, told apart, and gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.namespaces import Guest, cleaned, needs_namespaces, run
from unkai_agent.network.driver import NetworkSite
from unkai_agent.network.namespaces import INNER, Namespaces, device_of, namespace_of
from unkai_agent.network.setns import call_inside
from unkai_wire.errors import NotFound
from unkai_wire.ids import new_id

pytestmark = needs_namespaces


@pytest.fixture
def site() -> NetworkSite:
    return NetworkSite(
        network_id=new_id("network"),
        interface_id="meta-1",
        mac_address="02:00:00:00:fe:01",
        mtu=1442,
        addresses=("10.0.0.2/24",),
        subnets=("10.1.0.0/24", "fd00::/64"),
    )


@pytest.fixture
def namespaces(tmp_path: Path, site: NetworkSite) -> Iterator[Namespaces]:
    with cleaned(tmp_path, site.network_id):
        yield Namespaces(tmp_path)


def inside(root: Path, site: NetworkSite, *command: str) -> str:
    return run("nsenter", f"--net={root / namespace_of(site.network_id)}", *command)


def told(root: Path, site: NetworkSite) -> dict[str, Any]:
    [card] = json.loads(inside(root, site, "ip", "-j", "addr", "show", "dev", INNER))
    return card


def addresses(root: Path, site: NetworkSite) -> set[str]:
    return {f"{each['local']}/{each['prefixlen']}" for each in told(root, site)["addr_info"]}


def routes(root: Path, site: NetworkSite) -> set[str]:
    words = ("route", "show", "dev", INNER, "proto", "static")
    found = [json.loads(inside(root, site, "ip", kind, "-j", *words)) for kind in ("-4", "-6")]
    return {each["dst"] for both in found for each in both}


def ours(root: Path, site: NetworkSite) -> tuple[Any, ...]:
    """What the agent made; the kernel's own address and the link's state come a little later."""
    card = told(root, site)
    own = {text for text in addresses(root, site) if not text.startswith("fe80::ff:fe00:")}
    return card["ifindex"], card["address"], card["mtu"], own, routes(root, site)


async def test_a_network_has_a_namespace_with_its_addresses(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    assert await namespaces.must_be_made(site.network_id)
    await namespaces.ensure(site)
    card = told(tmp_path, site)
    assert (card["address"], card["mtu"]) == (site.mac_address, 1442)
    assert addresses(tmp_path, site) >= {
        "169.254.169.254/32",
        "fe80::a9fe:a9fe/64",
        "10.0.0.2/24",
    }
    assert routes(tmp_path, site) == {"10.1.0.0/24", "fd00::/64"}
    assert "default" not in inside(tmp_path, site, "ip", "route")
    assert namespaces.found() == [site.network_id]
    [outer] = json.loads(run("ip", "-j", "addr", "show", "dev", device_of(site.network_id)))
    assert outer["mtu"] == 1442
    assert outer["addr_info"] == []  # the host itself is not on the network


async def test_making_it_again_changes_nothing(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    await namespaces.ensure(site)
    before = ours(tmp_path, site)
    identity = namespaces.identity(site.network_id)
    assert identity is not None
    assert not await namespaces.must_be_made(site.network_id)
    await namespaces.ensure(site)
    assert namespaces.identity(site.network_id) == identity
    assert ours(tmp_path, site) == before


async def test_what_a_network_became_its_namespace_becomes(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    await namespaces.ensure(site)
    identity = namespaces.identity(site.network_id)
    changed = replace(
        site,
        mac_address="02:00:00:00:fe:02",
        mtu=9000,
        addresses=("10.1.0.2/24", "fd00::2/64"),
        subnets=("10.0.0.0/24",),
    )
    await namespaces.ensure(changed)
    assert namespaces.identity(site.network_id) == identity
    assert (told(tmp_path, site)["address"], told(tmp_path, site)["mtu"]) == (
        "02:00:00:00:fe:02",
        9000,
    )
    assert "10.0.0.2/24" not in addresses(tmp_path, site)
    assert addresses(tmp_path, site) >= {"10.1.0.2/24", "fd00::2/64", "169.254.169.254/32"}
    assert routes(tmp_path, site) == {"10.0.0.0/24"}


async def test_a_pair_of_which_one_end_is_elsewhere_is_made_anew(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    await namespaces.ensure(site)
    inside(tmp_path, site, "ip", "link", "set", INNER, "name", "lost0")
    assert await namespaces.must_be_made(site.network_id)
    identity = namespaces.identity(site.network_id)
    await namespaces.ensure(site)
    assert namespaces.identity(site.network_id) not in (None, identity)
    assert "10.0.0.2/24" in addresses(tmp_path, site)


async def test_a_file_that_is_no_namespace_is_replaced(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    (tmp_path / namespace_of(site.network_id)).write_text("")
    assert await namespaces.must_be_made(site.network_id)
    await namespaces.ensure(site)
    assert namespaces.identity(site.network_id) is not None
    assert "169.254.169.254/32" in addresses(tmp_path, site)


async def test_a_removed_network_leaves_nothing(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    await namespaces.ensure(site)
    await namespaces.remove(site.network_id)
    await namespaces.remove(site.network_id)
    assert namespaces.found() == []
    assert os.listdir(tmp_path) == []
    assert not (Path("/sys/class/net") / device_of(site.network_id)).exists()


@pytest.mark.parametrize("mounts", [0, 2], ids=["not mounted", "mounted twice"])
async def test_what_a_crash_left_half_made_or_half_removed_is_removed(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite, mounts: int
) -> None:
    path = tmp_path / namespace_of(site.network_id)
    path.touch()
    for _ in range(mounts):
        run("unshare", f"--net={path}", "true")
    assert namespaces.found() == [site.network_id]
    await namespaces.remove(site.network_id)
    assert namespaces.found() == []


async def test_a_socket_stays_where_it_was_made(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    """Its address is none of this namespace's: here it cannot be bound."""

    def listen() -> socket.socket:
        return socket.create_server(("169.254.169.254", 80))

    with pytest.raises(OSError, match="assign"):
        listen()
    await namespaces.ensure(site)
    other = NetworkSite(new_id("network"), "meta-2", "02:00:00:00:fe:09", 1442)
    with cleaned(tmp_path, other.network_id):
        await namespaces.ensure(other)
        with (
            await namespaces.call(site.network_id, listen) as first,
            await namespaces.call(other.network_id, listen) as second,
        ):
            assert first.getsockname() == second.getsockname() == ("169.254.169.254", 80)
            listening = inside(tmp_path, site, "ss", "-Hltn")
            assert listening.count("169.254.169.254:80") == 1


async def test_what_is_asked_on_the_link_is_answered(
    namespaces: Namespaces, tmp_path: Path, site: NetworkSite
) -> None:
    """Also to a guest whose subnet the namespace has no address on."""
    await namespaces.ensure(site)
    guest = Guest(tmp_path, site.network_id, "10.1.0.7/24", "fd00::7/64")
    try:
        listener = await namespaces.call(
            site.network_id, lambda: socket.create_server(("169.254.169.254", 80))
        )
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        with listener:
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            client = await call_inside(
                guest.path, lambda: socket.create_connection(("169.254.169.254", 80), timeout=20)
            )
            connection, peer = await accepting
            client.close()
            connection.close()
        assert peer[0] == "10.1.0.7"
    finally:
        guest.close()


async def test_a_network_that_is_not_here_is_not_found(namespaces: Namespaces) -> None:
    with pytest.raises(NotFound) as caught:
        await namespaces.call(new_id("network"), lambda: None)
    assert caught.value.reason == "NETWORK_NOT_HERE"


async def test_no_call_leaves_a_thread_or_a_file_open(
    namespaces: Namespaces, site: NetworkSite
) -> None:
    def fail() -> None:
        raise ValueError("no")

    await namespaces.ensure(site)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(ValueError, match="no"):
            await namespaces.call(site.network_id, fail)
    for thread in threading.enumerate():
        if thread.name == "inside-a-network":
            thread.join(10)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [t for t in threading.enumerate() if t.name == "inside-a-network"]


async def test_a_socket_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    gate, made = threading.Event(), socket.socket()

    def slow() -> socket.socket:
        gate.wait(20)
        return made

    waiting = asyncio.ensure_future(call_inside(Path("/proc/self/ns/net"), slow))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    async with asyncio.timeout(20):
        while made.fileno() != -1:  # noqa: ASYNC110 - another thread ends it
            await asyncio.sleep(0.01)

"""One namespace for each network that a machine here is on, reached by a veth pair.

The outer end is plugged into the switch, the inner one has the addresses that guests ask. A veth
and not a port of the switch's own: a switch in userspace loses sight of a device that moves into a
namespace. Nothing is forwarded and there is no default route: what is inside sees its network
alone, so that networks with equal addresses cannot be confused.

All is found again after a crash by its name. Each step looks first. The trap: a namespace lives as
long as a socket in it, so sockets are closed before it is removed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypeVar

from unkai_agent.domain.ports import METADATA_ADDRESS
from unkai_agent.network.driver import NetworkSite, SiteIdentity
from unkai_agent.network.setns import call_inside
from unkai_wire.errors import NotFound, Unavailable
from unkai_wire.ids import is_id

T = TypeVar("T")
ADDRESS_V4 = METADATA_ADDRESS
ADDRESS_V6 = "fe80::a9fe:a9fe"
"""The same for IPv6, as OpenStack has it."""
INNER = "network0"
"""Name of the inner end, in each namespace."""
_PREFIX = "unkai-"
_RUN_S = 10.0
_ROOT = Path("/run/netns")
"""Where iproute2 looks for them: `ip netns exec unkai-net-… ss -l` works."""
_SYSCTLS = {
    f"ipv6/conf/{INNER}/disable_ipv6": "0",
    # Each host has the same addresses on a network; nobody's may count as a duplicate.
    f"ipv6/conf/{INNER}/accept_dad": "0",
    f"ipv6/conf/{INNER}/accept_ra": "0",
    f"ipv6/conf/{INNER}/forwarding": "0",
    f"ipv4/conf/{INNER}/forwarding": "0",
}
# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_OFFLOADS_OFF = (0x17, 0x1F, 0x24)
"""ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO: a switch in userspace would pass on what the kernel
left to the card, half-made."""


def namespace_of(network_id: str) -> str:
    """Return the name of a network's namespace."""
    return _PREFIX + network_id


def device_of(network_id: str) -> str:
    """Return the name of the outer end; by the id's random part, as ports' devices."""
    return f"um{network_id[-12:]}"


class Namespaces:
    """The namespaces of this host's networks."""

    def __init__(self, root: Path = _ROOT) -> None:
        """`root`: where they are; no two hosts share it."""
        self._root = root

    def found(self) -> list[str]:
        """Return the networks that have a namespace here."""
        names = [path.name for path in self._root.glob(f"{_PREFIX}net-*")]
        found = (name.removeprefix(_PREFIX) for name in names)
        return sorted(ident for ident in found if is_id("network", ident))

    async def call(self, network_id: str, call: Callable[[], T]) -> T:
        """Call inside a network's namespace. Raises `NotFound` / NETWORK_NOT_HERE."""
        try:
            return await call_inside(self._path(network_id), call)
        except FileNotFoundError as error:
            raise _not_here(network_id) from error

    async def ensure(self, site: NetworkSite) -> None:
        """Have the namespace of a network with all in it.

        New ends must be plugged again: where such were plugged before, unplug them first
        (`must_be_made`).
        """
        await self._ensure_namespace(site.network_id)
        await self._ensure_pair(site)
        await self._ensure_addresses(site)

    def identity(self, network_id: str) -> SiteIdentity | None:
        """Tell which namespace it is and which outer end; None: one of them is not there."""
        path = self._path(network_id)
        try:
            if not self._is_mounted(path):
                return None
            # The kernel gives a namespace's number to no other while a socket in it is open, and
            # an index to no other device until it has counted through all.
            return (path.stat().st_ino, socket.if_nametoindex(device_of(network_id)))
        except OSError:
            return None

    async def must_be_made(self, network_id: str) -> bool:
        """Tell whether `ensure` would make the ends anew."""
        if not self._is_mounted(self._path(network_id)):
            return True
        outer = await _link(device_of(network_id))
        inner = await self._inner(network_id)
        return outer is None or inner is None

    async def remove(self, network_id: str) -> None:
        """Remove a namespace and its ends; the outer one must be unplugged."""
        if await _link(device_of(network_id)) is not None:
            await _ip("link", "del", device_of(network_id))
        path = self._path(network_id)
        # After a crash it may be a bare file, or have what a process of then mounted besides.
        while self._is_mounted(path):
            await _run("umount", str(path))
        path.unlink(missing_ok=True)

    def _is_mounted(self, path: Path) -> bool:
        return path.exists() and path.stat().st_dev != self._root.stat().st_dev

    def _path(self, network_id: str) -> Path:
        return self._root / namespace_of(network_id)

    async def _ensure_namespace(self, network_id: str) -> None:
        path = self._path(network_id)
        if path.exists():
            try:
                await call_inside(path, lambda: None)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                path.unlink()  # a file that no namespace is mounted on: left by a crash
            else:
                return
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch(mode=0o444)
        await _run("unshare", f"--net={path}", "ip", "link", "set", "lo", "up")

    async def _inner(self, network_id: str) -> Mapping[str, Any] | None:
        return await _link(INNER, self._path(network_id))

    async def _ensure_pair(self, site: NetworkSite) -> None:
        outer, path = device_of(site.network_id), self._path(site.network_id)
        missing = await _link(outer) is None, await self._inner(site.network_id) is None
        if not any(missing):
            return
        # One end without the other: it leads elsewhere.
        if not missing[0]:
            await _ip("link", "del", outer)
        if not missing[1]:
            await _ip("link", "del", INNER, inside=path)
        mtu = str(site.mtu)
        await _ip(
            *("link", "add", outer, "mtu", mtu, "type", "veth"),
            *("peer", "name", INNER, "netns", str(path), "mtu", mtu, "address", site.mac_address),
        )

    async def _ensure_addresses(self, site: NetworkSite) -> None:
        path, outer = self._path(site.network_id), device_of(site.network_id)
        await self.call(site.network_id, _prepare)
        inner = await self._inner(site.network_id)
        if inner is None:
            raise _failed("look at a network's namespace", f"{INNER} is not there")
        routes = {each["dst"] for kind in "46" for each in await _routes(path, kind)}
        lines = _setting(site, inner, routes)
        await _ip("-batch", "-", inside=path, given="".join(f"{line}\n" for line in lines))
        # The host itself is not on its guests' networks.
        _set(f"ipv6/conf/{outer}/disable_ipv6", "1")
        await _ip("link", "set", outer, "mtu", str(site.mtu), "up")


def _setting(site: NetworkSite, inner: Mapping[str, Any], routes: Set[str]) -> list[str]:
    """Return the lines that bring the inner end about, from how it is. Pure."""
    wanted = {f"{ADDRESS_V4}/32", f"{ADDRESS_V6}/64", *site.addresses}
    held = {f"{each['local']}/{each['prefixlen']}" for each in inner.get("addr_info", ())}
    lines = []
    if inner.get("address") != site.mac_address:
        # Setting it down takes its IPv6 addresses and its routes away.
        lines += [f"link set {INNER} down", f"link set {INNER} address {site.mac_address}"]
        held, routes = {text for text in held if ":" not in text}, frozenset()
    lines.append(f"link set {INNER} mtu {site.mtu} up")
    # The address that the kernel makes of the MAC is its own business.
    stale = sorted(text for text in held - wanted if not _is_link_local(text))
    lines += [f"addr del {text} dev {INNER}" for text in stale]
    for text in sorted(wanted - held):
        lines.append(f"addr add {text} dev {INNER}{' nodad' if ':' in text else ''}")
    # Subnets without an address of ours: asked and answered under the one that all have.
    lines += [
        f"route del {text} dev {INNER} proto static" for text in sorted(routes - {*site.subnets})
    ]
    for subnet in sorted({*site.subnets} - routes):
        source = "" if ":" in subnet else f" src {ADDRESS_V4}"
        lines.append(f"route replace {subnet} dev {INNER} proto static{source}")
    return lines


def _is_link_local(text: str) -> bool:
    address = ip_interface(text).ip
    return address.version == 6 and address.is_link_local


def _prepare() -> None:
    """Set what has no word in `ip`; runs inside the namespace."""
    for name, value in _SYSCTLS.items():
        _set(name, value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for command in _OFFLOADS_OFF:
            _ethtool(asked, bytearray(struct.pack("II", command, 0)))


def _set(name: str, value: str) -> None:
    path = Path("/proc/sys/net") / name
    if path.exists():  # a kernel without IPv6 has none of its
        path.write_text(value)


def _ethtool(asked: socket.socket, value: bytearray) -> None:
    """Ask for one setting (netdevice(7): `struct ifreq` with a pointer to it)."""
    import ctypes

    holder = (ctypes.c_char * len(value)).from_buffer(value)
    request = struct.pack("16sP16x", INNER.encode(), ctypes.addressof(holder))
    try:
        fcntl.ioctl(asked, _SIOCETHTOOL, request)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


async def _link(name: str, inside: Path | None = None) -> Mapping[str, Any] | None:
    """Return a device with its addresses, or None."""
    try:
        [found] = json.loads(await _ip("-j", "addr", "show", "dev", name, inside=inside))
    except Unavailable as error:
        if "does not exist" in error.metadata.get("problem", ""):
            return None
        raise
    return dict(found)


async def _routes(inside: Path, kind: str) -> Sequence[Mapping[str, str]]:
    """Return the routes of a namespace that we made."""
    words = (f"-{kind}", "-j", "route", "show", "dev", INNER, "proto", "static")
    return list(json.loads(await _ip(*words, inside=inside) or "[]"))


async def _ip(*arguments: str, inside: Path | None = None, given: str = "") -> str:
    """Run `ip`, in a namespace or here. Its own `-n` knows namespaces in one folder alone."""
    where = () if inside is None else ("nsenter", f"--net={inside}")
    return await _run(*where, "ip", *arguments, given=given)


async def _run(*command: str, given: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C"},
    )
    act = " ".join(command)
    try:
        async with asyncio.timeout(_RUN_S):
            output, errors = await process.communicate(given.encode())
    except TimeoutError as error:
        raise _failed(act, f"{command[0]} did not end within {_RUN_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        raise _failed(act, (lines or ["it said nothing"])[0])
    return output.decode("utf-8", "replace")


def _failed(act: str, problem: str) -> Unavailable:
    return Unavailable(
        f"the host's network was not set up: {problem}",
        reason="NAMESPACE_FAILED",
        fix="look at the agent's log and at 'ip netns' on the host",
        metadata={"act": act, "problem": problem},
        retry_after_s=1.0,
    )


def _not_here(network_id: str) -> NotFound:
    return NotFound(
        f"network {network_id} is not served on this host",
        reason="NETWORK_NOT_HERE",
        fix="only the host of a machine on the network serves it: read the instance again",
        metadata={"network_id": network_id},
        resource_kind="network",
        resource=network_id,
    )

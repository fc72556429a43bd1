"""The port to the host's switch. Implemented by `ovs_driver.py` and `fake.py`.

libvirt plugs the devices of machines; this says whether what OVN has for them is in force, removes
what a crash left, and makes a namespace for each network that a machine here is on. Every method
may run twice. Methods raise `Unavailable` / SWITCH_UNAVAILABLE when the switch does not answer
within its deadline: the outcome is then unknown, look again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_interface
from pathlib import Path
from typing import Protocol

from unkai_agent.domain.ports import PortSpec
from unkai_wire.errors import UnkaiError


class Datapath(Enum):
    """What forwards frames: the kernel's module, or the switch's own process."""

    SYSTEM = "system"
    NETDEV = "netdev"


@dataclass(frozen=True, slots=True)
class SwitchTls:
    """What the switch shows to OVN's databases, and checks them by. PEM files."""

    key: Path
    certificate: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """How this host belongs to OVN."""

    host_id: str
    """Name of the chassis; must equal the certificate's common name for the southbound role."""
    host_name: str
    remotes: tuple[str, ...]
    """Southbound databases, `ssl:ADDRESS:PORT`; addresses, not names."""
    encap_address: str
    """Address of this host that tunnels end at."""
    datapath: Datapath
    bridge_mappings: Mapping[str, str] = field(default_factory=dict)
    """Bridge on this host by the name of the operator's network."""
    tls: SwitchTls | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a port stands in the switch."""

    installed: bool
    installed_ms: int = 0
    """When OVN said so, in Unix milliseconds; 0: not told."""
    reason: str = ""
    """Why not: PORT_NOT_PLUGGED, PORT_NO_DEVICE, PORT_DUPLICATE or PORT_NOT_INSTALLED."""
    problem: str = ""
    """The same in words."""


@dataclass(frozen=True, slots=True)
class NetworkSite:
    """A network that a machine here is on, as this host serves it."""

    network_id: str
    interface_id: str
    mac_address: str
    mtu: int
    addresses: tuple[str, ...] = ()
    """Its own on the network's subnets, in CIDR notation."""
    subnets: tuple[str, ...] = ()
    """Subnets of machines here that it has no address on: they are on the link."""


def sites_of(ports: Iterable[PortSpec]) -> tuple[NetworkSite, ...]:
    """Return the networks of a host's ports, by id; those without a metadata port are left out."""
    by_network: dict[str, list[PortSpec]] = {}
    for port in ports:
        if port.metadata is not None:
            by_network.setdefault(port.network_id, []).append(port)
    return tuple(_site(network_id, on_it) for network_id, on_it in sorted(by_network.items()))


def _site(network_id: str, ports: Sequence[PortSpec]) -> NetworkSite:
    # Orders of one network may be of different ages: the port made last knows best.
    newest = max(ports, key=lambda port: port.port_id)
    assert newest.metadata is not None, "others were left out"
    own = newest.metadata.addresses
    reached = {ip_interface(text).network for text in own}
    subnets = {address.interface.network for port in ports for address in port.addresses}
    return NetworkSite(
        network_id=network_id,
        interface_id=newest.metadata.interface_id,
        mac_address=newest.metadata.mac_address,
        mtu=newest.mtu,
        addresses=own,
        subnets=tuple(sorted(str(subnet) for subnet in subnets - reached)),
    )


@dataclass(frozen=True, slots=True)
class PortCounters:
    """What a port's device has counted since it was made, seen from the guest."""

    received_bytes: int
    received_packets: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_dropped: int


SiteIdentity = tuple[int, ...]
"""Which namespace a network has, and which way into it; another one is never equal to one in which
sockets are still open."""


class NetworkDriver(Protocol):
    """The switch of this host."""

    async def join(self, settings: JoinSettings) -> None:
        """Let this host belong to OVN.

        Raises `FailedPrecondition`: SWITCH_JOINED_OTHERWISE when it belongs under another name;
        DATAPATH_IN_USE when the datapath would have to change while guests use it.
        """

    async def see_alive(self) -> Sequence[int]:
        """Return the processes of the programs that carry and steer packets, which have answered.

        In the same order each time: another number is another process. The switch's database may
        answer all else without them. Raises `Unavailable`:
        SWITCH_PROGRAM_DOWN, SWITCH_PROGRAM_HANGS.
        """

    async def clear(self, port_ids: Iterable[str]) -> None:
        """Remove what the switch has of ports: of such as are plugged anew, so that what is said
        of them is new; of such as are unplugged, so that nothing passes any more.

        Returns when the switch has let go of their devices.
        """

    async def wirings(self, ports: Sequence[PortSpec]) -> Mapping[str, Wiring]:
        """Say how ports stand, by port id; as of a moment after the call."""

    async def sweep(self, running: Set[str]) -> Sequence[str]:
        """Remove ports of machines that are gone, but never one whose device is there.

        `running`: ids of the instances whose machines are on. Returns names of devices.
        """

    async def ensure_sites(self, sites: Sequence[NetworkSite]) -> Mapping[str, UnkaiError]:
        """Have a namespace for each of these networks, as given, and none of others.

        Returns what hindered networks, by id: one's trouble is told of it alone; the switch's is
        raised. Whatever the outcome, namespaces may have been made anew: see `site_identity`.
        Close the sockets of a network before it goes: they would keep its namespace.
        """

    async def site_identity(self, network_id: str) -> SiteIdentity | None:
        """Tell which namespace a network has now; None: none, or no way into it.

        Sockets that were made when it was another are open, and of no use. Costs next to nothing,
        and does not see all that may be wrong.
        """

    async def open_socket(
        self, network_id: str, make: Callable[[], socket.socket]
    ) -> socket.socket:
        """Make a socket inside a network's namespace; it stays there.

        `make` runs in a thread of its own. Raises `NotFound` / NETWORK_NOT_HERE.
        """

    async def statistics(self) -> Mapping[str, PortCounters]:
        """Return counters by device, of all machines' ports."""

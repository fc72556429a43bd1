"""Which machine asks: by the network it asks on and the address it asks from. Pure.

The network comes from the socket, not from the packet, so that equal addresses on two networks are
two guests. That an address is its guest's own is what OVN's port security makes true.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from unkai_agent.domain.machines import MachineSpec
from unkai_agent.domain.ports import PortSpec


@dataclass(frozen=True, slots=True)
class Guest:
    """A machine, and the port that it asks by."""

    spec: MachineSpec
    port: PortSpec


class Guests:
    """The machines of a host. `hold` replaces them whole; asking takes no time."""

    def __init__(self, specs: Iterable[MachineSpec] = ()) -> None:
        self._found: dict[tuple[str, str], Guest | None] = {}
        self.hold(specs)

    def hold(self, specs: Iterable[MachineSpec]) -> None:
        """Know these machines and no others. An address that two have is nobody's."""
        found: dict[tuple[str, str], Guest | None] = {}
        for spec in specs:
            for port in spec.ports:
                own = {each.address for each in port.addresses}
                for address in own | {link_local_of(port.mac_address)}:
                    key = (port.network_id, address)
                    found[key] = None if key in found else Guest(spec, port)
        self._found = found

    def asking(self, network_id: str, address: str) -> Guest | None:
        """Return who asks on a network from an address, as a socket tells it; None: nobody's."""
        try:
            plain = str(ip_address(address.partition("%")[0]))
        except ValueError:
            return None
        return self._found.get((network_id, plain))


def link_local_of(mac_address: str) -> str:
    """Return the IPv6 address that a guest makes of its MAC address (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac_address.replace(":", ""))
    ident = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + ident))

"""Addresses, CIDRs and MAC addresses: one way to write each, and what is reckoned with them.

Rows and messages hold the canonical text that the `check_` functions return (RFC 5952 for IPv6, a
network without host bits, a MAC in lower case with colons), so that equal things are equal texts.
Where order counts, an address is its key: its 4 or 16 bytes in hexadecimal, of fixed width.

The trap: a key of IPv4 and one of IPv6 do not compare; ranges never mix them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import pairwise

from unkai_scheduler.domain.networks import Range
from unkai_wire.errors import InvalidArgument

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

MAX_RANGES = 32
IPV4_PREFIXES = range(8, 31)
"""Bits that a subnet of IPv4 may have; of 31 and 32 nothing is left beside gateway and edges."""
IPV6_PREFIXES = range(32, 127)
SLAAC_PREFIX = 64
"""Bits of a prefix in which guests make their own address (RFC 4862, with RFC 4291 appendix A)."""
OVERLAY_HEADER_BYTES = {4: 58, 6: 78}
"""What the tunnel adds, by the version it runs over: the frame's own header (14), IP (20 or 40),
UDP (8), Geneve (8, RFC 8926) and OVN's option (8)."""

_PREFIX = re.compile(r"[^/]+(/(0|[1-9][0-9]{0,2}))?")
_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}")
_IPV4_IN_IPV6 = IPv6Network("::ffff:0:0/96")
_UNUSABLE = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: metadata is there, on every network
        "224.0.0.0/3",  # multicast, and what is reserved
        "::/16",  # unspecified, loopback, IPv4 in IPv6
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
    )
)
"""No subnet overlaps these (RFC 6890, RFC 4291)."""
_GROWTH = 16


def check_address(text: str, field: str) -> str:
    """Return the address as it is written everywhere; raise `InvalidArgument` when it is none."""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise _invalid_address(text, field, "is not an IP address") from error
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise _invalid_address(text, field, "names an interface (%)")
        if address in _IPV4_IN_IPV6:
            raise _invalid_address(text, field, "is IPv4 in IPv6; write the IPv4 address")
    return str(address)


def check_cidr(text: str, field: str) -> str:
    """Return a network in CIDR notation, or an address as the network of it alone.

    Raise `InvalidArgument` when it is neither, or has bits beyond its prefix.
    """
    if not _PREFIX.fullmatch(text) or "%" in text:
        raise _invalid_cidr(text, field)
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise _invalid_cidr(text, field) from error
    if str(network.network_address) != check_address(text.partition("/")[0], field):
        raise InvalidArgument.field(
            field,
            f"{text[:64]!r} has bits beyond its prefix",
            reason="INVALID_CIDR",
            fix=f"write {network} for the network, or /{network.max_prefixlen} for one address",
        )
    return str(network)


def check_subnet_cidr(text: str, field: str) -> str:
    """Return a CIDR that a subnet may have: unicast, of 8 to 30 bits, or of 32 to 126 for IPv6."""
    cidr = check_cidr(text, field)
    network = ip_network(cidr)
    allowed = IPV4_PREFIXES if network.version == 4 else IPV6_PREFIXES
    if network.prefixlen not in allowed:
        raise InvalidArgument.field(
            field,
            f"{cidr} has a prefix of {network.prefixlen} bits; a subnet of IPv{network.version} "
            f"has {allowed.start} to {allowed.stop - 1}",
            reason="INVALID_CIDR",
        )
    if taken := next((some for some in _UNUSABLE if _overlap(some, network)), None):
        raise InvalidArgument.field(
            field, f"{cidr} overlaps {taken}, which no subnet may have", reason="INVALID_CIDR"
        )
    return cidr


def check_mac(text: str, field: str) -> str:
    """Return a unicast MAC address as it is written everywhere; raise `InvalidArgument`."""
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        raise InvalidArgument.field(
            field,
            f"{text[:64]!r} is not a MAC address, such as 02:0a:1b:2c:3d:4e",
            reason="INVALID_MAC_ADDRESS",
        )
    mac = lower.replace("-", ":")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidArgument.field(
            field, f"{mac} is not the address of one interface", reason="INVALID_MAC_ADDRESS"
        )
    if mac.startswith("fe"):
        raise InvalidArgument.field(
            field,
            f"{mac} begins with fe, as the devices of hypervisors do",
            reason="INVALID_MAC_ADDRESS",
        )
    return mac


def check_usable(address: str, cidr: str, field: str) -> str:
    """Return the address when an interface on a subnet may have it; raise `InvalidArgument`."""
    lowest, highest = _usable(ip_network(cidr))
    if not (
        version_of(address) == version_of(cidr) and lowest <= int(ip_address(address)) <= highest
    ):
        raise InvalidArgument.field(
            field,
            f"{address} is not an address that an interface on {cidr} may have",
            reason="ADDRESS_NOT_IN_SUBNET",
        )
    return address


def check_ranges(ranges: Sequence[Range], cidr: str, gateway: str, field: str) -> tuple[Range, ...]:
    """Return ranges in canonical form and in order; raise `InvalidArgument` for what is wrong.

    Each is within the subnet, without its edges and the gateway, and none overlaps another.
    """
    if len(ranges) > MAX_RANGES:
        raise InvalidArgument.field(
            field, f"has {len(ranges)} ranges; {MAX_RANGES} are allowed", reason="TOO_MANY_RANGES"
        )
    checked: list[Range] = []
    for number, some in enumerate(ranges):
        path = f"{field}[{number}]"
        first = check_usable(check_address(some.first, f"{path}.first"), cidr, f"{path}.first")
        last = check_usable(check_address(some.last, f"{path}.last"), cidr, f"{path}.last")
        if _number(first) > _number(last):
            raise _invalid_range(path, f"{first} is after {last}")
        checked.append(Range(first, last))
    checked.sort(key=lambda some: _number(some.first))
    for before, after in pairwise(checked):
        if _number(before.last) >= _number(after.first):
            raise _invalid_range(
                field, f"{_text(before)} and {_text(after)} have addresses in common"
            )
    if gateway and in_ranges(gateway, checked):
        raise _invalid_range(field, f"holds the gateway's address {gateway}")
    return tuple(checked)


def default_gateway(cidr: str) -> str:
    """Return the first address of a subnet that an interface may have."""
    network = ip_network(cidr)
    return _address(_usable(network)[0], network.version)


def default_ranges(cidr: str, gateway: str) -> tuple[Range, ...]:
    """Return all addresses of a subnet but its edges' and the gateway's; empty `gateway`: none.

    Edges: IPv4's network and broadcast addresses; for IPv6 the first, which all routers of a subnet
    answer to (RFC 4291 section 2.6.1).
    """
    network = ip_network(cidr)
    lowest, highest = _usable(network)
    parts = [(lowest, highest)]
    if gateway and lowest <= (place := _number(gateway)) <= highest:
        parts = [(lowest, place - 1), (place + 1, highest)]
    return tuple(
        Range(_address(first, network.version), _address(last, network.version))
        for first, last in parts
        if first <= last
    )


def version_of(text: str) -> int:
    """Return 4 or 6: the version of a canonical address or CIDR."""
    return 6 if ":" in text else 4


def contains(cidr: str, address: str) -> bool:
    """Tell whether an address is in a network."""
    return ip_address(address) in ip_network(cidr)


def overlaps(one: str, other: str) -> bool:
    """Tell whether two networks have an address in common."""
    return _overlap(ip_network(one), ip_network(other))


def in_ranges(address: str, ranges: Sequence[Range]) -> bool:
    """Tell whether an address is in one of these ranges, which are of its version."""
    place = _number(address)
    return any(_number(some.first) <= place <= _number(some.last) for some in ranges)


def count_of(ranges: Sequence[Range]) -> int:
    """Return how many addresses ranges have that do not overlap."""
    return sum(_number(some.last) - _number(some.first) + 1 for some in ranges)


def key_of(address: str) -> str:
    """Return the address's bytes in hexadecimal: 8 or 32 characters, which sort as it does."""
    return ip_address(address).packed.hex()


def address_of(key: str) -> str:
    """Return the address that a key is of."""
    return str(ip_address(bytes.fromhex(key)))


def eui64(mac: str, cidr: str) -> str:
    """Return the address that a guest of this MAC makes in a prefix of 64 bits.

    Source: RFC 4291 appendix A. Raise ValueError when the prefix is not one of these.
    """
    network = ip_network(cidr)
    if network.version != 6 or network.prefixlen != SLAAC_PREFIX:
        raise ValueError(f"{cidr} is not an IPv6 prefix of {SLAAC_PREFIX} bits")
    value = int(mac.replace(":", ""), 16)
    high, low = value >> 24 ^ 0x02_00_00, value & 0xFF_FF_FF
    return str(IPv6Address(int(network.network_address) | high << 40 | 0xFFFE << 24 | low))


def make_mac(random_bits: Callable[[int], int]) -> str:
    """Make a MAC address: `02`, which says that it is nobody's product, and 40 random bits.

    `random_bits(n)`: as `secrets.randbits`.
    """
    digits = f"02{random_bits(40):010x}"
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2))


def overlay_mtu(underlay_mtu: int, underlay_version: int) -> int:
    """Return the bytes of the largest packet that a tunnel over this network carries whole."""
    return underlay_mtu - OVERLAY_HEADER_BYTES[underlay_version]


def spans_from(ranges: Sequence[Range], hint: int) -> Iterator[tuple[int, int]]:
    """Give ranges as pairs of numbers, from the hint upwards and then those below it."""
    spans = sorted((_number(some.first), _number(some.last)) for some in ranges)
    yield from ((max(first, hint), last) for first, last in spans if last >= hint)
    yield from ((first, min(last, hint - 1)) for first, last in spans if first < hint)


def lowest_free(first: int, last: int, count_used: Callable[[int, int], int]) -> int | None:
    """Return the lowest number of a span that is not used; None when all are.

    `count_used(a, b)`: how many of a to b are used. It is asked for steps that grow until one is
    not full, and then for halves of that one: O(log n) questions, and together they count no more
    than a few times as many numbers as are in use below the one that is found, or just above it.
    """
    size = 1
    while first <= last:
        end = min(last, first + size - 1)
        if count_used(first, end) <= end - first:
            return _lowest_within(first, end, count_used)
        first, size = end + 1, size * _GROWTH
    return None


def _lowest_within(first: int, last: int, count_used: Callable[[int, int], int]) -> int:
    while first < last:
        middle = (first + last) // 2
        if count_used(first, middle) <= middle - first:
            last = middle
        else:
            first = middle + 1
    return first


def _usable(network: IpNetwork) -> tuple[int, int]:
    first, last = int(network.network_address), int(network.broadcast_address)
    return first + 1, last - 1 if network.version == 4 else last


def _overlap(one: IpNetwork, other: IpNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _number(address: str) -> int:
    return int(ip_address(address))


def _address(number: int, version: int) -> str:
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))


def _text(some: Range) -> str:
    return f"{some.first} to {some.last}"


def _invalid_address(text: str, field: str, problem: str) -> InvalidArgument:
    return InvalidArgument.field(field, f"{text[:64]!r} {problem}", reason="INVALID_ADDRESS")


def _invalid_cidr(text: str, field: str) -> InvalidArgument:
    return InvalidArgument.field(
        field,
        f"{text[:64]!r} is not a network in CIDR notation, such as 10.0.0.0/24 or fd00::/64",
        reason="INVALID_CIDR",
    )


def _invalid_range(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument.field(field, problem, reason="INVALID_RANGE")

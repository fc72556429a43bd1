"""Addresses, networks, ports, rates and the far end of `why`, as people write them.

Pure functions that raise `ValueError` with what to write instead, and the option types made of
them. `ipaddress` is imported when something is parsed: help must stay quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import click

T = TypeVar("T")

MAX_PORT = 65535
PROTOCOLS = ("tcp", "udp", "sctp", "icmp")
KINDS = {
    "instance": "instance",
    "port": "port",
    "floating-ip": "floating_ip",
    "fip": "floating_ip",
    "load-balancer": "load_balancer",
    "lb": "load_balancer",
}
"""Words that may stand before a name, as `load-balancer/web`."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:bit(?:/s)?|bps|b/s)?", re.IGNORECASE | re.ASCII)
_RATE_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MAX_RATE = 10**13


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The far end of a question: `db:443`, `[fd00::1]:53/udp`, `lb/web:80`, `10.0.0.5`."""

    name: str
    """Name, id or address."""
    kind: str = ""
    """Kind of what is named; empty: any."""
    port_number: int = 0
    protocol: str = "icmp"


def cidr(text: str) -> str:
    """Return a network in CIDR notation; an address alone is a network of itself.

    Bits beyond the prefix are refused: `10.0.0.5/24` is likelier a mistake than `10.0.0.0/24`.
    """
    import ipaddress

    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        try:
            meant = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            message = f"{text!r} is not a network; write 10.0.0.0/24 or fd00::/64"
            raise ValueError(message) from None
    raise ValueError(f"{text!r} has bits beyond its prefix; write {meant}, or the address alone")


def address(text: str) -> str:
    """Return an address in its canonical form."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"{text!r} is not an address; write 10.0.0.5 or fd00::5") from None


def is_address(text: str) -> bool:
    """Tell whether a text is an address."""
    try:
        address(text)
    except ValueError:
        return False
    return True


def mac(text: str) -> str:
    """Return a MAC address in small letters with colons."""
    plain = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(plain):
        raise ValueError(f"{text!r} is not a MAC address; write 02:00:00:aa:bb:cc")
    return plain


def port_number(text: str) -> int:
    """Return a port number, 1 to 65535."""
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_PORT:
        raise ValueError(f"{text!r} is not a port number; write 1 to {MAX_PORT}")
    return int(text)


def port_range(text: str) -> tuple[int, int]:
    """Return both ends of `80` or `80-90`; also of `80:90`."""
    first, dash, last = text.replace(":", "-").partition("-")
    ends = port_number(first), port_number(last if dash else first)
    if ends[0] > ends[1]:
        raise ValueError(f"{text!r} ends before it begins; write {ends[1]}-{ends[0]}")
    return ends


def address_range(text: str) -> tuple[str, str]:
    """Return both ends of `10.0.0.10-10.0.0.99`."""
    import ipaddress

    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is not a range; write 10.0.0.10-10.0.0.99")
    ends = ipaddress.ip_address(address(first)), ipaddress.ip_address(address(last))
    if ends[0].version != ends[1].version:
        raise ValueError(f"{text!r} has ends of two kinds; write both in IPv4 or both in IPv6")
    if int(ends[0]) > int(ends[1]):
        raise ValueError(f"{text!r} ends before it begins; write {ends[1]}-{ends[0]}")
    return str(ends[0]), str(ends[1])


def route(text: str) -> tuple[str, str]:
    """Return destination and next hop of `10.9.0.0/16=10.0.0.7`; `via` may stand for `=`.

    `default` is where all else goes, of the next hop's kind.
    """
    where, equals, hop = re.sub(r"\s+via\s+", "=", text.strip()).partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not a route; write 10.9.0.0/16=10.0.0.7")
    next_hop = address(hop)
    everywhere = "::/0" if ":" in next_hop else "0.0.0.0/0"
    destination = everywhere if where.strip() == "default" else cidr(where)
    if (":" in destination) != (":" in next_hop):
        raise ValueError(f"{text!r} leads by an address of another kind than its destination")
    return destination, next_hop


def address_pair(text: str) -> tuple[str, str]:
    """Return network and MAC address of `10.0.0.9`, `10.9.0.0/16=02:00:00:aa:bb:cc`."""
    where, equals, theirs = text.partition("=")
    return cidr(where), mac(theirs) if equals else ""


def rate(text: str) -> int:
    """Return bits per second, decimal as networks are: `100M`, `1Gbit`, `2.5G`."""
    match = _RATE.fullmatch(text.strip())
    number = Fraction(match[1]) * _RATE_FACTORS[match[2].lower()] if match else Fraction(1, 2)
    if number.denominator != 1:
        raise ValueError(f"{text!r} is not a rate; write 100M or 1G (bits per second)")
    if number > _MAX_RATE:
        raise ValueError(f"{text!r} is more than any network carries")
    return int(number)


def rate_text(bits: int) -> str:
    """Return a rate as people say it: `100Mbit/s`."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if bits >= factor and bits % (factor // 10) == 0:
            return f"{bits / factor:g}{unit}bit/s"
    return f"{bits}bit/s"


def listening(text: str) -> tuple[str, int]:
    """Return protocol and port number of `80`, `53/udp`, `tcp:80`."""
    number, protocol = text.lower(), "tcp"
    for sign in "/:":
        one, found, other = number.partition(sign)
        if found:
            number, protocol = (other, one) if one in PROTOCOLS else (one, other)
            break
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"{text!r} is no listener; write 80 or 53/udp")
    return protocol, port_number(number)


def named_port(text: str) -> tuple[str, int]:
    """Return name and port number of `web`, `web:8080`; 0 for none."""
    name, colon, number = text.partition(":")
    if not name:
        raise ValueError(f"{text!r} names nothing; write NAME or NAME:PORT")
    return name, port_number(number) if colon else 0


def kind_and_name(text: str) -> tuple[str, str]:
    """Return kind and name of `web`, `load-balancer/web`; an empty kind for any."""
    word, slash, name = text.partition("/")
    if not slash:
        return "", text
    if word not in KINDS or not name:
        raise ValueError(f"{text!r} is of no kind; write {', '.join(KINDS)} before the /")
    return KINDS[word], name


def endpoint(text: str) -> Endpoint:
    """Read the far end of a question: `[KIND/]NAME[:PORT[/PROTOCOL]]`, or an address for the name.

    Without a port number it is ICMP, as `ping` sends; with one TCP, unless it says otherwise. The
    protocol may stand first, `udp/53`, and `icmp` alone.
    An IPv6 address with a port number stands in brackets.
    """
    whole = text.strip()
    if is_address(whole):
        return Endpoint(address(whole))
    name, number, protocol = _split(whole)
    kind, name = kind_and_name(name)
    if not name:
        raise ValueError(f"{text!r} names nothing; write NAME:PORT or ADDRESS:PORT")
    if protocol == "icmp" and number:
        raise ValueError(f"{text!r}: icmp has no port numbers; write NAME for a ping")
    if protocol not in PROTOCOLS or (protocol != "icmp" and not number):
        raise ValueError(f"{text!r} has no port of a protocol; write NAME:443 or NAME:53/udp")
    if is_address(name):
        name = address(name)
    return Endpoint(name, kind, port_number(number) if number else 0, protocol)


def _split(text: str) -> tuple[str, str, str]:
    """Return name, port number and protocol, not yet checked."""
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or not is_address(name) or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no address in brackets; write [fd00::1]:443")
        colon, rest = rest[:1], rest[1:]
    else:
        name, colon, rest = text.partition(":")
        if ":" in rest:
            raise ValueError(f"{text!r} is neither an address nor NAME:PORT; write [fd00::1]:443")
    if not colon:
        return name, "", "icmp"
    number, slash, protocol = rest.lower().partition("/")
    if number in PROTOCOLS:
        return name, protocol, number
    return name, number, protocol if slash else "tcp"


class Written(click.ParamType[T]):
    """An option's value that one of the functions above reads."""

    def __init__(self, name: str, read: Callable[[str], T]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            found: T = value
            return found
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


# An option's default is converted too: no reader may be given what it returned and refuse it.
CIDR = Written("cidr", cidr)
ADDRESS = Written("address", address)
MAC = Written("mac", mac)
RANGE = Written("first-last", address_range)
ROUTE = Written("cidr=address", route)
PAIR = Written("cidr[=mac]", address_pair)
RATE = Written("rate", rate)
LISTENER = Written("port[/udp]", listening)
NAMED_PORT = Written("name[:port]", named_port)
ENDPOINT = Written("name:port", endpoint)

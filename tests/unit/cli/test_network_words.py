"""Addresses, port ranges, rates and ends as people write them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_cli.commands import addresses
from unkai_cli.commands.addresses import CIDR, Endpoint

READ: list[tuple[Callable[[str], Any], str, Any]] = [
    (addresses.cidr, "10.0.0.0/24", "10.0.0.0/24"),
    (addresses.cidr, " 10.0.0.5 ", "10.0.0.5/32"),
    (addresses.cidr, "FD00:0::/64", "fd00::/64"),
    (addresses.address, "fd00:0:0::5", "fd00::5"),
    (addresses.mac, "02-00-00-AA-BB-CC", "02:00:00:aa:bb:cc"),
    (addresses.port_range, "80", (80, 80)),
    (addresses.port_range, "80-90", (80, 90)),
    (addresses.port_range, "80:90", (80, 90)),
    (addresses.port_range, "1-65535", (1, 65535)),
    (addresses.address_range, "10.0.0.10-10.0.0.99", ("10.0.0.10", "10.0.0.99")),
    (addresses.address_range, "fd00::1-fd00::f", ("fd00::1", "fd00::f")),
    (addresses.route, "10.9.0.0/16=10.0.0.7", ("10.9.0.0/16", "10.0.0.7")),
    (addresses.route, "10.9.0.0/16 via 10.0.0.7", ("10.9.0.0/16", "10.0.0.7")),
    (addresses.route, "default=10.0.0.7", ("0.0.0.0/0", "10.0.0.7")),
    (addresses.route, "default via fd00::7", ("::/0", "fd00::7")),
    (addresses.address_pair, "10.0.0.9", ("10.0.0.9/32", "")),
    (
        addresses.address_pair,
        "10.9.0.0/16=02:00:00:AA:bb:cc",
        ("10.9.0.0/16", "02:00:00:aa:bb:cc"),
    ),
    (addresses.rate, "100M", 100_000_000),
    (addresses.rate, "2.5Gbit/s", 2_500_000_000),
    (addresses.rate, "0", 0),
    (addresses.listening, "80", ("tcp", 80)),
    (addresses.listening, "53/UDP", ("udp", 53)),
    (addresses.listening, "udp:53", ("udp", 53)),
    (addresses.named_port, "web", ("web", 0)),
    (addresses.named_port, "web:8080", ("web", 8080)),
    (addresses.kind_and_name, "lb/web", ("load_balancer", "web")),
    (addresses.kind_and_name, "web", ("", "web")),
    (addresses.endpoint, "db:443", Endpoint("db", "", 443, "tcp")),
    (addresses.endpoint, "db", Endpoint("db")),
    (addresses.endpoint, "db:53/UDP", Endpoint("db", "", 53, "udp")),
    (addresses.endpoint, "10.0.0.5:80", Endpoint("10.0.0.5", "", 80, "tcp")),
    (addresses.endpoint, "fd00:0::5", Endpoint("fd00::5")),
    (addresses.endpoint, "[fd00::5]:80/sctp", Endpoint("fd00::5", "", 80, "sctp")),
    (addresses.endpoint, "[fd00::5]", Endpoint("fd00::5")),
    (
        addresses.endpoint,
        "load-balancer/web:53/udp",
        Endpoint("web", "load_balancer", 53, "udp"),
    ),
]
REFUSED: list[tuple[Callable[[str], Any], str, str]] = [
    (addresses.cidr, "10.0.0.5/24", "write 10.0.0.0/24"),
    (addresses.cidr, "10.0.0.0/33", "is not a network"),
    (addresses.address, "10.0.0", "is not an address"),
    (addresses.mac, "02:00:00:aa:bb", "is not a MAC address"),
    (addresses.port_range, "0", "is not a port number"),
    (addresses.port_range, "65536", "is not a port number"),
    (addresses.port_range, "80-", "is not a port number"),
    (addresses.port_range, "٨٠", "is not a port number"),
    (addresses.port_range, "90-80", "write 80-90"),
    (addresses.address_range, "10.0.0.9", "is not a range"),
    (addresses.address_range, "10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
    (addresses.address_range, "10.0.0.9-fd00::1", "two kinds"),
    (addresses.route, "10.9.0.0/16", "is not a route"),
    (addresses.route, "10.9.0.0/16=fd00::1", "another kind"),
    (addresses.rate, "fast", "is not a rate"),
    (addresses.rate, "0.5", "is not a rate"),
    (addresses.rate, "99999T", "more than any network"),
    (addresses.listening, "80/icmp", "is no listener"),
    (addresses.listening, "web", "is not a port number"),
    (addresses.named_port, ":80", "names nothing"),
    (addresses.named_port, "web:http", "is not a port number"),
    (addresses.kind_and_name, "vm/web", "is of no kind"),
    (addresses.endpoint, "", "names nothing"),
    (addresses.endpoint, ":443", "names nothing"),
    (addresses.endpoint, "db:", "has no port"),
    (addresses.endpoint, "db:443/", "has no port"),
    (addresses.endpoint, "db:443/icmp", "has no port"),
    (addresses.endpoint, "db:443/quic", "has no port"),
    (addresses.endpoint, "fd00::5:443:x", "write [fd00::1]:443"),
    (addresses.endpoint, "[db]:443", "no address in brackets"),
]


@pytest.mark.parametrize(("read", "text", "found"), READ)
def test_what_people_write_is_read(read: Callable[[str], Any], text: str, found: Any) -> None:
    assert read(text) == found


@pytest.mark.parametrize(("read", "text", "hint"), REFUSED)
def test_what_is_wrong_is_refused_with_what_to_write(
    read: Callable[[str], Any], text: str, hint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        read(text)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_every_range_is_read_from_its_lower_end(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert addresses.port_range(f"{low}-{high}") == (low, high)


@given(st.ip_addresses(), st.integers(1, 65535), st.sampled_from(("tcp", "udp", "sctp")))
def test_any_address_with_a_port_is_read_back(
    there: ipaddress.IPv4Address | ipaddress.IPv6Address, number: int, protocol: str
) -> None:
    written = f"[{there}]" if there.version == 6 else str(there)
    found = addresses.endpoint(f"{written}:{number}/{protocol}")
    assert found == Endpoint(str(there), "", number, protocol)


@given(st.integers(1, 99_999), st.sampled_from((1, 10**3, 10**6, 10**9)))
def test_a_rate_that_is_printed_is_read_back(number: int, factor: int) -> None:
    bits = number * factor
    if bits <= 10**13:
        assert addresses.rate(addresses.rate_text(bits)) == bits


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (addresses.endpoint, addresses.cidr, addresses.route, addresses.rate):
        with suppress(ValueError):
            read(text)


def test_an_option_refuses_with_the_same_words() -> None:
    with pytest.raises(click.BadParameter, match="bits beyond its prefix"):
        CIDR.convert("10.0.0.5/24", None, None)

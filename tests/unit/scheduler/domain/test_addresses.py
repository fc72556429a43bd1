"""Addresses: one way to write each, sums over ranges, and the lowest that is free."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unkai_scheduler.domain import addresses
from unkai_scheduler.domain.networks import Range
from unkai_wire.errors import InvalidArgument

ANY = st.ip_addresses().filter(
    lambda ip: ip.version == 4 or ip.ipv4_mapped is None  # type: ignore[union-attr]
)
SUBNETS_V4 = st.tuples(st.integers(0, 2**24 - 1), st.integers(8, 30)).map(
    lambda pair: str(ip_network((10 << 24 | pair[0], pair[1]), strict=False))
)
SUBNETS_V6 = st.tuples(st.integers(0, 2**120 - 1), st.integers(32, 126)).map(
    lambda pair: str(ip_network((0xFD << 120 | pair[0], pair[1]), strict=False))
)
SUBNETS = SUBNETS_V4 | SUBNETS_V6


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """Return the reason and the field of the refusal."""
    with pytest.raises(InvalidArgument) as caught:
        call()
    return caught.value.reason, caught.value.violations[0][0]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0:0:0::000A", "fd00::a"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::1.2.3.4", "::102:304"),
    ],
)
def test_an_address_is_written_in_one_way(text: str, canonical: str) -> None:
    assert addresses.check_address(text, "address") == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1 ", "10.0.0.1/24", "1", "٣.0.0.1"),
        *("fd00::1%eth0", "fd00::1%", "fd00:::1", "[fd00::1]", "::ffff:10.0.0.1", "x" * 9999),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refused(lambda: addresses.check_address(text, "a.b")) == ("INVALID_ADDRESS", "a.b")


@given(ANY)
def test_any_address_passes_as_it_is_written(ip: IPv4Address | IPv6Address) -> None:
    assert addresses.check_address(str(ip), "a") == str(ip)
    assert addresses.check_address(ip.exploded.upper(), "a") == str(ip)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("10.0.0.7", "10.0.0.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00:0::/64", "fd00::/64"),
        ("fd00::1", "fd00::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_a_cidr_is_written_in_one_way(text: str, canonical: str) -> None:
    assert addresses.check_cidr(text, "cidr") == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/024", "10.0.0.0/-1", "10.0.0.0/24/24"),
        *("10.0.0.0/255.255.255.0", "10.0.0.0/0.0.0.255", "fd00::/129", "fd00::%1/64", "10/8"),
        *("10.0.0.0/٢٤", "10.0.0.0/24 ", "net", "fd00::%eth0"),
    ],
)
def test_what_is_no_cidr_is_refused(text: str) -> None:
    assert refused(lambda: addresses.check_cidr(text, "c")) == ("INVALID_CIDR", "c")


def test_bits_beyond_a_prefix_are_refused_with_both_things_that_may_be_meant() -> None:
    with pytest.raises(InvalidArgument) as caught:
        addresses.check_cidr("10.0.0.7/24", "cidr")

    assert caught.value.reason == "INVALID_CIDR"
    assert caught.value.fix == "write 10.0.0.0/24 for the network, or /32 for one address"


@given(SUBNETS)
def test_a_subnet_of_any_allowed_size_passes(cidr: str) -> None:
    assert addresses.check_subnet_cidr(cidr, "cidr") == cidr


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.0/7", "10.0.0.0/31", "10.0.0.1", "fd00::/31", "fd00::/127", "fd00::1"),
        *("127.0.0.0/24", "169.254.0.0/16", "169.254.169.0/24", "169.254.169.252/30"),
        *("224.0.0.0/24", "255.255.255.0/24", "0.0.0.0/8", "fe80::/64", "ff02::/64", "::/64"),
    ],
)
def test_what_no_subnet_may_have_is_refused(text: str) -> None:
    assert refused(lambda: addresses.check_subnet_cidr(text, "c")) == ("INVALID_CIDR", "c")


@pytest.mark.parametrize("text", ["02:AB:cd:00:00:01", "02-ab-cd-00-00-01", "02:ab:cd:00:00:01"])
def test_a_mac_address_is_written_in_one_way(text: str) -> None:
    assert addresses.check_mac(text, "mac") == "02:ab:cd:00:00:01"


@pytest.mark.parametrize(
    "text",
    [
        *("", "02:ab:cd:00:00", "02:ab:cd:00:00:01:02", "02ab.cd00.0001", "02:ab-cd:00:00:01"),
        *("02:ab:cd:00:00:0g", " 02:ab:cd:00:00:01", "02:ab:cd:00:00:01\n", "2:ab:cd:0:0:1"),
        *("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "03:00:00:00:00:01"),
        "fe:00:00:00:00:01",
    ],
)
def test_what_no_interface_may_have_as_its_mac_is_refused(text: str) -> None:
    assert refused(lambda: addresses.check_mac(text, "m")) == ("INVALID_MAC_ADDRESS", "m")


@given(st.integers(0, 2**40 - 1))
def test_a_made_mac_is_a_local_one_of_one_interface(bits: int) -> None:
    mac = addresses.make_mac(lambda count: bits if count == 40 else -1)

    assert addresses.check_mac(mac, "mac") == mac
    assert int(mac.replace(":", ""), 16) == 0x02 << 40 | bits


@given(ANY, ANY)
def test_keys_sort_as_addresses_do_and_give_them_back(
    one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address
) -> None:
    keys = [addresses.key_of(str(ip)) for ip in (one, other)]

    assert [addresses.address_of(key) for key in keys] == [str(one), str(other)]
    assert [len(key) for key in keys] == [8 if ip.version == 4 else 32 for ip in (one, other)]
    if one.version == other.version:
        assert (keys[0] < keys[1]) == (int(one) < int(other))


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        # RFC 2464 section 4 and RFC 4291 appendix A show the first.
        ("34:56:78:9a:bc:de", "fd00::3656:78ff:fe9a:bcde"),
        ("02:00:00:00:00:01", "fd00::ff:fe00:1"),
    ],
)
def test_a_guest_makes_its_address_of_its_mac(mac: str, address: str) -> None:
    assert addresses.eui64(mac, "fd00::/64") == address


@given(st.integers(0, 2**40 - 1), st.integers(0, 2**64 - 1))
def test_two_macs_never_make_one_address(bits: int, other: int) -> None:
    cidr = str(ip_network((0xFD << 120 | other & 0xFFFF << 64, 64), strict=False))
    one, two = (
        addresses.eui64(addresses.make_mac(lambda _n, b=b: b), cidr)
        for b in (bits, bits ^ 1 << other % 40)
    )

    assert one != two
    assert addresses.contains(cidr, one)
    assert addresses.contains(cidr, two)


@pytest.mark.parametrize("cidr", ["fd00::/65", "fd00::/63", "10.0.0.0/24"])
def test_no_other_prefix_lets_guests_make_addresses(cidr: str) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        addresses.eui64("02:00:00:00:00:01", cidr)


@pytest.mark.parametrize(
    ("cidr", "gateway", "expected"),
    [
        ("10.0.0.0/24", "10.0.0.1", [("10.0.0.2", "10.0.0.254")]),
        ("10.0.0.0/24", "10.0.0.254", [("10.0.0.1", "10.0.0.253")]),
        ("10.0.0.0/24", "10.0.0.9", [("10.0.0.1", "10.0.0.8"), ("10.0.0.10", "10.0.0.254")]),
        ("10.0.0.0/24", "", [("10.0.0.1", "10.0.0.254")]),
        ("10.0.0.0/30", "10.0.0.1", [("10.0.0.2", "10.0.0.2")]),
        ("fd00::/64", "fd00::1", [("fd00::2", "fd00::ffff:ffff:ffff:ffff")]),
        ("fd00::/126", "fd00::3", [("fd00::1", "fd00::2")]),
    ],
)
def test_all_but_edges_and_gateway_may_be_given_out(
    cidr: str, gateway: str, expected: list[tuple[str, str]]
) -> None:
    ranges = addresses.default_ranges(cidr, gateway)

    assert [(some.first, some.last) for some in ranges] == expected


@given(SUBNETS)
def test_default_ranges_pass_their_own_check_and_miss_the_gateway_alone(cidr: str) -> None:
    gateway = addresses.default_gateway(cidr)
    ranges = addresses.default_ranges(cidr, gateway)
    network = ip_network(cidr)

    assert addresses.check_ranges(ranges, cidr, gateway, "r") == ranges
    assert addresses.check_usable(gateway, cidr, "g") == gateway
    assert addresses.count_of(ranges) == network.num_addresses - (3 if network.version == 4 else 2)
    assert not addresses.in_ranges(gateway, ranges)


@pytest.mark.parametrize(
    "address", ["10.0.0.0", "10.0.0.255", "10.0.1.1", "9.255.255.255", "fd00::1"]
)
def test_an_edge_or_an_address_of_elsewhere_is_no_interface_s(address: str) -> None:
    call = lambda: addresses.check_usable(address, "10.0.0.0/24", "a")  # noqa: E731
    assert refused(call) == ("ADDRESS_NOT_IN_SUBNET", "a")


def test_the_first_address_of_ipv6_is_no_interface_s_and_the_last_is() -> None:
    last = "fd00::ffff:ffff:ffff:ffff"
    assert refused(lambda: addresses.check_usable("fd00::", "fd00::/64", "a"))[1] == "a"
    assert addresses.check_usable(last, "fd00::/64", "a") == last


def test_ranges_are_put_in_order_and_in_canonical_form() -> None:
    given_ranges = [Range("fd00::20", "FD00::2f"), Range("fd00:0::10", "fd00::1f")]

    assert addresses.check_ranges(given_ranges, "fd00::/64", "fd00::1", "r") == (
        Range("fd00::10", "fd00::1f"),
        Range("fd00::20", "fd00::2f"),
    )


@pytest.mark.parametrize(
    ("ranges", "reason", "field"),
    [
        ([("10.0.0.9", "10.0.0.8")], "INVALID_RANGE", "r[0]"),
        ([("10.0.0.2", "10.0.0.5"), ("10.0.0.5", "10.0.0.9")], "INVALID_RANGE", "r"),
        ([("10.0.0.2", "10.0.0.9"), ("10.0.0.3", "10.0.0.4")], "INVALID_RANGE", "r"),
        ([("10.0.0.1", "10.0.0.9")], "INVALID_RANGE", "r"),
        ([("10.0.0.2", "10.0.0.255")], "ADDRESS_NOT_IN_SUBNET", "r[0].last"),
        ([("10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2")], "ADDRESS_NOT_IN_SUBNET", "r[1].first"),
        ([("10.0.0.2", "x")], "INVALID_ADDRESS", "r[0].last"),
        ([(f"10.0.0.{n}", f"10.0.0.{n}") for n in range(2, 35)], "TOO_MANY_RANGES", "r"),
    ],
)
def test_ranges_that_cannot_be_are_refused(
    ranges: list[tuple[str, str]], reason: str, field: str
) -> None:
    some = [Range(*pair) for pair in ranges]
    call = lambda: addresses.check_ranges(some, "10.0.0.0/24", "10.0.0.1", "r")  # noqa: E731
    assert refused(call) == (reason, field)


@given(SUBNETS, SUBNETS)
def test_networks_overlap_when_one_holds_an_end_of_the_other(one: str, other: str) -> None:
    same = addresses.version_of(one) == addresses.version_of(other)
    ends = [str(ip_network(cidr).network_address) for cidr in (one, other)]
    expected = same and (addresses.contains(one, ends[1]) or addresses.contains(other, ends[0]))

    assert addresses.overlaps(one, other) == addresses.overlaps(other, one) == expected
    assert addresses.overlaps(one, one)


def test_a_tunnel_carries_what_its_headers_leave() -> None:
    assert addresses.overlay_mtu(1500, 4) == 1442
    assert addresses.overlay_mtu(1500, 6) == 1422


@given(st.integers(0, 40), st.integers(0, 40), st.sets(st.integers(0, 60)))
def test_the_lowest_free_is_what_a_search_one_by_one_finds(
    first: int, length: int, used: set[int]
) -> None:
    last = first + length - 1

    found = addresses.lowest_free(
        first, last, lambda a, b: sum(a <= number <= b for number in used)
    )

    assert found == next((n for n in range(first, last + 1) if n not in used), None)


@pytest.mark.parametrize("free", [None, 0, 1, 7, 20_000, 65_533])
def test_a_dense_subnet_is_searched_by_few_questions(free: int | None) -> None:
    asked: list[int] = []

    def count_used(first: int, last: int) -> int:
        asked.append(last - first + 1)
        return last - first + 1 - (free is not None and first <= free <= last)

    assert addresses.lowest_free(0, 65_533, count_used) == free
    assert len(asked) <= 24
    assert sum(asked) <= 2 * 65_534


def test_a_hint_begins_the_search_and_what_is_below_it_ends_it() -> None:
    ranges = [Range("0.0.0.20", "0.0.0.29"), Range("0.0.0.10", "0.0.0.14")]

    assert list(addresses.spans_from(ranges, 0)) == [(10, 14), (20, 29)]
    assert list(addresses.spans_from(ranges, 12)) == [(12, 14), (20, 29), (10, 11)]
    assert list(addresses.spans_from(ranges, 17)) == [(20, 29), (10, 14)]
    assert list(addresses.spans_from(ranges, 25)) == [(25, 29), (10, 14), (20, 24)]
    assert list(addresses.spans_from(ranges, 99)) == [(10, 14), (20, 29)]


def test_spans_from_any_hint_are_the_whole_range_once() -> None:
    chance = random.Random(4)
    for _ in range(200):
        edges = sorted(chance.sample(range(60), 6))
        ranges = [
            Range(str(IPv4Address(first)), str(IPv4Address(last)))
            for first, last in zip(edges[::2], edges[1::2], strict=True)
        ]
        spans = list(addresses.spans_from(ranges, chance.randrange(70)))
        flat = [number for first, last in spans for number in range(first, last + 1)]
        assert len(flat) == len(set(flat)) == addresses.count_of(ranges)

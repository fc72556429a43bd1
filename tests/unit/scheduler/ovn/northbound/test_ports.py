"""Ports: what they may send, what rules hold for them, where they may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.northbound import (
    BALANCED,
    BLUE,
    BLUE4,
    DB,
    DEFAULT,
    GREEN4,
    HELD,
    ON_BLUE,
    WAY_OUT,
    WEB,
    WEB_INSTANCE,
    a_world,
    changed,
    port_of,
)
from unkai_scheduler.domain.ports import AddressPair, Port, PortOwner, Qos
from unkai_scheduler.ovn.northbound.names import drop_place, group_place, metadata_mac
from unkai_scheduler.ovn.northbound.units import unit_of
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row


def _rows(port: Port, view: View | None = None) -> list[Row]:
    view = view or a_world()
    view = replace(view, ports={**view.ports, port.id: port})
    return list(unit_of(view, "port", port.id).rows)


def _row(port: Port, view: View | None = None) -> Row:
    return _rows(port, view)[0]


def _web(**changes: Any) -> Port:
    return port_of(WEB, BLUE, (BLUE4, "10.0.0.5"), **changes)


def test_a_port_without_ipv6_may_use_its_link_local_address_alone() -> None:
    assert _row(_web()).columns["port_security"] == {"02:00:00:00:00:01 10.0.0.5 fe80::ff:fe00:1"}


def test_from_a_port_without_addresses_no_ipv4_may_come() -> None:
    assert _row(port_of(WEB, BLUE)).columns["port_security"] == {
        "02:00:00:00:00:01 fe80::ff:fe00:1"
    }


def test_pairs_of_one_mac_address_are_in_one_element() -> None:
    pairs = (
        AddressPair("10.9.0.0/16"),
        AddressPair("10.0.0.7/32", "02:00:00:00:00:01"),
        AddressPair("fd00::/64", "02:00:00:00:00:77"),
        AddressPair("10.0.0.8/32", "02:00:00:00:00:77"),
    )
    row = _row(_web(pairs=pairs))
    assert row.columns["port_security"] == {
        "02:00:00:00:00:01 10.0.0.5 10.9.0.0/16 10.0.0.7 fe80::ff:fe00:1",
        "02:00:00:00:00:77 10.0.0.8 fd00::/64 fe80::ff:fe00:77",
    }
    assert row.columns["addresses"] == {"02:00:00:00:00:01 10.0.0.5", "02:00:00:00:00:77"}


def test_a_port_without_anti_spoofing_may_send_anything_and_no_rule_holds_for_it() -> None:
    row = _row(_web(anti_spoofing=False, security_group_ids=(DEFAULT,)))
    assert (row.columns["port_security"], row.member_of) == ((), frozenset())
    assert "unknown" in row.columns["addresses"]  # type: ignore[operator]


def test_a_port_in_a_group_is_in_the_group_that_drops_too() -> None:
    row = _row(_web(security_group_ids=(DEFAULT,)))
    assert row.member_of == {drop_place("ports"), group_place(DEFAULT, "ports")}


def test_a_port_without_groups_is_in_the_one_that_drops_alone() -> None:
    assert _row(_web()).member_of == {drop_place("ports")}


def test_only_the_host_of_its_claim_may_have_a_port() -> None:
    port = _web(owner=PortOwner.INSTANCE, owner_id=WEB_INSTANCE)
    view = replace(a_world(), claims={WEB_INSTANCE: "hst-here"})
    assert _row(port, view).columns["options"] == {"requested-chassis": "hst-here"}
    assert _row(port, replace(view, claims={})).columns["options"] == {}


def test_a_port_is_offered_the_first_address_of_its_subnet() -> None:
    port = port_of(WEB, BLUE, (BLUE4, "10.0.0.20"), (BLUE4, "10.0.0.5"))
    assert _row(port).columns["addresses"] == {"02:00:00:00:00:01 10.0.0.20 10.0.0.5"}


def test_a_port_on_a_subnet_without_dhcp_refers_to_no_dhcp_row() -> None:
    view = changed(a_world(), "subnets", BLUE4, dhcp=False)
    assert _row(_web(), view).columns["dhcpv4_options"] == ()


@pytest.mark.parametrize("ident", [ON_BLUE, WAY_OUT, BALANCED, HELD])
def test_what_is_no_instances_port_has_no_rows_of_its_own(ident: str) -> None:
    assert unit_of(a_world(), "port", ident).rows == ()


def test_a_limit_is_in_kilobits_and_never_nothing() -> None:
    rows = _rows(_web(qos=Qos(egress_bits_per_s=1, ingress_bits_per_s=10**16)))[1:]
    assert [row.columns["bandwidth"] for row in rows] == [
        {"rate": 1, "burst": 1},
        {"rate": 2**32 - 1, "burst": 2**32 - 1},
    ]
    assert {row.columns["direction"] for row in rows} == {"from-lport", "to-lport"}


def test_a_limit_without_a_burst_lets_tcp_have_its_rate() -> None:
    said = Qos(egress_bits_per_s=10**8, ingress_bits_per_s=10**8, ingress_burst_bits=10**6)
    assert [row.columns["bandwidth"] for row in _rows(_web(qos=said))[1:]] == [
        {"rate": 100_000, "burst": 80_000},
        {"rate": 100_000, "burst": 1_000},
    ]


def test_a_metadata_port_has_a_mac_address_that_is_given_to_nobody() -> None:
    mac = metadata_mac(BLUE)
    assert mac.startswith("06:")
    assert mac == metadata_mac(BLUE)


def test_a_port_on_one_subnet_does_not_refer_to_another_subnets_dhcp_row() -> None:
    view = changed(a_world(), "subnets", GREEN4, dhcp=False)
    row = unit_of(view, "port", DB).rows[0]
    assert row.columns["dhcpv4_options"] == ()
    assert row.columns["dhcpv6_options"] != ()

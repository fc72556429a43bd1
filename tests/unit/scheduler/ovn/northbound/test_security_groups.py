"""Rules in OVN's language."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.networks import a_group, a_rule
from tests.support.northbound import DEFAULT, SITE
from unkai_scheduler.domain.security_groups import Direction, Protocol
from unkai_scheduler.ovn.northbound.names import group_name, rule_uuid
from unkai_scheduler.ovn.northbound.units import BASE, unit_of, unit_of_key
from unkai_scheduler.ovn.northbound.view import View

_IN = f"outport == @{group_name(SITE)}"
_OUT = f"inport == @{group_name(SITE)}"
_OTHERS = group_name(DEFAULT)


@pytest.mark.parametrize(
    ("said", "matches"),
    [
        ({}, [f"{_IN} && ip4", f"{_IN} && ip6"]),
        ({"direction": Direction.EGRESS, "ip_version": 6}, [f"{_OUT} && ip6"]),
        ({"remote_cidr": "10.0.0.0/8"}, [f"{_IN} && ip4 && ip4.src == 10.0.0.0/8"]),
        ({"remote_cidr": "::/0"}, [f"{_IN} && ip6"]),
        ({"remote_cidr": "10.0.0.0/8", "ip_version": 6}, []),
        (
            {"remote_group_id": DEFAULT, "direction": Direction.EGRESS},
            [
                f"{_OUT} && ip4 && ip4.dst == ${_OTHERS}_ip4",
                f"{_OUT} && ip6 && ip6.dst == ${_OTHERS}_ip6",
            ],
        ),
        (
            {"protocol": Protocol.TCP, "port_first": 22, "ip_version": 4},
            [f"{_IN} && ip4 && tcp && tcp.dst == 22"],
        ),
        (
            {"protocol": Protocol.UDP, "port_first": 1, "port_last": 9, "ip_version": 4},
            [f"{_IN} && ip4 && udp && udp.dst >= 1 && udp.dst <= 9"],
        ),
        (
            {"protocol": Protocol.SCTP, "port_first": 1, "port_last": 65535, "ip_version": 4},
            [f"{_IN} && ip4 && sctp"],
        ),
        (
            {"protocol": Protocol.ICMP, "icmp_type": 0},
            [
                f"{_IN} && ip4 && icmp4 && icmp4.type == 0",
                f"{_IN} && ip6 && icmp6 && icmp6.type == 0",
            ],
        ),
        (
            {"protocol": Protocol.ICMP, "icmp_type": 3, "icmp_code": 0, "ip_version": 4},
            [f"{_IN} && ip4 && icmp4 && icmp4.type == 3 && icmp4.code == 0"],
        ),
    ],
)
def test_a_rule_allows_what_it_says(said: dict[str, Any], matches: list[str]) -> None:
    group = a_group(id=SITE, rules=(a_rule(**said),))
    rows = unit_of(View.of(security_groups=[group]), "security_group", SITE).rows[1:]
    assert [row.columns["match"] for row in rows] == matches
    assert {row.columns["action"] for row in rows} <= {"allow-related"}


def test_a_rules_rows_are_found_by_group_rule_and_version() -> None:
    rule = a_rule()
    group = a_group(id=SITE, rules=(rule,))
    rows = unit_of(View.of(security_groups=[group]), "security_group", SITE).rows[1:]
    assert [row.uuid for row in rows] == [rule_uuid(SITE, rule.id, some) for some in (4, 6)]


def test_what_no_rule_allows_is_dropped_by_rules_below_all_others() -> None:
    rows = unit_of_key(View(), BASE).rows[1:]
    drops = [row for row in rows if row.columns["priority"] == 1000]
    assert {(row.columns["direction"], row.columns["match"]) for row in drops} == {
        ("from-lport", "inport == @unkai_drop && ip"),
        ("to-lport", "outport == @unkai_drop && ip"),
    }
    assert {row.columns["action"] for row in drops} == {"drop"}
    assert min(int(str(row.columns["priority"])) for row in rows if row not in drops) > 1002

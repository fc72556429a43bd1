"""Which rule all but lets a packet through, and how rules are said."""

from __future__ import annotations

import pytest

from tests.support.networks import a_group, a_rule
from tests.support.reaching import Town
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule
from unkai_scheduler.services.reachability_rules import OtherEnd, nearest

TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
PEER = OtherEnd("10.1.0.10", frozenset({"sgp-friends"}))


@pytest.mark.parametrize(
    ("rule", "asked", "is_near"),
    [
        (a_rule(protocol=TCP, port_first=80, port_last=80), "tcp/443", True),
        (a_rule(protocol=UDP, port_first=443, port_last=443), "tcp/443", True),
        (a_rule(protocol=TCP, ip_version=6), "tcp/443", True),
        (a_rule(protocol=TCP, remote_cidr="10.9.0.0/16"), "tcp/443", True),
        (a_rule(protocol=TCP, remote_cidr="fd00::/8"), "tcp/443", True),
        (a_rule(protocol=TCP, remote_group_id="sgp-others"), "tcp/443", True),
        (a_rule(protocol=ICMP, icmp_type=3), "icmp", True),
        (
            a_rule(protocol=TCP, port_first=80, port_last=80, remote_group_id="sgp-friends"),
            "tcp/443",
            True,
        ),
        (
            a_rule(protocol=TCP, port_first=80, port_last=80, remote_group_id="sgp-others"),
            "tcp/443",
            False,
        ),
        (a_rule(protocol=UDP, ip_version=6), "tcp/443", False),
        (a_rule(direction=Direction.EGRESS, protocol=UDP), "tcp/443", False),
    ],
)
def test_a_rule_is_near_that_lacks_one_thing(rule: Rule, asked: str, is_near: bool) -> None:
    town = Town()
    town.machine("a", town.network("front", "10.1.0.0/24"))
    question = town.asked("a", "10.1.0.11", asked)
    group = a_group(rules=(rule,))
    found = nearest([group], Direction.INGRESS, question, question.port_number, PEER)
    assert (found is rule) == is_near

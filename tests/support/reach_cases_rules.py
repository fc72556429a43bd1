"""Situations that security groups decide: versions, types, ranges, groups, what answers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.support.reach_case import ICMP, TCP, UDP, Case, pair, routed
from tests.support.reaching import Town, lets_in, lets_out
from unkai_scheduler.domain.ports import AddressPair
from unkai_scheduler.domain.reachability import EXTERNAL


def rule_for_ipv6_alone() -> Case:
    town, _, _ = pair(lets_in(TCP, 80, ip_version=6), lets_out())
    said = "lets TCP 80 of IPv6 in"
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_INGRESS_RULE", "tcp 80 from", said=said)


def rule_for_another_icmp_type() -> Case:
    town, _, _ = pair(lets_in(ICMP, icmp_type=3), lets_out())
    said = "lets ICMP type 3 in"
    return Case(town, town.asked("a", "b"), "NO_INGRESS_RULE", "ingress icmp from", said=said)


def number_beside_the_range() -> Case:
    town, _, _ = pair(lets_in(UDP, 5000, port_last=5009), lets_out())
    said = "lets UDP 5000-5009 in"
    return Case(town, town.asked("a", "b", "udp/5010"), "NO_INGRESS_RULE", "udp 5010", said=said)


def rule_out_for_other_addresses() -> Case:
    town, _, _ = pair(lets_in(), lets_out(remote_cidr="10.9.0.0/16"))
    said = "lets everything to 10.9.0.0/16 out"
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_EGRESS_RULE", "egress tcp 80", said=said)


def no_rule_out_to_the_internet() -> Case:
    town, _, _ = routed(lets_out(UDP), out=True)
    said = "lets tcp/80 to anywhere outside out"
    fix = "unkai security-group rule add web egress tcp 80"
    return Case(town, town.asked("a", EXTERNAL, "tcp/80"), "NO_EGRESS_RULE", fix, said=said)


def not_in_the_group() -> Case:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    friends = town.group("friends", lets_out())
    web = town.group("web", lets_in(TCP, 80, remote_group_id=friends.id), lets_out())
    town.machine("a", front, web)
    town.machine("b", front, web)
    said = "lets TCP 80 from group friends in"
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_INGRESS_RULE", "web ingress", said=said)


def pair_is_not_in_the_group() -> Case:
    """A group's members are known by their own addresses, not by those that they may also use."""
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    web = town.group("web", lets_out())
    own = lets_in(TCP, 80, remote_group_id=web.id)
    town.groups["web"] = web = replace(web, rules=(*web.rules, own))
    town.machine("a", front, web, pairs=(AddressPair("10.1.0.66/32"),))
    town.machine("b", front, web)
    question = town.asked("a", "b", "tcp/80", source_address="10.1.0.66")
    return Case(town, question, "NO_INGRESS_RULE", "ingress tcp 80 from 10.1.0.66/32")


def members_behind_snat_are_not_seen() -> Case:
    """Both ends are in the group, but the far one sees the near one's router."""
    town = Town()
    web = town.group("web", lets_out())
    own = lets_in(TCP, 80, remote_group_id=web.id)
    town.groups["web"] = web = replace(web, rules=(*web.rules, own))
    out = town.outside()
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    b = town.machine("b", town.network("back", "10.2.0.0/24"), web)
    town.router("r", "front", out=out)
    address = town.floating("f", out, b, town.router("r2", "back", out=out))
    hidden = town.ports["r-gateway"].addresses[0].address
    fix = f"ingress tcp 80 from {hidden}/32"
    return Case(town, town.asked("a", address, "tcp/80"), "NO_INGRESS_RULE", fix, said=hidden)


def no_rule_out_for_a_pair() -> Case:
    town, front, _ = pair(lets_in(), lets_out())
    shut = town.group("shut", lets_out(UDP))
    town.machine("c", front, shut, pairs=(AddressPair("10.1.0.64/28"),))
    question = town.asked("c", "b", "tcp/80", source_address="10.1.0.66")
    return Case(town, question, "NO_EGRESS_RULE", "rule add shut egress tcp 80")


def one_icmp_type() -> Case:
    town, _, _ = pair(lets_in(ICMP, icmp_type=8, icmp_code=0), lets_out(ICMP, icmp_type=8))
    return Case(town, town.asked("a", "b"), said="lets ICMP type 8 code 0 in")


def one_icmp_type_of_ipv6() -> Case:
    town = Town()
    front = town.network("front", "fd00:1::/64")
    web = town.group("web", lets_in(ICMP, icmp_type=128), lets_out())
    town.machine("a", front, web)
    town.machine("b", front, web)
    return Case(town, town.asked("a", "b"), said="lets ICMP type 128 in")


def number_in_the_range() -> Case:
    town, _, _ = pair(lets_in(UDP, 5000, port_last=5009), lets_out())
    return Case(town, town.asked("a", "b", "udp/5009"), said="lets UDP 5000-5009 in")


def answer_needs_no_rule() -> Case:
    """b may send nothing by itself, and a lets nothing in: the answer belongs to a's connection."""
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    town.machine("a", front, town.group("asks", lets_out()))
    town.machine("b", front, town.group("answers", lets_in(TCP, 80)))
    return Case(town, town.asked("a", "b", "tcp/80"))


def second_group_lets_in() -> Case:
    town, front, web = pair(lets_out())
    town.machine("c", front, web, town.group("open", lets_in(TCP, 80)))
    return Case(town, town.asked("a", "c", "tcp/80"), said="lets TCP 80 in")


def members_behind_a_router() -> Case:
    """Routers inside hide nobody: both ends see each other as they are."""
    town, _, _ = routed(lets_out(), out=True)
    web = town.groups["web"]
    own = lets_in(TCP, 80, remote_group_id=web.id)
    town.groups["web"] = replace(web, rules=(*web.rules, own))
    return Case(town, town.asked("a", "b", "tcp/80"), said="from group web")


def from_an_allowed_pair() -> Case:
    town, front, web = pair(lets_in(), lets_out())
    town.machine("c", front, web, pairs=(AddressPair("10.1.0.64/28"),))
    return Case(town, town.asked("c", "b", "tcp/80", source_address="10.1.0.66"))


BLOCKED: tuple[Callable[[], Case], ...] = (
    rule_for_ipv6_alone,
    rule_for_another_icmp_type,
    number_beside_the_range,
    rule_out_for_other_addresses,
    no_rule_out_to_the_internet,
    not_in_the_group,
    pair_is_not_in_the_group,
    members_behind_snat_are_not_seen,
    no_rule_out_for_a_pair,
)
ALLOWED: tuple[Callable[[], Case], ...] = (
    one_icmp_type,
    one_icmp_type_of_ipv6,
    number_in_the_range,
    answer_needs_no_rule,
    second_group_lets_in,
    members_behind_a_router,
    from_an_allowed_pair,
)

"""Situations on real networks: what is asked, and what is true there.

Each has a cloud of its own, so that all of them can be in one OVN. `CASES` is by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.support import reach_cases_ends, reach_cases_rules, reach_cases_ways
from tests.support.reach_case import ICMP, TCP, UDP, Case, chain, pair, routed
from tests.support.reaching import Town, lets_in, lets_out
from unkai_scheduler.domain.networks import HostRoute, NetworkType
from unkai_scheduler.domain.reachability import EXTERNAL
from unkai_scheduler.domain.routers import Route

# What is not let through


def no_rule_in() -> Case:
    town, _, _ = pair(lets_in(TCP, 80), lets_out())
    fix = "unkai security-group rule add web ingress tcp 443 from 10.1.0.10/32"
    return Case(town, town.asked("a", "b", "tcp/443"), "NO_INGRESS_RULE", fix)


def no_rule_in_for_ping() -> Case:
    town, _, _ = pair(lets_in(TCP), lets_out())
    fix = "unkai security-group rule add web ingress icmp from 10.1.0.10/32"
    return Case(town, town.asked("a", "b"), "NO_INGRESS_RULE", fix)


def rule_for_another_protocol() -> Case:
    town, _, _ = pair(lets_in(TCP, 53), lets_out())
    return Case(town, town.asked("a", "b", "udp/53"), "NO_INGRESS_RULE", "ingress udp 53")


def rule_for_other_addresses() -> Case:
    town, _, _ = pair(lets_in(TCP, 80, remote_cidr="10.9.0.0/16"), lets_out())
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_INGRESS_RULE", "ingress tcp 80")


def rule_for_another_group() -> Case:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    friends = town.group("friends", lets_out())
    web = town.group("web", lets_in(TCP, 80, remote_group_id=friends.id), lets_out())
    town.machine("a", front, web)
    town.machine("b", front, web)
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_INGRESS_RULE", "rule add web ingress")


def no_rule_out() -> Case:
    town, _, _ = pair(lets_in(), lets_out(UDP))
    fix = "unkai security-group rule add web egress tcp 80 to 10.1.0.11/32"
    return Case(town, town.asked("a", "b", "tcp/80"), "NO_EGRESS_RULE", fix)


def in_no_group() -> Case:
    town, front, _ = pair(lets_out())
    town.machine("lonely", front)
    fix = "unkai port update lonely-port --security-group default"
    return Case(town, town.asked("a", "lonely", "tcp/80"), "NO_INGRESS_RULE", fix)


def no_rule_in_behind_router() -> Case:
    town, _, _ = routed(lets_in(TCP, 80), lets_out())
    return Case(town, town.asked("a", "b", "tcp/22"), "NO_INGRESS_RULE", "ingress tcp 22")


def spoofed_address() -> Case:
    town, _, _ = pair(lets_in(), lets_out())
    question = town.asked("a", "b", "tcp/80", source_address="10.1.0.66")
    return Case(town, question, "ANTI_SPOOFING", "unkai port update a-port --allow 10.1.0.66")


def port_on_no_host() -> Case:
    town, _, _ = pair(lets_in(), lets_out())
    return Case(town, town.asked("a", "b"), "PORT_DOWN", "unkai doctor", unbound=("b",))


def source_on_no_host() -> Case:
    town, _, _ = pair(lets_in(), lets_out())
    return Case(town, town.asked("a", "b"), "PORT_DOWN", "unkai doctor", unbound=("a",))


def no_route_beyond_second_router() -> Case:
    """The route leads to the second router, which does not know the network."""
    town, _, _ = chain(back_route=True, far_joined=False)
    fix = "unkai router add-route r2 10.3.0.99/32=NEXT-HOP"
    return Case(town, town.asked("a", "10.3.0.99"), "NO_ROUTE", fix)


def no_route_for_the_answer() -> Case:
    town, _, _ = chain(back_route=False)
    fix = "unkai router add-route r2 10.1.0.10/32=NEXT-HOP"
    return Case(town, town.asked("a", "c"), "NO_ROUTE", fix)


def route_by_nobody() -> Case:
    town = Town()
    web = town.group("web", lets_in(), lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    town.network("transit", "10.2.0.0/24")
    town.router("r", "front", "transit", routes=(Route("10.3.0.0/24", "10.2.0.77"),))
    return Case(town, town.asked("a", "10.3.0.5"), "NEXT_HOP_UNKNOWN", "unkai router show r")


def router_takes_no_connections() -> Case:
    town, _, _ = routed(lets_in(), lets_out())
    return Case(town, town.asked("a", "10.2.0.1", "tcp/22"), "ROUTER_REFUSES")


def no_gateway_host() -> Case:
    town, _, _ = routed(lets_in(), lets_out(), out=True)
    question = town.asked("a", EXTERNAL, "tcp/80")
    return Case(town, question, "NO_GATEWAY_HOST", "unkai host list", has_gateway_host=False)


def floating_blocked_by_group() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out(), out=True)
    address = town.floating("f", town.networks["outside"], b, town.routers["r"])
    question = town.asked("outside", address, "tcp/22")
    said = "lets tcp/22 from anywhere outside in"
    return Case(town, question, "NO_INGRESS_RULE", "rule add web ingress tcp 22", said=said)


def hidden_source_is_not_the_group() -> Case:
    """By a floating address the source is hidden, so a rule for its group does not fit."""
    town = Town()
    web = town.group("web", lets_out())
    own = lets_in(TCP, 80, remote_group_id=web.id)
    town.groups["web"] = web = replace(web, rules=(*web.rules, own))
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    b = town.machine("b", town.network("back", "10.2.0.0/24"), web)
    out = town.outside()
    router = town.router("r", "front", "back", out=out)
    address = town.floating("f", out, b, router)
    fix = f"ingress tcp 80 from {town.ports['r-gateway'].addresses[0].address}/32"
    return Case(town, town.asked("a", address, "tcp/80"), "NO_INGRESS_RULE", fix)


def balancer_member_blocked() -> Case:
    town, _, b = routed(lets_in(TCP, 81), lets_out())
    vip = town.balancer("shop", "back", b)
    return Case(town, town.asked("a", vip, "tcp/80"), "NO_INGRESS_RULE", "ingress tcp 80")


def one_of_two_members_blocked() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out())
    closed = town.group("closed", lets_out())
    c = town.machine("c", town.networks["back"], closed)
    vip = town.balancer("shop", "back", b, c)
    return Case(town, town.asked("a", vip, "tcp/80"), "NO_INGRESS_RULE", "rule add closed ingress")


def all_members_ill() -> Case:
    town, _, b = routed(lets_in(), lets_out())
    vip = town.balancer("shop", "back", b, checked=True)
    fix = "unkai load-balancer show shop"
    return Case(town, town.asked("a", vip, "tcp/80"), "NO_HEALTHY_MEMBER", fix, ill=("b",))


def no_way_back() -> Case:
    """b's subnet names a gateway that is no router's."""
    town = Town()
    web = town.group("web", lets_in(), lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    back = town.network("back")
    town.subnet("back", back, "10.2.0.0/24", gateway_address="10.2.0.254")
    town.machine("b", back, web)
    town.router("r", "front", "back", addresses={"back": "10.2.0.1"})
    return Case(town, town.asked("a", "b"), "NO_WAY_BACK", "unkai subnet update")


# What is let through


def same_network() -> Case:
    town, _, _ = pair(lets_in(TCP, 443), lets_out())
    return Case(town, town.asked("a", "b", "tcp/443"), said="lets TCP 443 in")


def same_network_ping() -> Case:
    town, _, _ = pair(lets_in(ICMP), lets_out())
    return Case(town, town.asked("a", "b"), said="lets ICMP in")


def same_network_udp() -> Case:
    town, _, _ = pair(lets_in(UDP, 53), lets_out(UDP))
    return Case(town, town.asked("a", "b", "udp/53"), said="lets UDP 53 in")


def group_members() -> Case:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    friends = town.group("friends", lets_out())
    web = town.group("web", lets_in(TCP, 80, remote_group_id=friends.id))
    town.machine("a", front, friends)
    town.machine("b", front, web)
    return Case(town, town.asked("a", "b", "tcp/80"), said="from group friends")


def ipv6() -> Case:
    town = Town()
    front = town.network("front", "10.1.0.0/24", "fd00:1::/64")
    web = town.group("web", lets_in(ip_version=6), lets_out())
    town.machine("a", front, web)
    b = town.machine("b", front, web)
    return Case(town, town.asked("a", b.addresses[1].address))


def ipv6_through_router() -> Case:
    town = Town()
    web = town.group("web", lets_in(TCP, 80), lets_out())
    town.machine("a", town.network("front", "fd00:1::/64"), web)
    town.machine("b", town.network("back", "fd00:2::/64"), web)
    town.router("r", "front", "back")
    return Case(town, town.asked("a", "b", "tcp/80"), said="by network back")


def through_router() -> Case:
    town, _, _ = routed(lets_in(TCP, 80), lets_out())
    return Case(town, town.asked("a", "b", "tcp/80"), said="by network back")


def two_subnets_of_one_network() -> Case:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    web = town.group("web", lets_in(), lets_out())
    town.machine("a", front, web)
    second = town.subnet("second", front, "10.7.0.0/24")
    b = town.machine("b", front, web)
    kept = tuple(some for some in b.addresses if some.subnet_id == second.id)
    town.ports["b"] = replace(b, addresses=kept)
    town.router("r", "front", "second")
    return Case(town, town.asked("a", "b"))


def two_routers() -> Case:
    town, _, _ = chain(back_route=True)
    return Case(town, town.asked("a", "c", "tcp/80"), said="via 10.2.0.2")


def router_answers_ping() -> Case:
    """The answer belongs to a's own connection: no rule need let it in."""
    town, _, _ = routed(lets_out())
    return Case(town, town.asked("a", "10.2.0.1"), said="answers the ping itself")


def out_with_snat() -> Case:
    town, _, _ = routed(lets_out(), out=True)
    return Case(town, town.asked("a", EXTERNAL, "tcp/443"), leaves=True, said="by network outside")


def out_to_a_known_neighbour() -> Case:
    case = out_with_snat()
    case.neighbour, case.said = True, "it goes out as 192.0.2.10"
    return case


def floating_from_outside() -> Case:
    town, _, b = routed(lets_in(TCP, 22), lets_out(), out=True)
    address = town.floating("f", town.networks["outside"], b, town.routers["r"])
    return Case(
        town, town.asked("outside", address, "tcp/22"), said=f"{address} leads to 10.2.0.10"
    )


def floating_from_inside() -> Case:
    town, _, b = routed(lets_in(TCP, 22), lets_out(), out=True)
    address = town.floating("f", town.networks["outside"], b, town.routers["r"])
    return Case(town, town.asked("a", address, "tcp/22"), said=f"{address} leads to 10.2.0.10")


def floating_of_another_router() -> Case:
    town, _, _ = routed(lets_out(), out=True)
    other = town.network("other", "10.1.0.0/24")
    out = town.networks["outside"]
    c = town.machine("c", other, town.group("open", lets_in()))
    address = town.floating("f", out, c, town.router("r2", "other", out=out))
    return Case(town, town.asked("a", address, "tcp/22"), said=f"{address} leads to 10.1.0.10")


def balancer_inside() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out())
    vip = town.balancer("shop", "back", b)
    return Case(town, town.asked("a", vip, "tcp/80"), said="sends it on to one of 10.2.0.10:80")


def balancer_on_own_network() -> Case:
    town, _, _ = pair(lets_in(TCP, 80), lets_out())
    town.router("r", "front")
    vip = town.balancer("shop", "front", town.ports["b"])
    return Case(town, town.asked("a", vip, "tcp/80"), said="sends it on to one of 10.1.0.11:80")


def balancer_with_two_members() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out())
    c = town.machine("c", town.networks["back"], town.groups["web"])
    vip = town.balancer("shop", "back", b, c)
    return Case(town, town.asked("a", vip, "tcp/80"))


def balancer_with_one_ill_member() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out())
    c = town.machine("c", town.networks["back"], town.group("closed", lets_out()))
    vip = town.balancer("shop", "back", b, c, checked=True)
    return Case(town, town.asked("a", vip, "tcp/80"), ill=("c",))


def balancer_from_outside() -> Case:
    town, _, b = routed(lets_in(TCP, 80), lets_out(), out=True)
    town.balancer("shop", "back", b)
    own = town.ports["shop-address"]
    address = town.floating("f", town.networks["outside"], own, town.routers["r"])
    return Case(town, town.asked("outside", address, "tcp/80"))


def without_anti_spoofing() -> Case:
    town, front, _ = pair(lets_out())
    town.machine("b2", front, anti_spoofing=False)
    return Case(town, town.asked("a", "b2", "tcp/5000"))


def by_a_host_route() -> Case:
    town = Town()
    web = town.group("web", lets_in(), lets_out())
    front = town.network("front")
    route = HostRoute("10.2.0.0/24", "10.1.0.2")
    town.subnet("front", front, "10.1.0.0/24", gateway_address="", host_routes=(route,))
    town.machine("a", front, web)
    town.machine("b", town.network("back", "10.2.0.0/24"), web)
    town.router("r", "front", "back", addresses={"front": "10.1.0.2"})
    return Case(town, town.asked("a", "b"))


def on_a_vlan() -> Case:
    town = Town()
    web = town.group("web", lets_in(TCP, 80), lets_out())
    lan = town.network(
        "lan", "10.5.0.0/24", type=NetworkType.VLAN, physical_network="public", vlan_id=7
    )
    town.machine("a", lan, web)
    town.machine("b", lan, web, host=1)
    return Case(town, town.asked("a", "b", "tcp/80"))


_BLOCKED: tuple[Callable[[], Case], ...] = (
    no_rule_in,
    no_rule_in_for_ping,
    rule_for_another_protocol,
    rule_for_other_addresses,
    rule_for_another_group,
    no_rule_out,
    in_no_group,
    no_rule_in_behind_router,
    spoofed_address,
    port_on_no_host,
    source_on_no_host,
    no_route_beyond_second_router,
    no_route_for_the_answer,
    route_by_nobody,
    router_takes_no_connections,
    no_gateway_host,
    floating_blocked_by_group,
    hidden_source_is_not_the_group,
    balancer_member_blocked,
    one_of_two_members_blocked,
    all_members_ill,
    no_way_back,
)
_ALLOWED: tuple[Callable[[], Case], ...] = (
    same_network,
    same_network_ping,
    same_network_udp,
    group_members,
    ipv6,
    ipv6_through_router,
    through_router,
    two_subnets_of_one_network,
    two_routers,
    router_answers_ping,
    out_with_snat,
    out_to_a_known_neighbour,
    floating_from_outside,
    floating_from_inside,
    floating_of_another_router,
    balancer_inside,
    balancer_on_own_network,
    balancer_with_two_members,
    balancer_with_one_ill_member,
    balancer_from_outside,
    without_anti_spoofing,
    by_a_host_route,
    on_a_vlan,
)
_OTHERS = (reach_cases_rules, reach_cases_ends, reach_cases_ways)
CASES = {
    make.__name__: make
    for make in (
        *(*_BLOCKED, *(make for some in _OTHERS for make in some.BLOCKED)),
        *(*_ALLOWED, *(make for some in _OTHERS for make in some.ALLOWED)),
    )
}

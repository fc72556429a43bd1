"""Situations whose ends are odd: oneself, an address that is shared, a router, the operator's."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.reach_case import TCP, Case, pair, routed
from tests.support.reaching import Town, lets_in, lets_out
from unkai_scheduler.domain.ports import AddressPair
from unkai_scheduler.domain.reachability import EXTERNAL

VIP = "10.1.0.100"


def _provider(*rules: object) -> Town:
    """Machine a on the operator's network itself; its gateway is the operator's."""
    town = Town()
    web = town.group("web", *rules)  # type: ignore[arg-type]
    town.machine("a", town.outside(), web)
    return town


def provider_address_without_a_rule() -> Case:
    town = _provider(lets_in(TCP, 80), lets_out())
    question = town.asked("outside", "a", "tcp/22")
    said = "lets tcp/22 from anywhere outside in"
    return Case(town, question, "NO_INGRESS_RULE", "rule add web ingress tcp 22", said=said)


def gateway_of_a_router_takes_no_connections() -> Case:
    town, _, _ = routed(lets_out(), out=True)
    address = town.ports["r-gateway"].addresses[0].address
    return Case(town, town.asked("outside", address, "tcp/22"), "ROUTER_REFUSES", "floating")


def nobody_uses_the_pair() -> Case:
    """The address may be used by b, which does not let it in."""
    town, front, _ = pair(lets_in(TCP, 80), lets_out())
    town.machine("c", front, town.group("shut"), pairs=(AddressPair(f"{VIP}/32"),))
    question = town.asked("a", VIP, "tcp/80")
    return Case(town, question, "NO_INGRESS_RULE", "rule add shut ingress", taken=(("c", VIP),))


def answer_by_the_other_port() -> Case:
    """b is on a's network too, and answers by the port there, with the other port's address."""
    town, _, _ = routed(lets_in(), lets_out())
    town.card("b2", "b", town.networks["front"], town.groups["web"])
    fix = town.ports["b2"].addresses[0].address
    return Case(town, town.asked("a", "b", "tcp/80"), "ANSWER_BY_OTHER_PORT", fix)


def not_what_the_appliance_takes() -> Case:
    """The subnet's host route leads to a machine that may take nothing but its own."""
    town, front, web = pair(lets_in(), lets_out())
    appliance = town.machine("vpn", front, web)
    town.routed_by("front", "10.9.0.0/16", appliance.addresses[0].address)
    fix = "unkai port update vpn-port --allow 10.9.0.7"
    return Case(town, town.asked("a", "10.9.0.7", "tcp/80"), "ANTI_SPOOFING", fix)


def own_address() -> Case:
    town, _, _ = pair(lets_out())
    return Case(town, town.asked("a", "a", "tcp/80"))


def own_floating_address() -> Case:
    town, a, _ = routed(lets_in(), lets_out(), out=True)
    address = town.floating("f", town.networks["outside"], a, town.routers["r"])
    return Case(town, town.asked("a", address, "tcp/22"), said=f"{address} leads to 10.1.0.10")


def floating_to_floating() -> Case:
    """Both have one: the far end sees the near end's."""
    town, a, b = routed(lets_out(), out=True)
    out, router = town.networks["outside"], town.routers["r"]
    seen = town.floating("fa", out, a, router)
    address = town.floating("fb", out, b, router)
    town.add_rule("web", lets_in(TCP, 22, remote_cidr=f"{seen}/32"))
    return Case(town, town.asked("a", address, "tcp/22"), said=f"{address} leads to 10.2.0.10")


def address_that_a_pair_allows() -> Case:
    town, front, web = pair(lets_in(TCP, 80), lets_out())
    town.machine("c", front, web, pairs=(AddressPair(f"{VIP}/32"),))
    return Case(town, town.asked("a", VIP, "tcp/80"), taken=(("c", VIP),), said="hands it to c")


def address_that_a_pair_allows_behind_a_router() -> Case:
    town, _, _ = routed(lets_in(TCP, 80), lets_out())
    vip = "10.2.0.100"
    back, web = town.networks["back"], town.groups["web"]
    town.machine("c", back, web, pairs=(AddressPair(f"{vip}/32"),))
    return Case(town, town.asked("a", vip, "tcp/80"), taken=(("c", vip),), said="hands it to c")


def address_in_a_range_that_a_pair_allows() -> Case:
    """What c sends from there is let out too, to a's group alone."""
    town, front, web = pair(lets_in(TCP, 80), lets_out())
    own = town.group("own", lets_in(TCP, 80, remote_group_id=web.id))
    vip = "10.1.0.70"
    town.machine("c", front, own, pairs=(AddressPair("10.1.0.64/28"),))
    return Case(town, town.asked("a", vip, "tcp/80"), taken=(("c", vip),), said="hands it to c")


def range_behind_an_appliance() -> Case:
    town, front, web = pair(lets_in(), lets_out())
    behind = (AddressPair("10.9.0.0/16"),)
    appliance = town.machine("vpn", front, web, pairs=behind)
    town.routed_by("front", "10.9.0.0/16", appliance.addresses[0].address)
    question = town.asked("a", "10.9.0.7", "tcp/80")
    return Case(town, question, leaves=True, taken=(("vpn", "10.9.0.7"),), said="hands it to vpn")


def neighbour_on_the_operators_network() -> Case:
    town = _provider(lets_out())
    return Case(town, town.asked("a", "192.0.2.1", "tcp/80"), leaves=True)


def out_by_the_operators_gateway() -> Case:
    town = _provider(lets_out())
    return Case(town, town.asked("a", EXTERNAL, "tcp/80"), leaves=True)


def in_to_a_provider_address() -> Case:
    town = _provider(lets_in(TCP, 22), lets_out())
    return Case(town, town.asked("outside", "a", "tcp/22"), said="hands it to a")


def gateway_of_a_router_answers_ping() -> Case:
    town, _, _ = routed(lets_out(), out=True)
    address = town.ports["r-gateway"].addresses[0].address
    return Case(town, town.asked("outside", address), said="answers the ping itself")


def own_router_answers_ping() -> Case:
    town, _, _ = routed(lets_out())
    return Case(town, town.asked("a", "10.1.0.1"), said="answers the ping itself")


def address_on_the_shared_network() -> Case:
    """As `answer_by_the_other_port`, and asked for where both are neighbours."""
    town, _, _ = routed(lets_in(), lets_out())
    town.card("b2", "b", town.networks["front"], town.groups["web"])
    return Case(town, town.asked("a", "b2", "tcp/80"))


BLOCKED: tuple[Callable[[], Case], ...] = (
    provider_address_without_a_rule,
    gateway_of_a_router_takes_no_connections,
    nobody_uses_the_pair,
    answer_by_the_other_port,
    not_what_the_appliance_takes,
)
ALLOWED: tuple[Callable[[], Case], ...] = (
    own_address,
    own_floating_address,
    floating_to_floating,
    address_that_a_pair_allows,
    address_that_a_pair_allows_behind_a_router,
    address_in_a_range_that_a_pair_allows,
    range_behind_an_appliance,
    neighbour_on_the_operators_network,
    out_by_the_operators_gateway,
    in_to_a_provider_address,
    gateway_of_a_router_answers_ping,
    own_router_answers_ping,
    address_on_the_shared_network,
)

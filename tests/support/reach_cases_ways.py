"""Situations that routes, gateways and load balancers decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.support.reach_case import TCP, Case, chain, pair, routed
from tests.support.reaching import Town, lets_in, lets_out
from unkai_scheduler.domain.networks import NetworkType
from unkai_scheduler.domain.reachability import EXTERNAL
from unkai_scheduler.domain.routers import Route


def _behind_two(*, has_host: bool = True) -> Case:
    """Machine a's router sends all else by a second one, which alone leads out."""
    town = Town()
    web = town.group("web", lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    town.network("transit", "10.2.0.0/24")
    town.router("r", "front", "transit", routes=(Route("0.0.0.0/0", "10.2.0.2"),))
    back = (Route("10.1.0.0/24", "10.2.0.1"),)
    town.router("r2", "transit", out=town.outside(), addresses={"transit": "10.2.0.2"}, routes=back)
    question = town.asked("a", EXTERNAL, "tcp/80")
    return Case(town, question, "NO_NAT", has_gateway_host=has_host)


def _public(*, snat: bool) -> Case:
    """Machine a has an address that the outside routes to its router."""
    town = Town()
    web = town.group("web", lets_in(TCP, 22), lets_out())
    town.machine("a", town.network("front", "203.0.113.0/24"), web)
    router = town.router("r", "front", out=town.outside(), snat=snat)
    assert router.gateway
    told = (("203.0.113.0/24", router.gateway.addresses[0]),)
    return Case(town, town.asked("outside", "a", "tcp/22"), outside_routes=told)


def more_exact_route_leads_nowhere() -> Case:
    town, _, _ = chain(back_route=True)
    own = town.routers["r"]
    bad = Route("10.4.0.10/32", "10.2.0.77")
    town.routers["r"] = replace(own, routes=(*own.routes, bad))
    fix = "unkai router show r"
    return Case(town, town.asked("a", "c"), "NEXT_HOP_UNKNOWN", fix, said="its route to 10.4.0.10")


def gateway_of_the_second_router_on_no_host() -> Case:
    case = _behind_two(has_host=False)
    case.reason, case.fix = "NO_GATEWAY_HOST", "unkai host list"
    return case


def second_router_hides_nobody() -> Case:
    """A router gives its address to its own subnets alone, not to those behind another router."""
    case = _behind_two()
    case.fix = "unkai router set-gateway r"
    return case


def outside_without_a_gateway() -> Case:
    town = Town()
    web = town.group("web", lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    out = town.network("outside", external=True, type=NetworkType.FLAT, physical_network="public")
    town.subnet("outside", out, "192.0.2.0/24", gateway_address="")
    town.router("r", "front", out=out)
    fix = "unkai subnet update outside --gateway"
    return Case(town, town.asked("a", EXTERNAL, "tcp/80"), "NO_ROUTE", fix)


def balancer_takes_no_ping() -> Case:
    town, _, b = routed(lets_in(), lets_out())
    return Case(town, town.asked("a", town.balancer("shop", "back", b)), "NO_LISTENER", "TCP 80")


def balancer_listens_elsewhere() -> Case:
    town, _, b = routed(lets_in(), lets_out())
    vip = town.balancer("shop", "back", b)
    fix = "unkai load-balancer add-listener shop 8080"
    return Case(town, town.asked("a", vip, "tcp/8080"), "NO_LISTENER", fix)


def answer_is_hidden() -> Case:
    """The router hides what it sends out, and the answer with it."""
    case = _public(snat=True)
    case.reason, case.fix = "ANSWER_HIDDEN", "unkai floating-ip create"
    return case


def more_exact_route_wins() -> Case:
    town, _, _ = chain(back_route=True)
    own = town.routers["r"]
    bad = Route("10.4.0.0/16", "10.2.0.77")
    town.routers["r"] = replace(own, routes=(bad, *own.routes))
    return Case(town, town.asked("a", "c"), said="by its route to 10.4.0.0/24 via 10.2.0.2")


def more_exact_host_route_for_the_answer() -> Case:
    town, _, _ = routed(lets_in(), lets_out())
    town.routed_by("back", "10.0.0.0/8", "10.2.0.77")
    town.routed_by("back", "10.1.0.0/24", "10.2.0.1")
    return Case(town, town.asked("a", "b", "tcp/80"))


def public_address_from_outside() -> Case:
    return _public(snat=False)


def public_address_goes_out() -> Case:
    case = _public(snat=False)
    case.question = case.town.asked("a", EXTERNAL, "tcp/80")
    case.leaves = True
    return case


def between_a_vlan_and_a_tenant() -> Case:
    town = Town()
    web = town.group("web", lets_in(TCP, 80), lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    lan = town.network(
        "lan", "10.5.0.0/24", type=NetworkType.VLAN, physical_network="public", vlan_id=8
    )
    town.machine("b", lan, web)
    town.router("r", "front", "lan")
    return Case(town, town.asked("a", "b", "tcp/80"))


def balancer_of_oneself() -> Case:
    """The one member is who asks."""
    town, _, _ = pair(lets_in(TCP, 80), lets_out())
    town.router("r", "front")
    vip = town.balancer("shop", "front", town.ports["a"])
    return Case(town, town.asked("a", vip, "tcp/80"))


BLOCKED: tuple[Callable[[], Case], ...] = (
    more_exact_route_leads_nowhere,
    gateway_of_the_second_router_on_no_host,
    second_router_hides_nobody,
    outside_without_a_gateway,
    balancer_takes_no_ping,
    balancer_listens_elsewhere,
    answer_is_hidden,
)
ALLOWED: tuple[Callable[[], Case], ...] = (
    more_exact_route_wins,
    more_exact_host_route_for_the_answer,
    public_address_from_outside,
    public_address_goes_out,
    between_a_vlan_and_a_tenant,
    balancer_of_oneself,
)

"""What a situation on real networks is: a cloud, a question, and what is true there."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.reaching import Town, lets_in, lets_out
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port
from unkai_scheduler.domain.reachability import Question
from unkai_scheduler.domain.routers import Route
from unkai_scheduler.domain.security_groups import Protocol, Rule, SecurityGroup

TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP


@dataclass
class Case:
    """A situation."""

    town: Town
    question: Question
    reason: str = ""
    """Why not; empty: it is reachable."""
    fix: str = ""
    """What the advice contains."""
    leaves: bool = False
    unbound: tuple[str, ...] = ()
    """Machines whose port no host has."""
    has_gateway_host: bool = True
    ill: tuple[str, ...] = ()
    """Members that fail their health check."""
    neighbour: bool = False
    """Routers have learned the MAC address of the outside's first address."""
    said: str = ""
    """What one of the hops says."""
    taken: tuple[tuple[str, str], ...] = ()
    """Addresses that machines have given themselves."""
    outside_routes: tuple[tuple[str, str], ...] = ()
    """What the outside knows of ranges and who leads there."""


def pair(*rules: Rule, host: int = 1) -> tuple[Town, Network, SecurityGroup]:
    """Machines a and b on one network, in one group."""
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    web = town.group("web", *rules)
    town.machine("a", front, web)
    town.machine("b", front, web, host=host)
    return town, front, web


def routed(*rules: Rule, out: bool = False) -> tuple[Town, Port, Port]:
    """Machines a on front and b on back, with router r between."""
    town = Town()
    web = town.group("web", *rules)
    a = town.machine("a", town.network("front", "10.1.0.0/24"), web)
    b = town.machine("b", town.network("back", "10.2.0.0/24"), web, host=1)
    town.router("r", "front", "back", out=town.outside() if out else None)
    return town, a, b


def chain(*, back_route: bool, far_joined: bool = True) -> tuple[Town, Port, Port]:
    """Machines a on front and c on far; r joins front and transit, r2 transit and far."""
    town = Town()
    web = town.group("web", lets_in(), lets_out())
    a = town.machine("a", town.network("front", "10.1.0.0/24"), web)
    town.network("transit", "10.2.0.0/24")
    c = town.machine("c", town.network("far", "10.4.0.0/24"), web)
    there = (Route("10.4.0.0/24", "10.2.0.2"), Route("10.3.0.0/24", "10.2.0.2"))
    town.router("r", "front", "transit", routes=there)
    joined = ("transit", "far") if far_joined else ("transit",)
    routes = (Route("10.1.0.0/24", "10.2.0.1"),) if back_route else ()
    town.router("r2", *joined, addresses={"transit": "10.2.0.2"}, routes=routes)
    return town, a, c

"""What a user may say of a router, and what of it is wrong whatever the state of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import check_address, check_cidr, version_of
from unkai_scheduler.domain.routers import Route
from unkai_scheduler.services.checks import Violations
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import check_id

CHANGEABLE = ("name", "labels", "gateway", "routes")
MAX_ROUTES = 64
MAX_GATEWAY_ADDRESSES = 8


@dataclass(frozen=True, slots=True)
class GatewayDraft:
    """What a user may say of a router's way out."""

    network_id: str
    addresses: tuple[str, ...] = ()
    """Empty: one of each version that the network has."""
    snat: bool = True


@dataclass(frozen=True, slots=True)
class RouterDraft:
    """What a user may say of a router."""

    name: str = ""
    gateway: GatewayDraft | None = None
    routes: tuple[Route, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InterfaceDraft:
    """What a user may say of a router's place."""

    subnet_id: str
    address: str = ""
    """Empty: the subnet's gateway."""


@dataclass(frozen=True, slots=True)
class CheckedRouter:
    """The parts of a draft in which text has a canonical form."""

    gateway: GatewayDraft | None = None
    routes: tuple[Route, ...] = ()


def check_router(draft: RouterDraft, fields: frozenset[str]) -> CheckedRouter:
    """Return the draft's parts in canonical form; raise `InvalidArgument` with all problems."""
    gateway: GatewayDraft | None = None
    routes: tuple[Route, ...] = ()
    with Violations() as wrong:
        if "name" in fields:
            with wrong.collect():
                names.check_name(draft.name, "router.name")
        if "labels" in fields:
            with wrong.collect():
                names.check_labels(draft.labels, "router.labels")
        if "gateway" in fields and draft.gateway is not None:
            gateway = _checked_gateway(wrong, draft.gateway)
        if "routes" in fields:
            routes = _checked_routes(wrong, draft.routes)
    return CheckedRouter(gateway, routes)


def check_interface(router_id: str, draft: InterfaceDraft) -> InterfaceDraft:
    """Return the draft in canonical form; raise `InvalidArgument` with all problems."""
    address = ""
    with Violations() as wrong:
        with wrong.collect():
            check_id("router", router_id, "router_id")
        with wrong.collect():
            check_id("subnet", draft.subnet_id, "interface.subnet_id")
        if draft.address:
            with wrong.collect():
                address = check_address(draft.address, "interface.address")
    return InterfaceDraft(draft.subnet_id, address)


def _checked_gateway(wrong: Violations, draft: GatewayDraft) -> GatewayDraft:
    with wrong.collect():
        check_id("network", draft.network_id, "router.gateway.network_id")
    path = "router.gateway.addresses"
    given = draft.addresses
    wrong.require(
        len(given) <= MAX_GATEWAY_ADDRESSES,
        path,
        f"has {len(given)} addresses; {MAX_GATEWAY_ADDRESSES} are allowed",
        "TOO_MANY_ADDRESSES",
    )
    checked: list[str] = []
    for number, text in enumerate(given[:MAX_GATEWAY_ADDRESSES]):
        with wrong.collect():
            address = check_address(text, f"{path}[{number}]")
            if address in checked:
                raise InvalidArgument.field(
                    f"{path}[{number}]", f"{address} is named twice", reason="DUPLICATE_ADDRESS"
                )
            checked.append(address)
    return GatewayDraft(draft.network_id, tuple(checked), draft.snat)


def _checked_routes(wrong: Violations, routes: Sequence[Route]) -> tuple[Route, ...]:
    wrong.require(
        len(routes) <= MAX_ROUTES,
        "router.routes",
        f"has {len(routes)} routes; {MAX_ROUTES} are allowed",
        "TOO_MANY_ROUTES",
    )
    checked: list[Route] = []
    for number, route in enumerate(routes[:MAX_ROUTES]):
        with wrong.collect():
            one = _checked_route(route, f"router.routes[{number}]")
            if one in checked:
                raise InvalidArgument.field(
                    f"router.routes[{number}]",
                    f"{one.destination} by way of {one.next_hop} is there twice",
                    reason="DUPLICATE_ROUTE",
                )
            checked.append(one)
    return tuple(checked)


def _checked_route(route: Route, path: str) -> Route:
    with Violations() as wrong:
        destination = next_hop = ""
        with wrong.collect():
            destination = check_cidr(route.destination, f"{path}.destination")
        with wrong.collect():
            next_hop = check_address(route.next_hop, f"{path}.next_hop")
        if destination and next_hop:
            wrong.require(
                version_of(destination) == version_of(next_hop),
                f"{path}.next_hop",
                f"{next_hop} cannot lead to {destination}: one is IPv4, the other IPv6",
                "IP_VERSIONS_DIFFER",
            )
    return Route(destination, next_hop)

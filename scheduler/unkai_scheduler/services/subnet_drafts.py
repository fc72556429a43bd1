"""What a user may say of a subnet, checked: addresses, ranges, name servers, routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from unkai_scheduler.domain import names
from unkai_scheduler.domain.addresses import (
    SLAAC_PREFIX,
    check_address,
    check_cidr,
    check_ranges,
    check_subnet_cidr,
    check_usable,
    default_gateway,
    default_ranges,
    version_of,
)
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Range
from unkai_scheduler.services.checks import Violations
from unkai_wire.errors import InvalidArgument
from unkai_wire.ids import check_id

MAX_DNS_SERVERS = 8
MAX_HOST_ROUTES = 32


@dataclass(frozen=True, slots=True)
class SubnetDraft:
    """What a user may say of a subnet."""

    name: str = ""
    network_id: str = ""
    cidr: str = ""
    gateway_address: str = ""
    no_gateway: bool = False
    ranges: Sequence[Range] = ()
    no_dhcp: bool = False
    ipv6_mode: Ipv6Mode | None = None
    dns_servers: Sequence[str] = ()
    host_routes: Sequence[HostRoute] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A draft's addresses in canonical form."""

    cidr: str
    gateway_address: str
    ranges: tuple[Range, ...]
    ipv6_mode: Ipv6Mode | None
    dns_servers: tuple[str, ...]
    host_routes: tuple[HostRoute, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What may change later of a subnet's addresses, in canonical form."""

    ranges: tuple[Range, ...] = ()
    dns_servers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()


def check_words(wrong: Violations, draft: SubnetDraft, fields: frozenset[str]) -> None:
    """Note what is wrong with name and labels."""
    if "name" in fields:
        with wrong.collect():
            names.check_name(draft.name, "subnet.name")
    if "labels" in fields:
        with wrong.collect():
            names.check_labels(draft.labels, "subnet.labels")


def check_new(draft: SubnetDraft) -> Plan:
    """Return a new subnet's addresses; raise `InvalidArgument` for all that is wrong."""
    cidr, gateway, mode, told = "", "", None, Told()
    with Violations() as wrong:
        check_words(wrong, draft, frozenset({"name", "labels"}))
        with wrong.collect():
            check_id("network", draft.network_id, "subnet.network_id")
        with wrong.collect():
            cidr = check_subnet_cidr(draft.cidr, "subnet.cidr")
        if cidr:
            with wrong.collect():
                gateway = _gateway(draft, cidr)
            with wrong.collect():
                mode = _ipv6_mode(draft.ipv6_mode, cidr)
            with wrong.collect():
                told = check_told(draft, cidr, gateway, frozenset(TOLD))
    return Plan(cidr, gateway, told.ranges, mode, told.dns_servers, told.host_routes)


TOLD = ("allocation_ranges", "dns_servers", "host_routes")


def check_told(draft: SubnetDraft, cidr: str, gateway: str, fields: frozenset[str]) -> Told:
    """Return these fields of a draft; raise `InvalidArgument` for all that is wrong with them."""
    ranges: tuple[Range, ...] = ()
    servers: tuple[str, ...] = ()
    routes: tuple[HostRoute, ...] = ()
    with Violations() as wrong:
        if "allocation_ranges" in fields:
            with wrong.collect():
                path = "subnet.allocation_ranges"
                ranges = check_ranges(draft.ranges, cidr, gateway, path)
                ranges = ranges or default_ranges(cidr, gateway)
        if "dns_servers" in fields:
            with wrong.collect():
                servers = _dns_servers(draft.dns_servers, cidr)
        if "host_routes" in fields:
            with wrong.collect():
                routes = _host_routes(draft.host_routes, cidr)
    return Told(ranges, servers, routes)


def _gateway(draft: SubnetDraft, cidr: str) -> str:
    path = "subnet.gateway_address"
    if draft.no_gateway:
        if draft.gateway_address:
            raise InvalidArgument.field(
                path, "cannot be said together with no_gateway", reason="INVALID_GATEWAY"
            )
        return ""
    if not draft.gateway_address:
        return default_gateway(cidr)
    return check_usable(check_address(draft.gateway_address, path), cidr, path)


def _ipv6_mode(wanted: Ipv6Mode | None, cidr: str) -> Ipv6Mode | None:
    path = "subnet.ipv6_mode"
    if version_of(cidr) == 4:
        if wanted is not None:
            raise InvalidArgument.field(path, "is of IPv6 alone", reason="INVALID_IPV6_MODE")
        return None
    has_64_bits = cidr.endswith(f"/{SLAAC_PREFIX}")
    if wanted is None:
        return Ipv6Mode.SLAAC if has_64_bits else Ipv6Mode.DHCPV6_STATEFUL
    if wanted is not Ipv6Mode.DHCPV6_STATEFUL and not has_64_bits:
        raise InvalidArgument.field(
            path,
            f"with {wanted.value} guests make their own address, and need a prefix of "
            f"{SLAAC_PREFIX} bits",
            reason="INVALID_IPV6_MODE",
            fix="choose DHCPV6_STATEFUL, or another CIDR",
        )
    return wanted


def _dns_servers(servers: Sequence[str], cidr: str) -> tuple[str, ...]:
    path = "subnet.dns_servers"
    if len(servers) > MAX_DNS_SERVERS:
        raise InvalidArgument.field(
            path,
            f"has {len(servers)} addresses; {MAX_DNS_SERVERS} are allowed",
            reason="TOO_MANY_DNS_SERVERS",
        )
    checked: list[str] = []
    with Violations() as wrong:
        for number, server in enumerate(servers):
            with wrong.collect():
                checked.append(_dns_server(server, f"{path}[{number}]", cidr, checked))
    return tuple(checked)


def _dns_server(text: str, path: str, cidr: str, before: Sequence[str]) -> str:
    server = check_address(text, path)
    address = ip_address(server)
    problem = ""
    if version_of(server) != version_of(cidr):
        problem = f"{server} cannot be told to guests by IPv{version_of(cidr)}"
    elif address.is_multicast or address.is_unspecified or address.is_loopback:
        problem = f"{server} is not an address of a server"
    elif server in before:
        problem = f"{server} is named twice"
    if problem:
        raise InvalidArgument.field(path, problem, reason="INVALID_DNS_SERVER")
    return server


def _host_routes(routes: Sequence[HostRoute], cidr: str) -> tuple[HostRoute, ...]:
    path = "subnet.host_routes"
    if len(routes) > MAX_HOST_ROUTES:
        raise InvalidArgument.field(
            path,
            f"has {len(routes)} routes; {MAX_HOST_ROUTES} are allowed",
            reason="TOO_MANY_ROUTES",
        )
    if routes and version_of(cidr) != 4:
        raise InvalidArgument.field(
            path, "guests are told routes by IPv4 alone", reason="INVALID_ROUTE"
        )
    checked: list[HostRoute] = []
    with Violations() as wrong:
        for number, route in enumerate(routes):
            with wrong.collect():
                checked.append(_host_route(route, f"{path}[{number}]", cidr, checked))
    return tuple(checked)


def _host_route(route: HostRoute, path: str, cidr: str, before: Sequence[HostRoute]) -> HostRoute:
    destination = check_cidr(route.destination, f"{path}.destination")
    next_hop = check_address(route.next_hop, f"{path}.next_hop")
    check_usable(next_hop, cidr, f"{path}.next_hop")
    if version_of(destination) != 4:
        raise InvalidArgument.field(
            f"{path}.destination", f"{destination} is not of IPv4", reason="INVALID_ROUTE"
        )
    if any(some.destination == destination for some in before):
        raise InvalidArgument.field(
            f"{path}.destination", f"{destination} is named twice", reason="INVALID_ROUTE"
        )
    return HostRoute(destination, next_hop)

"""The network that a project's instances are on when they name none: made on first use.

Network `default`, one subnet of IPv4 and one of IPv6, router `default` between them and outside,
security group `default`. All are rows of the caller's transaction, which has locked the project:
so there is one, whoever else launches now.

Where a user has a network `default` already, that is it, as it is. Without an external network, or
with several, or where that one has no address left, the router leads nowhere: the user gives it a
gateway later. A launch never fails for want of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import (
    IpNetwork,
    address_of,
    count_of,
    default_gateway,
    default_ranges,
)
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.networks import DEFAULT_NETWORK, Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.domain.routers import Router
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.networking import check_configured, record_change
from unkai_scheduler.services.networks import insert_network
from unkai_scheduler.services.router_changes import RouterChanges
from unkai_scheduler.services.router_drafts import CheckedRouter, GatewayDraft, InterfaceDraft
from unkai_scheduler.services.security_groups import ensure_default_group
from unkai_scheduler.services.subnets import insert_subnet
from unkai_scheduler.store import networks, routers, subnets
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import uuid_of

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

DEFAULT_ROUTER = "default"
_NAMES = {4: DEFAULT_NETWORK, 6: f"{DEFAULT_NETWORK}-v6"}
"""What its subnets are called, by version."""
_PAGE = 500
_BITS, _PREFIXES = {4: 32, 6: 128}, {4: 24, 6: 64}
_RANGES = 1 << 16
"""Subnets of 24 bits in 10.0.0.0/8, and of 64 bits in a prefix of 48."""


def lock_for_default(conn: Connection, project: Project, *, besides: Iterable[str] = ()) -> None:
    """Lock what `ensure_default_network` changes and takes from, and `besides`: networks to be on.

    The project is locked. It takes all at once, in one order, whichever network is which.
    """
    known, named = networks.default_of(conn, project.id), None
    held = set(besides)
    if known is not None:
        held.add(known.id)
    else:
        named = networks.find(conn, project.id, DEFAULT_NETWORK)
        held |= {network.id for network in _only_outside(conn)}
    networks.lock(conn, locked=[named.id] if named else (), held=held)
    subnets.lock_of(conn, *held, *([named.id] if named else ()))


def ensure_default_network(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    project: Project,
    *,
    settings: NetworkSettings,
) -> Network:
    """Return the project's default network; one that has none gets it now.

    The project is locked (`resolve_project`), and the rest (`lock_for_default`). Raises
    `FailedPrecondition` / NETWORKING_NOT_CONFIGURED where there are no networks.
    """
    known = networks.default_of(conn, project.id)
    if known is not None:
        return known
    own = networks.find(conn, project.id, DEFAULT_NETWORK)
    if own is not None:
        return _made_default(conn, context, call, own)
    check_configured(settings)
    ensure_default_group(conn, context, call, project)
    network = _network(conn, context, call, project, settings)
    made = [
        insert_subnet(conn, context, call, subnet)
        for subnet in _subnets(conn, context, project, network)
    ]
    _join(conn, context, call, project, made)
    return network


def _made_default(conn: Connection, context: ServiceContext, call: Call, own: Network) -> Network:
    network = replace(own, is_default=True, etag=context.new_etag(), update_time=context.clock())
    networks.replace(conn, network, etag=own.etag)
    record_change(
        conn,
        context,
        call,
        kind="network",
        row=network,
        change=EventType.UPDATED,
        what="is the project's default one",
    )
    return network


def _network(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    project: Project,
    settings: NetworkSettings,
) -> Network:
    now = context.clock()
    network = Network(
        id=context.new_id("network"),
        project_id=project.id,
        name=DEFAULT_NETWORK,
        type=NetworkType.OVERLAY,
        mtu=settings.most_mtu(),
        dns_domain=settings.dns_domain,
        is_default=True,
        etag=context.new_etag(),
        create_time=now,
        update_time=now,
    )
    return insert_network(conn, context, call, network)


def _subnets(
    conn: Connection, context: ServiceContext, project: Project, network: Network
) -> list[Subnet]:
    """Return the network's subnets, whose addresses no network in reach of the project has."""
    taken = _in_reach(conn, project)
    now = context.clock()
    made = []
    for version, starts in ((4, _ipv4(network)), (6, _ipv6(network))):
        cidr = _first_free(version, starts, taken)
        gateway = default_gateway(cidr)
        subnet = Subnet(
            id=context.new_id("subnet"),
            project_id=project.id,
            network_id=network.id,
            name=_free_name(_NAMES[version], lambda name: subnets.find(conn, project.id, name)),
            cidr=cidr,
            gateway_address=gateway,
            ranges=default_ranges(cidr, gateway),
            ipv6_mode=Ipv6Mode.SLAAC if version == 6 else None,
            etag=context.new_etag(),
            create_time=now,
            update_time=now,
        )
        made.append(subnet)
    return made


def _in_reach(conn: Connection, project: Project) -> list[IpNetwork]:
    """Return what all networks have that the project's routers and instances may be on."""
    usable: list[Network] = []
    after = None
    while page := networks.list_page(conn, after=after, limit=_PAGE, usable_by=project.id):
        usable += page
        after = (page[-1].name, page[-1].id)
    there = subnets.of_networks(conn, [network.id for network in usable])
    return [ip_network(subnet.cidr) for some in there.values() for subnet in some]


def _first_free(version: int, starts: Iterator[int], taken: Sequence[IpNetwork]) -> str:
    """Return the network of the first of these addresses that has none in common with others."""
    bits, prefix = _BITS[version], _PREFIXES[version]
    size = 1 << (bits - prefix)
    spans = [
        (int(some.network_address), int(some.broadcast_address))
        for some in taken
        if some.version == version
    ]
    for start in starts:
        if not any(first < start + size and start <= last for first, last in spans):
            return f"{address_of(f'{start:0{bits // 4}x}')}/{prefix}"
    raise FailedPrecondition(
        "the project's networks leave no addresses for a default one",
        reason="NO_FREE_RANGE",
        fix="name the network that the instance shall be on",
    )


def _ipv4(network: Network) -> Iterator[int]:
    """Give 10.x.y.0, beginning anywhere: networks that are joined one day rarely clash."""
    chance = uuid_of(network.id).int  # the low bits of a UUIDv7 are random
    for step in range(_RANGES):
        yield 10 << 24 | (chance + step) % _RANGES << 8


def _ipv6(network: Network) -> Iterator[int]:
    """Give addresses of fd00::/8 with 40 random bits (RFC 4193 section 3.2) and a number of 16."""
    chance = uuid_of(network.id).int
    for number in range(_RANGES):
        yield 0xFD << 120 | chance % (1 << 40) << 80 | number << 64


def _join(
    conn: Connection,
    context: ServiceContext,
    call: Call,
    project: Project,
    made: Sequence[Subnet],
) -> None:
    """Make the router, with a way out if there is one, and put it on the subnets."""
    now = context.clock()
    row = Router(
        id=context.new_id("router"),
        project_id=project.id,
        name=_free_name(DEFAULT_ROUTER, lambda name: routers.find(conn, project.id, name)),
        etag=context.new_etag(),
        create_time=now,
        update_time=now,
    )
    changes = RouterChanges(conn, context, call)
    router = changes.make(row, CheckedRouter(gateway=_way_out(conn)))
    for subnet in made:
        router = changes.join(router, InterfaceDraft(subnet.id))


def _way_out(conn: Connection) -> GatewayDraft | None:
    """Return the only external network there is, if it has an address left of each version."""
    outside = _only_outside(conn)
    if not outside:
        return None
    there = subnets.of_network(conn, outside[0].id)
    versions = {subnet.version for subnet in there}
    with_room = {
        subnet.version for subnet in there if subnet.used_address_count < count_of(subnet.ranges)
    }
    return GatewayDraft(outside[0].id) if versions and versions == with_room else None


def _only_outside(conn: Connection) -> list[Network]:
    """Return the only external network there is; none when there are several."""
    outside = networks.list_page(conn, after=None, limit=2, external=True)
    return outside if len(outside) == 1 else []


def _free_name(name: str, find: Callable[[str], object]) -> str:
    """Return a name that is not taken: this one, or with a number."""
    if find(name) is None:
        return name
    return next(numbered for number in count(2) if find(numbered := f"{name}-{number}") is None)

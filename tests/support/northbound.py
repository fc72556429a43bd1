"""A small cloud with everything in it, as northbound rows are derived from it, and rows as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.support.networks import (
    a_floating_ip,
    a_group,
    a_load_balancer,
    a_network,
    a_port,
    a_router,
    a_rule,
    a_subnet,
)
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
    Member,
)
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import AddressPair, FixedAddress, Port, PortOwner, Qos
from unkai_scheduler.domain.routers import FloatingIp, Gateway, Route, RouterInterface
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule, SecurityGroup
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Place, Row, Unit, Value
from unkai_wire import ids

_DIGITS = {
    "network": 0x1E,
    "subnet": 0x5B,
    "port": 0xB0,
    "router": 0xAA,
    "floating_ip": 0xF1,
    "security_group": 0x5E,
    "security_group_rule": 0x5A,
    "load_balancer": 0x1B,
    "instance": 0x15,
    "host": 0x05,
}


def plain_id(kind: str, number: int) -> str:
    """Return an id that can be told by its look: the first digits of its UUID are its kind's."""
    value = _DIGITS[kind] << 120 | 0x7 << 76 | 0b10 << 62 | number
    return ids.encode(ids.PREFIXES[kind], UUID(int=value))


HOSTS = tuple(plain_id("host", number) for number in range(1, 8))
BLUE, GREEN, OUTSIDE = (plain_id("network", number) for number in (1, 2, 3))
BLUE4, BLUE6, GREEN4, GREEN6, OUTSIDE4 = (plain_id("subnet", number) for number in range(1, 6))
WEB, DB, OPEN, ON_BLUE, ON_GREEN, WAY_OUT, BALANCED, HELD, HELD_TOO = (
    plain_id("port", number) for number in range(1, 10)
)
ROUTER = plain_id("router", 1)
TO_WEB, TO_BALANCER = (plain_id("floating_ip", number) for number in (1, 2))
DEFAULT, SITE = (plain_id("security_group", number) for number in (1, 2))
BALANCER = plain_id("load_balancer", 1)
WEB_INSTANCE, DB_INSTANCE = (plain_id("instance", number) for number in (1, 2))


def a_world() -> View:
    """Return two networks with a router and a way out, two instances, and all else."""
    return View.of(
        networks=_networks(),
        subnets=_subnets(),
        ports=_ports(),
        routers=[
            a_router(
                id=ROUTER,
                gateway=Gateway(OUTSIDE, WAY_OUT, ("203.0.113.10",)),
                interfaces=(
                    RouterInterface(BLUE4, ON_BLUE, "10.0.0.1"),
                    RouterInterface(BLUE6, ON_BLUE, "fd00:1::1"),
                    RouterInterface(GREEN4, ON_GREEN, "10.1.0.1"),
                    RouterInterface(GREEN6, ON_GREEN, "fd00:2::1"),
                ),
                routes=(Route("192.168.0.0/16", "10.1.0.9"),),
            )
        ],
        floating_ips=_floating_ips(),
        security_groups=_groups(),
        load_balancers=[_balancer()],
        claims={WEB_INSTANCE: HOSTS[0], DB_INSTANCE: HOSTS[1]},
        gateway_hosts={"public": frozenset(HOSTS[1:])},
        probe_sources={BLUE4: "10.0.0.3", GREEN4: "10.1.0.3"},
        dns_servers=("9.9.9.9", "2620:fe::fe"),
    )


def _networks() -> list[Network]:
    return [
        a_network(id=BLUE),
        a_network(id=GREEN, mtu=1400, dns_domain="green.example"),
        a_network(
            id=OUTSIDE,
            type=NetworkType.VLAN,
            physical_network="public",
            vlan_id=42,
            mtu=1500,
            external=True,
        ),
    ]


def _subnets() -> list[Subnet]:
    blue, green, outside = _networks()
    return [
        a_subnet(
            blue,
            id=BLUE4,
            dns_servers=("10.0.0.2", "fd00::2"),
            host_routes=(HostRoute("172.16.0.0/12", "10.0.0.9"),),
        ),
        a_subnet(blue, "fd00:1::/64", id=BLUE6, ipv6_mode=Ipv6Mode.SLAAC),
        a_subnet(green, "10.1.0.0/24", id=GREEN4, gateway_address=""),
        a_subnet(green, "fd00:2::/64", id=GREEN6, ipv6_mode=Ipv6Mode.DHCPV6_STATEFUL),
        a_subnet(outside, "203.0.113.0/24", id=OUTSIDE4, dhcp=False),
    ]


def port_of(ident: str, network_id: str, *at: tuple[str, str], **changes: Any) -> Port:
    """Make a port with a MAC that tells its id's last digits; `at`: subnets and addresses."""
    last = ids.uuid_of(ident).int & 0xFF
    changes = {"mac_address": f"02:00:00:00:00:{last:02x}", **changes}
    fixed = tuple(FixedAddress(*some) for some in at)
    return a_port(a_network(id=network_id), id=ident, addresses=fixed, **changes)


def _ports() -> list[Port]:
    return [
        port_of(
            WEB,
            BLUE,
            (BLUE6, "fd00:1::ff:fe00:1"),
            (BLUE4, "10.0.0.20"),
            (BLUE4, "10.0.0.5"),
            owner=PortOwner.INSTANCE,
            owner_id=WEB_INSTANCE,
            security_group_ids=(DEFAULT, SITE),
            qos=Qos(egress_bits_per_s=100_000_000, ingress_bits_per_s=1_500, ingress_burst_bits=9),
        ),
        port_of(
            DB,
            GREEN,
            (GREEN4, "10.1.0.20"),
            (GREEN6, "fd00:2::20"),
            owner=PortOwner.INSTANCE,
            owner_id=DB_INSTANCE,
            pairs=(
                AddressPair("10.1.0.99/32"),
                AddressPair("10.8.0.0/16", "02:00:00:00:01:01"),
            ),
        ),
        port_of(OPEN, GREEN, (GREEN4, "10.1.0.30"), anti_spoofing=False),
        port_of(ON_BLUE, BLUE, (BLUE4, "10.0.0.1"), (BLUE6, "fd00:1::1"), owner=PortOwner.ROUTER),
        port_of(
            ON_GREEN, GREEN, (GREEN4, "10.1.0.1"), (GREEN6, "fd00:2::1"), owner=PortOwner.ROUTER
        ),
        port_of(WAY_OUT, OUTSIDE, (OUTSIDE4, "203.0.113.10"), owner=PortOwner.GATEWAY),
        port_of(BALANCED, BLUE, (BLUE4, "10.0.0.100"), owner=PortOwner.LOAD_BALANCER),
        port_of(HELD, OUTSIDE, (OUTSIDE4, "203.0.113.20"), owner=PortOwner.FLOATING_IP),
        port_of(HELD_TOO, OUTSIDE, (OUTSIDE4, "203.0.113.21"), owner=PortOwner.FLOATING_IP),
    ]


def _floating_ips() -> list[FloatingIp]:
    ports = {port.id: port for port in _ports()}
    return [
        a_floating_ip(
            ports[HELD], id=TO_WEB, port_id=WEB, fixed_address="10.0.0.5", router_id=ROUTER
        ),
        a_floating_ip(ports[HELD_TOO], id=TO_BALANCER, port_id=BALANCED, router_id=ROUTER),
    ]


def _groups() -> list[SecurityGroup]:
    def rule(number: int, **changes: Any) -> Rule:
        return a_rule(id=plain_id("security_group_rule", number), **changes)

    out = Direction.EGRESS
    return [
        a_group(id=DEFAULT, rules=(rule(1, remote_group_id=DEFAULT), rule(2, direction=out))),
        a_group(
            id=SITE,
            rules=(
                rule(3, protocol=Protocol.TCP, port_first=443),
                rule(
                    4,
                    protocol=Protocol.UDP,
                    port_first=5000,
                    port_last=5010,
                    remote_cidr="192.0.2.0/24",
                ),
                rule(5, ip_version=6, protocol=Protocol.ICMP, icmp_type=128, icmp_code=0),
                rule(6, ip_version=4, protocol=Protocol.SCTP, remote_cidr="0.0.0.0/0"),
                rule(7, direction=out, protocol=Protocol.ICMP, remote_cidr="2001:db8::/32"),
            ),
        ),
    ]


def _balancer() -> LoadBalancer:
    port = next(port for port in _ports() if port.id == BALANCED)
    members = (Member(WEB, 8080), Member(DB, 0))
    return a_load_balancer(
        port,
        id=BALANCER,
        listeners=(
            Listener(BalancedProtocol.TCP, 80, members, HealthCheck()),
            Listener(BalancedProtocol.TCP, 22),
            Listener(BalancedProtocol.UDP, 53, members[:1]),
        ),
    )


def changed(view: View, kind: str, ident: str, **changes: Any) -> View:
    """Return a view in which one resource is otherwise; `kind`: the view's field."""
    resources = getattr(view, kind)
    field: dict[str, Any] = {kind: {**resources, ident: replace(resources[ident], **changes)}}
    return replace(view, **field)


def text_of(units: Iterable[Unit], labels: Mapping[UUID, str]) -> str:
    """Return units as text for people: rows by their labels."""
    return "\n".join(line for unit in units for line in _unit_lines(unit, labels))


def labels_of(units: Iterable[Unit]) -> dict[UUID, str]:
    """Return a label of each row: its name, or its unit and its place there."""
    return {
        row.uuid: str(row.columns.get("name", f"{unit.key} #{place}"))
        for unit in units
        for place, row in enumerate(unit.rows)
    }


def _unit_lines(unit: Unit, labels: Mapping[UUID, str]) -> list[str]:
    lines = [f"== {unit.key}"] + ([] if unit.rows else ["(no rows)"])
    return lines + [line for row in unit.rows for line in _row_lines(row, labels)] + [""]


def _row_lines(row: Row, labels: Mapping[UUID, str]) -> list[str]:
    def at(place: Place) -> str:
        return f"{place.table}.{place.column} of {labels[place.uuid]}"

    lines = [f"{row.table} {row.uuid}"]
    lines += [f"  in {at(row.parent)}"] if row.parent else []
    lines += [f"  member of {text}" for text in sorted(at(place) for place in row.member_of)]
    return lines + [f"  {name}: {_value(value, labels)}" for name, value in row.columns.items()]


def _value(value: Value, labels: Mapping[UUID, str]) -> str:
    if isinstance(value, UUID):
        return f"-> {labels[value]}"
    if isinstance(value, Mapping):
        parts = [f"\n    {key} = {item}" for key, item in sorted(value.items())]
        return "".join(parts) or "{}"
    if isinstance(value, frozenset | tuple):
        return "".join(f"\n    {item}" for item in sorted(map(str, value))) or "(none)"
    return str(value)

"""Routers: their ways out, what is advertised, what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.northbound import (
    BLUE,
    BLUE6,
    GREEN,
    GREEN4,
    HOSTS,
    ON_BLUE,
    OUTSIDE,
    ROUTER,
    WAY_OUT,
    a_world,
    changed,
    plain_id,
)
from unkai_scheduler.domain.networks import NetworkType
from unkai_scheduler.domain.routers import Route
from unkai_scheduler.ovn.northbound.names import name_of
from unkai_scheduler.ovn.northbound.units import unit_of
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row, Value


def _rows(view: View, table: str, ident: str = ROUTER) -> list[Row]:
    return [row for row in unit_of(view, "router", ident).rows if row.table == table]


def _port(view: View, ident: str) -> dict[str, Value]:
    name = f"lrp-{name_of(ident)}"
    (row,) = [row for row in _rows(view, "Logical_Router_Port") if row.columns["name"] == name]
    return dict(row.columns)


def _hosts(view: View, ident: str = ROUTER) -> list[str]:
    rows = _rows(view, "HA_Chassis", ident)
    ranked = sorted(rows, key=lambda row: -int(str(row.columns["priority"])))
    return [str(row.columns["chassis_name"]) for row in ranked]


def _routes(view: View) -> set[tuple[Value, Value]]:
    rows = _rows(view, "Logical_Router_Static_Route")
    return {(row.columns["ip_prefix"], row.columns["nexthop"]) for row in rows}


def test_while_no_host_may_have_it_there_is_no_way_out() -> None:
    view = replace(a_world(), gateway_hosts={})
    assert not _rows(view, "HA_Chassis_Group")
    assert not _rows(view, "NAT")
    assert len(_rows(view, "Logical_Router_Port")) == 2
    assert _routes(view) == {("192.168.0.0/16", "10.1.0.9")}


def test_at_most_five_hosts_have_a_gateway_each_with_a_priority_of_its_own() -> None:
    rows = _rows(a_world(), "HA_Chassis")
    assert len(rows) == 5
    assert len({row.columns["priority"] for row in rows}) == 5


def test_a_host_that_goes_moves_no_gateway_but_its_own() -> None:
    view = a_world()
    before = _hosts(view)
    gone = before[2]
    left = frozenset(view.gateway_hosts["public"] - {gone})
    after = _hosts(replace(view, gateway_hosts={"public": left}))
    assert after[:4] == [host for host in before if host != gone]


def test_routers_spread_over_hosts() -> None:
    view = a_world()
    router = view.routers[ROUTER]
    routers = {
        ident: replace(router, id=ident)
        for ident in (plain_id("router", number) for number in range(2, 102))
    }
    view = replace(view, routers=routers, gateway_hosts={"public": frozenset(HOSTS[:4])})
    first = [_hosts(view, ident)[0] for ident in routers]
    assert min(first.count(host) for host in HOSTS[:4]) > 10


def test_a_users_default_route_replaces_the_gateways() -> None:
    view = changed(a_world(), "routers", ROUTER, routes=(Route("0.0.0.0/0", "10.0.0.9"),))
    assert _routes(view) == {("0.0.0.0/0", "10.0.0.9")}


def test_the_smallest_mtu_is_told_at_the_gateway_where_networks_differ() -> None:
    view = a_world()
    assert _port(view, WAY_OUT)["options"] == {"gateway_mtu": "1400"}
    for ident in (BLUE, GREEN):
        view = changed(view, "networks", ident, mtu=1500)
    assert _port(view, WAY_OUT)["options"] == {}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(NetworkType.OVERLAY, {}), (NetworkType.VLAN, {"reside-on-redirect-chassis": "true"})],
)
def test_traffic_of_an_operators_network_passes_the_gateways_host(
    kind: NetworkType, options: dict[str, str]
) -> None:
    view = changed(a_world(), "networks", BLUE, type=kind)
    assert _port(view, ON_BLUE)["options"] == options


def test_nothing_is_advertised_outside_nor_where_guests_are_told_nothing() -> None:
    assert _port(a_world(), WAY_OUT)["ipv6_ra_configs"] == {}
    quiet = changed(a_world(), "subnets", BLUE6, dhcp=False)
    assert _port(quiet, ON_BLUE)["ipv6_ra_configs"] == {}


def test_an_mtu_that_ipv6_does_not_allow_is_not_advertised() -> None:
    view = changed(a_world(), "networks", BLUE, mtu=1000)
    assert "mtu" not in _port(view, ON_BLUE)["ipv6_ra_configs"]  # type: ignore[operator]


def test_without_snat_or_for_ipv6_nothing_is_hidden() -> None:
    view = a_world()
    assert {row.columns["logical_ip"] for row in _rows(view, "NAT")} == {
        "10.0.0.0/24",
        view.subnets[GREEN4].cidr,
    }
    gateway = view.routers[ROUTER].gateway
    assert gateway
    view = changed(view, "routers", ROUTER, gateway=replace(gateway, snat=False))
    assert not _rows(view, "NAT")


def test_hosts_of_another_physical_network_are_no_candidates() -> None:
    view = changed(a_world(), "networks", OUTSIDE, physical_network="campus")
    assert not _rows(view, "HA_Chassis")

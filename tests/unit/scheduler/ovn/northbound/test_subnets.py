"""Subnets: what guests are told by DHCP."""

from __future__ import annotations

from typing import Any

from tests.support.northbound import BLUE, BLUE4, BLUE6, GREEN6, a_world, changed
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode
from unkai_scheduler.ovn.northbound.units import unit_of
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Value


def _options(view: View, ident: str) -> Any:
    (row,) = unit_of(view, "subnet", ident).rows
    options: Value = row.columns["options"]
    return options


def _routes(*routes: tuple[str, str], **changes: object) -> str:
    told = tuple(HostRoute(*route) for route in routes)
    view = changed(a_world(), "subnets", BLUE4, host_routes=told, **changes)
    text: str = _options(view, BLUE4)["classless_static_route"]
    return text


def test_a_guest_is_told_the_default_route_again_for_the_other_option_is_ignored() -> None:
    assert _routes() == "{169.254.169.254/32, 0.0.0.0, 0.0.0.0/0, 10.0.0.1}"


def test_a_users_default_route_is_told_instead_of_the_gateways() -> None:
    assert _routes(("0.0.0.0/0", "10.0.0.9")) == (
        "{169.254.169.254/32, 0.0.0.0, 0.0.0.0/0, 10.0.0.9}"
    )


def test_host_routes_never_make_an_option_longer_than_one_can_be() -> None:
    many = [(f"10.{number}.1.2/32", "10.0.0.9") for number in range(32)]
    # 255 bytes: 9 for the metadata, 5 for the default route, 26 times 9.
    assert _routes(*many).count("10.0.0.9") == 26
    assert _routes(*many).endswith("0.0.0.0/0, 10.0.0.1}")


def test_without_a_gateway_no_router_is_told() -> None:
    view = changed(a_world(), "subnets", BLUE4, gateway_address="", host_routes=())
    assert "router" not in _options(view, BLUE4)
    assert _options(view, BLUE4)["classless_static_route"] == "{169.254.169.254/32, 0.0.0.0}"


def test_a_domain_is_quoted_and_an_empty_one_not_told() -> None:
    assert _options(a_world(), BLUE4)["domain_name"] == '"internal"'
    view = changed(a_world(), "networks", BLUE, dns_domain="")
    assert "domain_name" not in _options(view, BLUE4)


def test_guests_ask_their_own_network_for_names_first() -> None:
    assert _options(a_world(), BLUE4)["dns_server"] == "{169.254.169.254, 10.0.0.2}"
    assert _options(a_world(), GREEN6)["dns_server"] == "{fe80::a9fe:a9fe, 2620:fe::fe}"


def test_a_subnet_without_dhcp_or_with_slaac_has_no_row() -> None:
    assert unit_of(changed(a_world(), "subnets", BLUE4, dhcp=False), "subnet", BLUE4).rows == ()
    assert unit_of(a_world(), "subnet", BLUE6).rows == ()


def test_stateless_dhcp_says_so() -> None:
    view = changed(a_world(), "subnets", BLUE6, ipv6_mode=Ipv6Mode.DHCPV6_STATELESS)
    assert _options(view, BLUE6)["dhcpv6_stateless"] == "true"
    assert "dhcpv6_stateless" not in _options(a_world(), GREEN6)

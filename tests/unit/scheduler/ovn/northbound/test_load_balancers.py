"""Load balancers and floating addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.networks import a_load_balancer
from tests.support.northbound import (
    BALANCED,
    BALANCER,
    BLUE,
    BLUE4,
    BLUE6,
    DB,
    ROUTER,
    TO_BALANCER,
    TO_WEB,
    WEB,
    a_world,
    changed,
    plain_id,
    port_of,
)
from unkai_scheduler.domain.load_balancers import BalancedProtocol, HealthCheck, Listener, Member
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.ovn.northbound.names import in_router, in_switch
from unkai_scheduler.ovn.northbound.units import KINDS, unit_of
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row


def _rows(view: View, table: str = "Load_Balancer") -> list[Row]:
    return [row for row in unit_of(view, "load_balancer", BALANCER).rows if row.table == table]


def _vips(view: View) -> Any:
    return _rows(view)[0].columns["vips"]


def test_a_balancer_is_on_its_router_and_all_switches_of_that() -> None:
    tables = {place.table for row in _rows(a_world()) for place in row.member_of}
    assert tables == {"Logical_Router", "Logical_Switch"}
    alone = replace(a_world(), routers={})
    assert _rows(alone)[0].member_of == {in_switch(BLUE, "load_balancer")}


def test_nothing_is_checked_while_one_member_could_not_be() -> None:
    assert len(_rows(a_world(), "Load_Balancer_Health_Check")) == 2
    view = replace(a_world(), probe_sources={BLUE4: "10.0.0.3"})
    assert not _rows(view, "Load_Balancer_Health_Check")
    assert _rows(view)[0].columns["ip_port_mappings"] == {}


def test_a_floating_address_is_checked_as_the_balancers_own_is() -> None:
    checked = {row.columns["vip"] for row in _rows(a_world(), "Load_Balancer_Health_Check")}
    assert checked == {"10.0.0.100:80", "203.0.113.21:80"}


def test_a_floating_address_of_a_balancer_has_no_row_of_its_own() -> None:
    view = a_world()
    assert unit_of(view, "floating_ip", TO_BALANCER).rows == ()
    assert unit_of(view, "floating_ip", TO_WEB).rows[0].parent == in_router(ROUTER, "nat")
    view = changed(view, "floating_ips", TO_BALANCER, port_id="", router_id="")
    assert set(_vips(view)) == {"10.0.0.100:22", "10.0.0.100:80"}


def test_a_floating_address_leads_to_the_first_ipv4_address_unless_one_is_named() -> None:
    view = changed(a_world(), "floating_ips", TO_WEB, fixed_address="")
    assert unit_of(view, "floating_ip", TO_WEB).rows[0].columns["logical_ip"] == "10.0.0.20"


def test_a_floating_address_that_leads_nowhere_has_no_row() -> None:
    view = changed(a_world(), "floating_ips", TO_WEB, port_id="", fixed_address="", router_id="")
    assert unit_of(view, "floating_ip", TO_WEB).rows == ()


def test_a_member_without_an_address_of_the_balancers_version_gets_nothing() -> None:
    view = changed(a_world(), "ports", DB, addresses=())
    assert _vips(view)["10.0.0.100:80"] == "10.0.0.20:8080"


def test_a_listener_without_members_refuses_at_once() -> None:
    (row, _) = _rows(a_world())
    assert _vips(a_world())["10.0.0.100:22"] == ""
    assert row.columns["options"]["reject"] == "true"  # type: ignore[index,call-overload]


def test_addresses_of_ipv6_are_in_brackets() -> None:
    port = port_of(BALANCED, BLUE, (BLUE6, "fd00:1::64"), owner=PortOwner.LOAD_BALANCER)
    listener = Listener(BalancedProtocol.TCP, 80, (Member(WEB, 8080),), HealthCheck())
    view = a_world()
    view = replace(
        view,
        ports={**view.ports, BALANCED: port},
        load_balancers={BALANCER: a_load_balancer(port, id=BALANCER, listeners=(listener,))},
        probe_sources={BLUE6: "fd00:1::3"},
    )
    assert _vips(view) == {"[fd00:1::64]:80": "[fd00:1::ff:fe00:1]:8080"}
    mappings: Any = _rows(view)[0].columns["ip_port_mappings"]
    assert mappings == {"[fd00:1::ff:fe00:1]": "b0000000-0000-7000-8000-000000000001:[fd00:1::3]"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cloud"])
def test_what_is_not_there_has_no_rows(kind: str) -> None:
    assert unit_of(a_world(), kind, plain_id(kind, 99)).rows == ()

"""What a lab's spec refuses, and the names and addresses that follow from it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from unkai_lab.spec import CONTROL, EXTERNAL, FLEET, LabPaths, LabSpec
from unkai_wire.errors import InvalidArgument


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "1a", "a" * 17, "a/b", "..", "a b", "a\n", "ä"]
)
def test_a_name_that_is_no_safe_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        LabSpec(name=name)


@pytest.mark.parametrize(
    "values",
    [
        {"hosts": -1},
        {"hosts": 33},
        {"simulated": -1},
        {"simulated": 10_001},
        {"hosts": 0, "simulated": 0},
        {"etcd_members": 2},
        {"schedulers": 0},
        {"schedulers": 6, "database": "postgresql"},
        {"database": "oracle"},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        LabSpec(**values)


def test_cells_are_control_hosts_and_a_fleet_where_asked_for() -> None:
    assert LabSpec(hosts=2).cells == (CONTROL, "h1", "h2")
    assert LabSpec(hosts=1, simulated=5).cells == (CONTROL, "h1", FLEET)


def test_a_lab_with_networks_has_an_internet_and_tunnels_on_a_range_of_their_own() -> None:
    spec = LabSpec(hosts=3, networks=True)
    assert spec.cells == (CONTROL, EXTERNAL, "h1", "h2", "h3")
    assert spec.gateway_hosts == ("h1", "h2")
    tunnels = {spec.tunnel_address(host) for host in spec.host_names}
    assert len(tunnels) == 3
    assert not any(ip_address(each) in spec.network for each in tunnels)
    assert ip_address(spec.address(EXTERNAL)) not in spec.network
    assert LabSpec(hosts=3).gateway_hosts == ()


def test_several_schedulers_have_a_cell_each_and_one_alone_is_in_control() -> None:
    spec = LabSpec(hosts=1, schedulers=2, database="postgresql")
    assert spec.cells == (CONTROL, "s1", "s2", "h1")
    assert [spec.scheduler_cell(name) for name in spec.scheduler_names] == ["s1", "s2"]
    assert LabSpec().scheduler_cell("scheduler") == CONTROL
    with pytest.raises(InvalidArgument, match="it has s1, s2"):
        spec.scheduler_cell("s3")


def test_several_schedulers_without_a_database_server_are_refused_with_the_fix() -> None:
    with pytest.raises(InvalidArgument, match="cannot share an SQLite file") as caught:
        LabSpec(schedulers=2)
    assert caught.value.reason == "DATABASE_NOT_SHARED"
    assert "--database postgresql" in caught.value.fix
    assert LabSpec(schedulers=2, shares_file=True).scheduler_names == ("s1", "s2")


def test_every_cell_has_an_address_of_its_own_in_the_labs_network() -> None:
    spec = LabSpec(hosts=32, simulated=1, schedulers=5, database="mariadb")
    addresses = [spec.address(cell) for cell in spec.cells]
    assert len(set(addresses)) == len(spec.cells)
    assert all(address.startswith(str(spec.network[0])[:-1]) for address in addresses)


@pytest.mark.parametrize("cell", ["h0", "h3", "fleet", "", "../x"])
def test_a_cell_that_is_not_in_the_lab_is_named_in_the_error(cell: str) -> None:
    with pytest.raises(InvalidArgument, match="it has control, h1, h2") as caught:
        LabSpec(hosts=2).address(cell)
    assert caught.value.reason == "NO_SUCH_CELL"


def test_a_spec_survives_its_file() -> None:
    spec = LabSpec(
        name="x",
        hosts=2,
        simulated=7,
        cpu_quota_cores=0.5,
        memory_limit_bytes=1 << 30,
        etcd_members=3,
        schedulers=2,
        database="postgresql",
        networks=True,
    )
    assert LabSpec.from_json(spec.to_json()) == spec


def test_labs_of_one_name_under_two_roots_have_different_cgroups() -> None:
    one, two = LabPaths.of("demo", Path("/a")), LabPaths.of("demo", Path("/b"))
    assert one.group != two.group
    assert one.group.startswith("demo.")


def test_a_root_too_deep_for_a_unix_socket_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        LabPaths.of("demo", Path("/" + "x" * 100))

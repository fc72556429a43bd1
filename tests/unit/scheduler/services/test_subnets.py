"""Subnets: what their addresses are by default, what beside each other they may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.network_calls import (
    a_network,
    a_port,
    a_subnet,
    addresses_of,
    change_subnet,
    subnets_pb,
    take_work,
    tombstones,
)
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import subnet_pb2
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

Subnet = subnet_pb2.Subnet


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


async def get(api: Api, subnet: subnet_pb2.Subnet) -> subnet_pb2.Subnet:
    return (await api.subnets.GetSubnet(subnets_pb.GetSubnetRequest(subnet_id=subnet.id))).subnet


async def test_a_subnet_has_its_first_address_as_gateway_and_gives_out_the_others(
    api: Api,
) -> None:
    network = await a_network(api)
    subnet = await a_subnet(api, network.id, "10.0.0.0/24")
    assert (subnet.gateway_address, subnet.no_gateway) == ("10.0.0.1", False)
    (run,) = subnet.allocation_ranges
    assert (run.first, run.last, subnet.address_count) == ("10.0.0.2", "10.0.0.254", 253)
    assert (subnet.ipv6_mode, subnet.project_id) == (0, network.project_id)
    assert await get(api, subnet) == subnet
    assert f"subnet:{subnet.id}" in await take_work(api)


@pytest.mark.parametrize(
    ("cidr", "mode"),
    [("fd00::/64", Subnet.IPV6_MODE_SLAAC), ("fd00::/80", Subnet.IPV6_MODE_DHCPV6_STATEFUL)],
)
async def test_guests_make_their_own_ipv6_address_where_the_prefix_lets_them(
    api: Api, cidr: str, mode: int
) -> None:
    network = await a_network(api)
    assert (await a_subnet(api, network.id, cidr)).ipv6_mode == mode


async def test_addresses_past_counting_are_told_as_none(api: Api) -> None:
    network = await a_network(api)
    assert (await a_subnet(api, network.id, "fd00::/64")).address_count == 0


async def test_what_is_said_of_a_subnet_is_kept_in_canonical_form(api: Api) -> None:
    network = await a_network(api)
    subnet = await a_subnet(
        api,
        network.id,
        "FD00:0::/80",
        gateway_address="fd00::00FE",
        allocation_ranges=[Subnet.Range(first="fd00::0100", last="fd00::1FF")],
        dns_servers=["2001:DB8::53"],
        name="six",
    )
    (run,) = subnet.allocation_ranges
    assert (subnet.cidr, subnet.gateway_address) == ("fd00::/80", "fd00::fe")
    assert (run.first, run.last, subnet.address_count) == ("fd00::100", "fd00::1ff", 256)
    assert list(subnet.dns_servers) == ["2001:db8::53"]


async def test_subnets_of_a_network_share_no_address_and_those_of_two_may(api: Api) -> None:
    network, other = await a_network(api), await a_network(api, "other")
    await a_subnet(api, network.id, "10.0.0.0/24")
    caught = await refused(a_subnet(api, network.id, "10.0.0.128/25"))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SUBNET_OVERLAPS")
    await a_subnet(api, other.id, "10.0.0.0/24", name="same")
    caught = await refused(a_subnet(api, other.id, "10.1.0.0/24", name="same"))
    assert (type(caught), caught.reason) == (AlreadyExists, "SUBNET_EXISTS")


async def test_all_of_a_network_give_ipv6_addresses_in_one_way(api: Api) -> None:
    network = await a_network(api)
    await a_subnet(api, network.id, "10.0.0.0/24")
    await a_subnet(api, network.id, "fd00:1::/64")
    caught = await refused(a_subnet(api, network.id, "fd00:2::/80"))
    assert (type(caught), caught.reason) == (FailedPrecondition, "IPV6_MODE_DIFFERS")
    await a_subnet(api, network.id, "fd00:2::/64")
    await a_subnet(api, network.id, "10.2.0.0/24")


async def test_a_subnet_is_of_its_network_s_project(api: Api) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    network = await a_network(api)
    theirs = await a_network(api, project_id=shop.id)
    assert (await a_subnet(api, theirs.id)).project_id == shop.id
    caught = await refused(a_subnet(api, network.id, project_id=shop.id))
    assert (type(caught), caught.reason) == (NotFound, "NETWORK_NOT_FOUND")


async def test_ports_follow_when_dhcp_comes_or_goes_and_ranges_are_our_own_affair(
    api: Api,
) -> None:
    network = await a_network(api)
    subnet = await a_subnet(api, network.id)
    port = await a_port(api, network.id)
    await take_work(api)
    narrow = [Subnet.Range(first="10.0.0.100", last="10.0.0.101")]
    changed = await change_subnet(api, subnet, allocation_ranges=narrow)
    assert (changed.address_count, changed.used_address_count) == (2, 1)
    assert await take_work(api) == set()
    changed = await change_subnet(api, subnet, no_dhcp=True)
    assert (changed.no_dhcp, changed.reconciling) == (True, True)
    assert await take_work(api) == {f"subnet:{subnet.id}", f"port:{port.id}"}
    assert addresses_of(port) == ["10.0.0.2"]
    assert addresses_of(await a_port(api, network.id)) == ["10.0.0.100"]
    whole = await change_subnet(api, subnet, "allocation_ranges")
    assert whole.address_count == 253


async def test_routes_and_name_servers_are_told_until_they_are_taken_back(api: Api) -> None:
    network = await a_network(api)
    route = Subnet.HostRoute(destination="192.0.2.0/24", next_hop="10.0.0.9")
    subnet = await a_subnet(api, network.id, host_routes=[route], dns_servers=["192.0.2.53"])
    assert (list(subnet.host_routes), list(subnet.dns_servers)) == ([route], ["192.0.2.53"])
    bare = await change_subnet(api, subnet, "host_routes", "dns_servers")
    assert (list(bare.host_routes), list(bare.dns_servers)) == ([], [])
    wrong = [Subnet.HostRoute(destination="192.0.2.0/24", next_hop="10.0.1.9")]
    caught = await refused(change_subnet(api, subnet, host_routes=wrong))
    assert (type(caught), caught.reason) == (InvalidArgument, "ADDRESS_NOT_IN_SUBNET")


async def test_a_subnet_with_addresses_in_use_stays(api: Api) -> None:
    network = await a_network(api)
    subnet = await a_subnet(api, network.id)
    other = await a_subnet(api, network.id, "10.1.0.0/24")
    await a_port(api, network.id)
    request = subnets_pb.DeleteSubnetRequest(subnet_id=subnet.id)
    caught = await refused(api.subnets.DeleteSubnet(request))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SUBNET_IN_USE")
    assert caught.metadata["addresses"] == "1"
    await api.subnets.DeleteSubnet(subnets_pb.DeleteSubnetRequest(subnet_id=other.id))
    assert await tombstones(api) == {f"subnet:{other.id}"}
    listed = await api.subnets.ListSubnets(subnets_pb.ListSubnetsRequest(network_id=network.id))
    assert [some.id for some in listed.subnets] == [subnet.id]

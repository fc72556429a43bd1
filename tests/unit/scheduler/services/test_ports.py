"""Ports: which addresses they get and keep, which groups they are in, who may change them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.network_calls import (
    a_group,
    a_network,
    a_port,
    a_subnet,
    addresses_of,
    change_port,
    ports_pb,
    take_work,
    tombstones,
)
from tests.support.networks import a_floating_ip, a_load_balancer, add_network, add_port
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import network_pb2, port_pb2, subnet_pb2
from unkai_scheduler.domain.load_balancers import BalancedProtocol, Listener, Member
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.store import floating_ips, load_balancers, ports
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

Port = port_pb2.Port


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


@pytest.fixture
async def network(api: Api) -> network_pb2.Network:
    """A network with addresses of both versions."""
    made = await a_network(api)
    await a_subnet(api, made.id, "10.0.0.0/24")
    await a_subnet(api, made.id, "fd00::/64")
    return made


async def get(api: Api, port: port_pb2.Port) -> port_pb2.Port:
    return (await api.ports.GetPort(ports_pb.GetPortRequest(port_id=port.id))).port


async def delete(api: Api, port: port_pb2.Port) -> None:
    await api.ports.DeletePort(ports_pb.DeletePortRequest(port_id=port.id))


async def own(api: Api, port: port_pb2.Port, owner: PortOwner, owner_id: str) -> None:
    """Let something have a port."""

    def work(conn: Any) -> None:
        row = ports.get(conn, port.id)
        assert row is not None
        ports.replace(conn, replace(row, owner=owner, owner_id=owner_id), etag=None)

    await api.uow.write(work)


async def test_a_port_gets_an_address_of_each_version_and_one_of_its_mac_by_slaac(
    api: Api, network: network_pb2.Network
) -> None:
    port = await a_port(api, network.id, mac_address="02-00-00-AA-BB-CC")
    assert port.mac_address == "02:00:00:aa:bb:cc"
    assert addresses_of(port) == ["10.0.0.2", "fd00::ff:feaa:bbcc"]
    assert port.name == f"port-{port.id.removeprefix('prt-')}"
    assert (port.state, port.owner, port.owner_id) == (Port.STATE_DOWN, 0, "")
    assert (port.no_security_groups, port.no_anti_spoofing) == (False, False)
    assert await get(api, port) == port
    assert f"port:{port.id}" in await take_work(api)


async def test_each_port_has_a_mac_and_an_address_of_its_own(
    api: Api, network: network_pb2.Network
) -> None:
    made = [await a_port(api, network.id) for _ in range(5)]
    assert len({port.mac_address for port in made}) == 5
    assert len({address for port in made for address in addresses_of(port)}) == 10
    assert all(port.mac_address.startswith("02:") for port in made)


async def test_ports_made_at_once_share_one_default_group_and_no_address(
    api: Api, network: network_pb2.Network
) -> None:
    made = await asyncio.gather(*[a_port(api, network.id) for _ in range(20)])
    assert len({address for port in made for address in addresses_of(port)}) == 40
    assert len({port.security_group_ids[0] for port in made}) == 1


async def test_a_network_without_addresses_has_ports_without(api: Api) -> None:
    bare = await a_network(api, "bare")
    assert addresses_of(await a_port(api, bare.id)) == []
    caught = await refused(a_port(api, bare.id, addresses=[("", "")]))
    assert (type(caught), caught.reason) == (InvalidArgument, "SUBNET_NOT_ON_NETWORK")


async def test_an_address_that_is_named_is_taken_once(
    api: Api, network: network_pb2.Network
) -> None:
    port = await a_port(api, network.id, addresses=[("", "10.0.0.77")])
    assert addresses_of(port) == ["10.0.0.77"]
    caught = await refused(a_port(api, network.id, addresses=[("", "10.0.0.77")]))
    assert (type(caught), caught.reason) == (AlreadyExists, "ADDRESS_IN_USE")
    await delete(api, port)
    assert addresses_of(await a_port(api, network.id, addresses=[("", "10.0.0.77")]))


async def test_a_mac_address_is_taken_once_on_a_network(
    api: Api, network: network_pb2.Network
) -> None:
    await a_port(api, network.id, mac_address="02:00:00:00:00:01")
    caught = await refused(a_port(api, network.id, mac_address="02:00:00:00:00:01"))
    assert (type(caught), caught.reason) == (AlreadyExists, "MAC_ADDRESS_IN_USE")
    other = await a_network(api, "other")
    await a_port(api, other.id, mac_address="02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.1", "ADDRESS_IS_GATEWAY"),
        ("10.0.0.255", "ADDRESS_NOT_IN_SUBNET"),
        ("10.0.1.1", "ADDRESS_NOT_IN_SUBNET"),
        ("fd00::5", "ADDRESS_NOT_OF_MAC"),
        ("fd00:1::5", "ADDRESS_NOT_IN_SUBNET"),
        ("10.0.0", "INVALID_ADDRESS"),
    ],
)
async def test_an_address_that_no_guest_may_have_is_refused(
    api: Api, network: network_pb2.Network, address: str, reason: str
) -> None:
    caught = await refused(a_port(api, network.id, addresses=[("", address)]))
    assert (type(caught), caught.reason) == (InvalidArgument, reason)
    page = await api.ports.ListPorts(ports_pb.ListPortsRequest())
    assert not page.ports


async def test_the_next_subnet_is_tried_when_one_is_full_and_then_there_is_no_address(
    api: Api,
) -> None:
    network = await a_network(api)
    one = [subnet_pb2.Subnet.Range(first="10.0.0.9", last="10.0.0.9")]
    two = [subnet_pb2.Subnet.Range(first="10.1.0.9", last="10.1.0.9")]
    await a_subnet(api, network.id, "10.0.0.0/24", allocation_ranges=one)
    await a_subnet(api, network.id, "10.1.0.0/24", allocation_ranges=two)
    assert addresses_of(await a_port(api, network.id)) == ["10.0.0.9"]
    assert addresses_of(await a_port(api, network.id)) == ["10.1.0.9"]
    caught = await refused(a_port(api, network.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NO_FREE_ADDRESS")
    page = await api.ports.ListPorts(ports_pb.ListPortsRequest(network_id=network.id))
    assert len(page.ports) == 2


async def test_a_port_keeps_the_addresses_that_are_still_asked_for(
    api: Api, network: network_pb2.Network
) -> None:
    port = await a_port(api, network.id)
    four, six = addresses_of(port)
    await take_work(api)
    more = [
        port_pb2.FixedAddress(address="10.0.0.50"),
        port_pb2.FixedAddress(address=six),
        port_pb2.FixedAddress(subnet_id=port.fixed_addresses[0].subnet_id),
    ]
    changed = await change_port(api, port, fixed_addresses=more)
    assert addresses_of(changed) == ["10.0.0.50", six, four]
    assert addresses_of(await get(api, port)) == ["10.0.0.50", six, four]
    assert await take_work(api) == {f"port:{port.id}"}
    back = await change_port(api, port, "fixed_addresses")
    assert addresses_of(back) == ["10.0.0.50", six]
    assert addresses_of(await a_port(api, network.id, addresses=[("", four)])) == [four]


async def test_a_port_is_in_the_groups_that_are_said(
    api: Api, network: network_pb2.Network
) -> None:
    web, ssh = await a_group(api, "web"), await a_group(api, "ssh")
    port = await a_port(api, network.id, security_group_ids=[web.id, ssh.id])
    assert list(port.security_group_ids) == [web.id, ssh.id]
    changed = await change_port(api, port, security_group_ids=[ssh.id])
    assert list(changed.security_group_ids) == [ssh.id]
    open_to_all = await change_port(api, port, no_security_groups=True)
    assert (list(open_to_all.security_group_ids), open_to_all.no_security_groups) == ([], True)
    still = await change_port(api, port, "security_group_ids")
    assert still.no_security_groups
    again = await change_port(api, port, "no_security_groups", "security_group_ids")
    listed = await api.ports.ListPorts(
        ports_pb.ListPortsRequest(security_group_id=again.security_group_ids[0])
    )
    assert [some.id for some in listed.ports] == [port.id]
    bare = await a_port(api, network.id, no_security_groups=True)
    assert bare.no_security_groups


async def test_a_group_of_another_project_is_none(api: Api, network: network_pb2.Network) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    theirs = await a_group(api, project_id=shop.id)
    caught = await refused(a_port(api, network.id, security_group_ids=[theirs.id]))
    assert (type(caught), caught.reason) == (NotFound, "SECURITY_GROUP_NOT_FOUND")


async def test_ports_are_on_a_project_s_own_and_on_shared_networks(api: Api) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    ours, shared = await a_network(api, "ours"), await a_network(api, "shared", shared=True)
    out = await a_network(
        api, "out", type=network_pb2.Network.TYPE_FLAT, physical_network="public", external=True
    )
    assert (await a_port(api, shared.id, project_id=shop.id)).project_id == shop.id
    caught = await refused(a_port(api, ours.id, project_id=shop.id))
    assert (type(caught), caught.reason) == (NotFound, "NETWORK_NOT_FOUND")
    caught = await refused(a_port(api, out.id, project_id=shop.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "NETWORK_NOT_SHARED")


async def test_limits_pairs_and_spoofing_are_said_and_taken_back(
    api: Api, network: network_pb2.Network
) -> None:
    pair = port_pb2.AddressPair(cidr="10.9.0.0/16", mac_address="02:00:00:00:00:09")
    qos = Port.Qos(egress_bits_per_s=10_000_000, egress_burst_bits=1_000_000)
    port = await a_port(
        api, network.id, allowed_address_pairs=[pair], qos=qos, no_anti_spoofing=True
    )
    assert (list(port.allowed_address_pairs), port.qos) == ([pair], qos)
    assert port.no_anti_spoofing
    await take_work(api)
    paths = ("allowed_address_pairs", "qos", "no_anti_spoofing")
    bare = await change_port(api, port, *paths)
    assert not bare.allowed_address_pairs
    assert not bare.HasField("qos")
    assert not bare.no_anti_spoofing
    assert await take_work(api) == {f"port:{port.id}"}
    named = await change_port(api, port, name="uplink", labels={"a": "b"})
    assert (named.name, named.reconciling, await take_work(api)) == ("uplink", False, set())


@pytest.mark.parametrize(
    "owner",
    [PortOwner.ROUTER, PortOwner.GATEWAY, PortOwner.LOAD_BALANCER, PortOwner.FLOATING_IP],
)
async def test_its_owner_alone_changes_a_port_but_for_its_name(
    api: Api, network: network_pb2.Network, owner: PortOwner
) -> None:
    port = await a_port(api, network.id)
    await own(api, port, owner, "x")
    assert (await change_port(api, port, name="mine")).name == "mine"
    for call in (change_port(api, port, no_security_groups=True), delete(api, port)):
        caught = await refused(call)
        assert (type(caught), caught.reason) == (FailedPrecondition, "PORT_HAS_OWNER")


async def test_a_port_gives_back_its_addresses_and_leaves_load_balancers(api: Api) -> None:
    def build(conn: Any) -> tuple[str, str]:
        network, subnet_id = add_network(conn)
        member = add_port(conn, network, subnet_id)
        front = add_port(conn, network, subnet_id, owner=PortOwner.LOAD_BALANCER, owner_id="x")
        listener = Listener(BalancedProtocol.TCP, 80, members=(Member(member.id, 80),))
        balancer = a_load_balancer(front, listeners=(listener,))
        load_balancers.insert(conn, balancer)
        return member.id, balancer.id

    port_id, balancer_id = await api.uow.write(build)
    await delete(api, port_pb2.Port(id=port_id))
    assert await take_work(api) == {f"port:{port_id}", f"load_balancer:{balancer_id}"}
    assert await tombstones(api) == {f"port:{port_id}"}
    balancer = await api.uow.read(lambda conn: load_balancers.get(conn, balancer_id))
    assert balancer is not None
    assert not balancer.listeners[0].members


async def test_a_port_that_a_floating_address_leads_to_keeps_that_address(api: Api) -> None:
    def build(conn: Any) -> tuple[str, str]:
        network, subnet_id = add_network(conn)
        port = add_port(conn, network, subnet_id)
        holder = add_port(conn, network, subnet_id, owner=PortOwner.FLOATING_IP, owner_id="x")
        fixed = port.addresses[0].address
        floating = a_floating_ip(holder, port_id=port.id, fixed_address=fixed)
        floating_ips.insert(conn, floating)
        return port.id, floating.id

    port_id, floating_id = await api.uow.write(build)
    port = await get(api, port_pb2.Port(id=port_id))
    elsewhere = [port_pb2.FixedAddress(address="10.0.0.99")]
    for call in (delete(api, port), change_port(api, port, fixed_addresses=elsewhere)):
        caught = await refused(call)
        assert (type(caught), caught.reason) == (FailedPrecondition, "PORT_HAS_FLOATING_IP")
        assert caught.metadata["floating_ip_id"] == floating_id
    both = [*elsewhere, *port.fixed_addresses]
    await change_port(api, port, fixed_addresses=both)
    assert f"floating_ip:{floating_id}" in await take_work(api)

"""What hosts are told of ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api
from tests.support.builders import an_id, an_image, an_instance
from tests.support.network_api import a_wired_network, another_subnet
from tests.support.networks import add_port
from unkai.agent.v1 import port_pb2
from unkai_agent.api.convert_ports import port_specs
from unkai_scheduler.agents import convert
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.instances import Seed
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode
from unkai_scheduler.domain.port_orders import PortOrder
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.ovn.northbound.names import metadata_mac, metadata_name
from unkai_scheduler.reconcile import port_orders

METADATA = "169.254.169.254"
INSTANCE = {"owner": PortOwner.INSTANCE}


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def read(api: Api, instance_id: str, *dns_servers: str) -> tuple[PortOrder, ...]:
    orders: tuple[PortOrder, ...] = await api.uow.read(
        lambda conn: port_orders.read(conn, instance_id, dns_servers)
    )
    return orders


async def test_a_host_is_told_all_that_its_guest_may_be_told(api: Api) -> None:
    wired = await a_wired_network(api, mtu=1400, dns_domain="shop.internal")
    routes = (HostRoute("10.7.0.0/16", "10.0.1.9"),)
    second = await another_subnet(
        api,
        wired.network,
        "10.0.1.0/24",
        host_routes=routes,
        dns_servers=("10.0.1.53",),
        dhcp=False,
    )
    sixth = await another_subnet(api, wired.network, "fd00::/64", ipv6_mode=Ipv6Mode.SLAAC)
    owned = {**INSTANCE, "owner_id": an_id("instance"), "position": 3}
    subnets = (wired.subnet.id, second.id, sixth.id)
    port = await api.uow.write(lambda conn: add_port(conn, wired.network, *subnets, **owned))

    (order,) = await read(api, port.owner_id, "192.0.2.53", "2001:db8::53")

    assert (order.port_id, order.network_id) == (port.id, wired.network.id)
    assert (order.mac_address, order.mtu, order.position) == (port.mac_address, 1400, 3)
    assert [(one.address, one.prefix_length) for one in order.addresses] == [
        (port.addresses[0].address, 24),
        (port.addresses[1].address, 24),
        (port.addresses[2].address, 64),
    ]
    assert [one.gateway_address for one in order.addresses] == ["10.0.0.1", "10.0.1.1", "fd00::1"]
    assert [one.dhcp for one in order.addresses] == [True, False, True]
    assert [one.ipv6_mode for one in order.addresses] == [None, None, Ipv6Mode.SLAAC]
    assert order.dns_servers == (METADATA, "192.0.2.53", "10.0.1.53", "2001:db8::53")
    assert (order.dns_domain, order.host_routes) == ("shop.internal", routes)
    assert order.metadata_name == metadata_name(wired.network.id)
    assert order.metadata_mac == metadata_mac(wired.network.id)


async def test_what_is_ordered_is_what_an_agent_takes(api: Api) -> None:
    wired = await a_wired_network(api)
    sixth = await another_subnet(api, wired.network, "fd00::/64", ipv6_mode=Ipv6Mode.SLAAC)
    row = an_instance(seed=Seed.METADATA)
    for position in (1, 0):
        owned = {**INSTANCE, "owner_id": row.id, "position": position}
        subnets = (wired.subnet.id, sixth.id)
        await api.uow.write(
            lambda conn, owned=owned, subnets=subnets: add_port(
                conn, wired.network, *subnets, **owned
            )
        )
    ports = await read(api, row.id)
    order = MachineOrder(row, an_image(), 1 << 30, must_exist=False, ports=ports)

    spec = convert.spec_message(order)
    taken = port_specs(spec.ports, "ports")

    assert [port.port_id for port in taken] == [port.port_id for port in ports]
    assert [port.position for port in taken] == [0, 1]
    assert spec.ports[0].addresses[1].ipv6_mode == port_pb2.PortSpec.IPV6_MODE_SLAAC
    assert taken[0].metadata is not None
    assert spec.metadata_seed


async def test_lists_are_kept_within_what_an_agent_takes(api: Api) -> None:
    many = tuple(HostRoute(f"10.{number}.0.0/16", "10.0.1.9") for number in range(1, 41))
    servers = tuple(f"10.0.1.{number}" for number in range(20, 29))
    wired = await a_wired_network(api)
    full = await another_subnet(
        api, wired.network, "10.0.1.0/24", host_routes=many, dns_servers=servers
    )
    owned = {**INSTANCE, "owner_id": an_id("instance")}
    port = await api.uow.write(lambda conn: add_port(conn, wired.network, full.id, **owned))

    (order,) = await read(api, port.owner_id)

    assert order.host_routes == many[:32]
    assert order.dns_servers == (METADATA, *servers[:7])


async def test_an_instance_without_ports_is_ordered_none(api: Api) -> None:
    assert await read(api, an_id("instance")) == ()

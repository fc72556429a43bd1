"""The network that a project's instances are on when they name none."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api
from tests.support.builders import DEFAULT_PROJECT_ID
from tests.support.network_api import (
    a_call,
    a_context,
    a_plugged_port,
    a_wired_network,
    an_external_network,
    marked,
    read,
)
from tests.support.networks import a_router, use_all
from unkai_scheduler.domain.networks import Ipv6Mode, Network
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.default_networks import ensure_default_network
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.store import networks, ports, routers, security_groups, subnets
from unkai_wire.errors import FailedPrecondition

NETWORKING = NetworkSettings(northbound=("unix:/run/ovn/ovnnb_db.sock",), underlay_mtu=9000)


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def ensure(api: Api, settings: NetworkSettings = NETWORKING) -> Network:
    def work(conn: Any) -> Network:
        project = resolve_project(conn, "")
        return ensure_default_network(conn, a_context(api), a_call(), project, settings=settings)

    made: Network = await api.uow.write(work)
    return made


async def the_router(api: Api) -> Any:
    return await read(api, lambda conn: routers.find(conn, DEFAULT_PROJECT_ID, "default"))


async def test_it_is_made_whole_on_first_use_and_once(api: Api) -> None:
    network = await ensure(api)
    assert (network.name, network.is_default, network.mtu) == ("default", True, 8942)
    assert network.dns_domain == "internal"
    four, six = await read(api, lambda conn: subnets.of_network(conn, network.id))
    assert (four.name, six.name) == ("default", "default-v6")
    assert ip_network(four.cidr).subnet_of(ip_network("10.0.0.0/8"))
    assert ip_network(six.cidr).subnet_of(ip_network("fd00::/8"))
    assert (ip_network(four.cidr).prefixlen, ip_network(six.cidr).prefixlen) == (24, 64)
    assert (four.ipv6_mode, six.ipv6_mode) == (None, Ipv6Mode.SLAAC)
    router = await the_router(api)
    assert [(place.subnet_id, place.address) for place in router.interfaces] == [
        (four.id, four.gateway_address),
        (six.id, six.gateway_address),
    ]
    group = await read(api, lambda conn: security_groups.find(conn, DEFAULT_PROJECT_ID, "default"))
    assert group is not None
    assert await marked(api) == {
        f"network:{network.id}",
        f"subnet:{four.id}",
        f"subnet:{six.id}",
        f"router:{router.id}",
        f"security_group:{group.id}",
    }
    assert (await ensure(api)).id == network.id


async def test_its_router_leads_out_by_the_only_external_network(api: Api) -> None:
    outside = await an_external_network(api)
    await ensure(api)
    router = await the_router(api)
    assert (router.gateway.network_id, router.gateway.snat) == (outside.network.id, True)


async def test_its_router_leads_nowhere_where_the_way_out_is_not_plain(api: Api) -> None:
    await an_external_network(api)
    await an_external_network(api, "198.51.100.0/24")
    await ensure(api)
    assert (await the_router(api)).gateway is None


async def test_its_router_leads_nowhere_where_no_address_outside_is_left(api: Api) -> None:
    outside = await an_external_network(api, "203.0.113.0/29")
    port = await a_plugged_port(api, outside)
    await api.uow.write(lambda conn: ports.delete(conn, port.id))

    def fill(conn: Any) -> None:
        ports.insert(conn, port)
        use_all(conn, outside.network, outside.subnet, port)

    await api.uow.write(fill)
    await ensure(api)
    assert (await the_router(api)).gateway is None


async def test_its_addresses_clash_with_no_network_in_reach(api: Api) -> None:
    # All of 10.0.0.0/8 but its last quarter.
    await a_wired_network(api, "10.0.0.0/9")
    await an_external_network(api, "10.128.0.0/10")
    network = await ensure(api)
    four, _ = await read(api, lambda conn: subnets.of_network(conn, network.id))
    assert ip_network(four.cidr).subnet_of(ip_network("10.192.0.0/10"))


async def test_without_a_free_range_the_user_must_name_a_network(api: Api) -> None:
    await a_wired_network(api, "10.0.0.0/8")
    with pytest.raises(FailedPrecondition) as caught:
        await ensure(api)
    assert caught.value.reason == "NO_FREE_RANGE"
    assert await read(api, lambda conn: networks.default_of(conn, DEFAULT_PROJECT_ID)) is None


async def test_names_that_are_taken_are_left_to_those_who_have_them(api: Api) -> None:
    taken = a_router(name="default")
    await api.uow.write(lambda conn: routers.insert(conn, taken))
    await ensure(api)
    assert await the_router(api) == taken
    numbered = await read(api, lambda conn: routers.find(conn, DEFAULT_PROJECT_ID, "default-2"))
    assert len(numbered.interfaces) == 2


async def test_a_network_that_the_user_called_default_is_it(api: Api) -> None:
    wired = await a_wired_network(api, name="default")
    network = await ensure(api)
    assert (network.id, network.is_default) == (wired.network.id, True)
    assert (await ensure(api)).id == wired.network.id


async def test_where_there_are_no_networks_none_is_made(api: Api) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await ensure(api, NetworkSettings())
    assert caught.value.reason == "NETWORKING_NOT_CONFIGURED"

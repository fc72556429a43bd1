"""The ports of a new instance: given, made, or one on the default network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, an_api
from tests.support.builders import DEFAULT_PROJECT_ID, a_project, an_id
from tests.support.network_api import (
    a_call,
    a_context,
    a_plugged_port,
    a_wired_network,
    another_subnet,
    marked,
    read,
)
from tests.support.networks import a_group
from unkai_scheduler.domain.ports import FixedAddress, Port, PortOwner
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.launch_ports import InterfaceDraft, LaunchPorts, check_interfaces
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.store import networks, ports, projects, security_groups
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

NETWORKING = NetworkSettings(northbound=("unix:/run/ovn/ovnnb_db.sock",))


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def plug(api: Api, *drafts: InterfaceDraft, instance_id: str = "") -> list[Port]:
    plugging = LaunchPorts(a_context(api), NETWORKING)

    def work(conn: Any) -> list[Port]:
        project = resolve_project(conn, "")
        wanted = plugging.wanted(check_interfaces(drafts, no_network=False), no_network=False)
        return plugging.plug(conn, a_call(), project, instance_id or an_id("instance"), wanted)

    made: list[Port] = await api.uow.write(work)
    return made


def addresses_of(port: Port) -> list[str]:
    return [one.address for one in port.addresses]


async def test_who_says_nothing_gets_a_port_on_the_default_network(api: Api) -> None:
    instance_id = an_id("instance")
    (port,) = await plug(api, instance_id=instance_id)
    default = await read(api, lambda conn: networks.default_of(conn, DEFAULT_PROJECT_ID))
    group = await read(api, lambda conn: security_groups.find(conn, DEFAULT_PROJECT_ID, "default"))
    assert (port.network_id, port.security_group_ids) == (default.id, (group.id,))
    assert (port.owner, port.owner_id, port.position) == (PortOwner.INSTANCE, instance_id, 0)
    assert port.delete_with_owner
    assert ["." in one for one in addresses_of(port)] == [True, False]
    assert f"port:{port.id}" in await marked(api)
    (second,) = await plug(api)
    assert second.network_id == port.network_id
    assert not set(addresses_of(second)) & set(addresses_of(port))


async def test_interfaces_are_made_in_the_order_asked_for(api: Api) -> None:
    one, other = await a_wired_network(api), await a_wired_network(api, "10.1.0.0/24")
    group = a_group()
    await api.uow.write(lambda conn: security_groups.insert(conn, group))
    given = await a_plugged_port(api, other)
    made = await plug(
        api,
        InterfaceDraft(port_id=given.id),
        InterfaceDraft(
            network_id=one.network.id,
            addresses=(FixedAddress("", "10.0.0.77"),),
            security_group_ids=(group.id,),
        ),
    )
    assert [(port.position, port.delete_with_owner) for port in made] == [(0, False), (1, True)]
    assert [addresses_of(port) for port in made] == [addresses_of(given), ["10.0.0.77"]]
    assert made[0].etag != given.etag
    assert made[1].security_group_ids == (group.id,)
    # Nobody asked for the default network, so there is none.
    assert await read(api, lambda conn: networks.default_of(conn, DEFAULT_PROJECT_ID)) is None


async def test_a_port_is_given_once_and_within_its_project(api: Api) -> None:
    wired = await a_wired_network(api)
    taken = await a_plugged_port(api, wired, owner=PortOwner.INSTANCE, owner_id=an_id("instance"))
    with pytest.raises(FailedPrecondition) as caught:
        await plug(api, InterfaceDraft(port_id=taken.id))
    assert caught.value.reason == "PORT_IN_USE"
    assert caught.value.metadata["owner_id"] == taken.owner_id
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    foreign = await a_plugged_port(api, wired, project_id=theirs.id)
    with pytest.raises(NotFound):
        await plug(api, InterfaceDraft(port_id=foreign.id))


async def test_what_is_wrong_is_told_of_the_interface(api: Api) -> None:
    wired = await a_wired_network(api)
    await another_subnet(api, wired.network, "fd00::/64")
    draft = InterfaceDraft(network_id=wired.network.id, addresses=(FixedAddress("", "10.9.9.9"),))
    with pytest.raises(InvalidArgument) as caught:
        await plug(api, InterfaceDraft(network_id=wired.network.id), draft)
    assert caught.value.reason == "ADDRESS_NOT_IN_SUBNET"
    assert caught.value.metadata["field"] == "instance.interfaces[1].fixed_addresses[0].address"
    # All or nothing: the first interface has left no port behind.
    assert await read(api, lambda conn: ports.ids_on_network(conn, wired.network.id)) == []
    holder = await a_plugged_port(api, wired)
    used = InterfaceDraft(
        network_id=wired.network.id, addresses=(FixedAddress("", addresses_of(holder)[0]),)
    )
    with pytest.raises(AlreadyExists) as in_use:
        await plug(api, used)
    assert in_use.value.reason == "ADDRESS_IN_USE"


def fields_of(drafts: Sequence[InterfaceDraft], *, no_network: bool = False) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        check_interfaces(drafts, no_network=no_network)
    return [field for field, _ in caught.value.violations]


def test_a_malformed_interface_is_refused_with_all_that_is_wrong() -> None:
    port_id, one = an_id("port"), "instance.interfaces"
    address = FixedAddress("", "10.0.0.1")
    assert fields_of([InterfaceDraft()], no_network=True) == ["instance.no_network"]
    assert fields_of([InterfaceDraft()] * 17) == [one]
    both = InterfaceDraft(port_id, an_id("network"), (address,), (an_id("security_group"),))
    assert fields_of([InterfaceDraft(port_id), both]) == [
        f"{one}[1].port_id",
        f"{one}[1].network_id",
        f"{one}[1].fixed_addresses",
        f"{one}[1].security_group_ids",
    ]
    wrong = InterfaceDraft("", "x", (FixedAddress("y", "z"), address, address), ("g",))
    assert fields_of([wrong]) == [
        f"{one}[0].network_id",
        f"{one}[0].fixed_addresses[0].subnet_id",
        f"{one}[0].fixed_addresses[0].address",
        f"{one}[0].fixed_addresses[2].address",
        f"{one}[0].security_group_ids[0]",
    ]


def test_without_networks_an_instance_that_names_none_has_no_port() -> None:
    plugging = LaunchPorts(None, NetworkSettings())  # type: ignore[arg-type]
    assert plugging.wanted((), no_network=False) == ()
    enabled = LaunchPorts(None, NETWORKING)  # type: ignore[arg-type]
    assert enabled.wanted((), no_network=True) == ()
    assert enabled.wanted((), no_network=False) == (InterfaceDraft(),)

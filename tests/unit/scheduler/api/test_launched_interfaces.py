"""Instances launched with ports, as a client sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.support import databases
from tests.support.api import Api, an_api, refused
from tests.support.builders import DEFAULT_PROJECT_ID
from tests.support.network_api import a_plugged_port, a_wired_network, marked, read
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.network.v1 import port_pb2
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.store import networks, ports
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument

Interface = instance_pb2.Instance.Interface
pb = instance_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def get(api: Api, ident: str) -> instance_pb2.Instance:
    return (await api.instances.GetInstance(pb.GetInstanceRequest(instance_id=ident))).instance


async def test_an_instance_is_shown_with_its_addresses_from_the_first_answer_on(api: Api) -> None:
    made = (await api.create("web")).instance
    (interface,) = made.interfaces
    (port,) = await read(api, lambda conn: ports.of_owner(conn, made.id))
    assert [one.address for one in interface.fixed_addresses] == [
        one.address for one in port.addresses
    ]
    assert (interface.port_id, interface.mac_address) == (port.id, port.mac_address)
    assert f"port:{port.id}" in await marked(api)
    assert (await get(api, made.id)).interfaces[0] == interface
    deleted = await api.instances.DeleteInstance(pb.DeleteInstanceRequest(instance_id=made.id))
    assert deleted.instance.interfaces[0] == interface


async def test_the_same_request_again_plugs_in_nothing_more(api: Api) -> None:
    image = await api.a_ready_image()
    first = await api.create("web", image_id=image.id, request_id="once")
    again = await api.create("web", image_id=image.id, request_id="once")
    assert again == first
    assert len(first.instance.interfaces) == 1
    assert len(await read(api, lambda conn: ports.of_owner(conn, first.instance.id))) == 1


async def test_a_launch_that_fails_leaves_no_network_and_no_port(api: Api) -> None:
    made = (await api.create("web", no_network=True)).instance
    assert not made.interfaces
    with pytest.raises(AlreadyExists):
        raise await refused(api.create("web", image_id=made.image_id))
    assert await read(api, lambda conn: networks.default_of(conn, DEFAULT_PROJECT_ID)) is None
    assert await marked(api) == set()


async def test_interfaces_are_what_was_asked_for(api: Api) -> None:
    wired = await a_wired_network(api)
    given = await a_plugged_port(api, wired)
    asked = [
        Interface(port_id=given.id),
        Interface(
            network_id=wired.network.id,
            fixed_addresses=[port_pb2.FixedAddress(address="10.0.0.99")],
        ),
    ]
    made = (await api.create("web", interfaces=asked)).instance
    assert [one.network_id for one in made.interfaces] == [wired.network.id] * 2
    assert made.interfaces[0].port_id == given.id
    assert [one.address for one in made.interfaces[1].fixed_addresses] == ["10.0.0.99"]
    taken = await read(api, lambda conn: ports.get(conn, given.id))
    assert (taken.owner, taken.owner_id) == (PortOwner.INSTANCE, made.id)
    caught = await refused(api.create("db", image_id=made.image_id, interfaces=asked[:1]))
    assert (type(caught), caught.reason) == (FailedPrecondition, "PORT_IN_USE")


async def test_what_is_wrong_with_a_launch_is_told_together(api: Api) -> None:
    image = await api.a_ready_image()
    interfaces = [Interface(network_id="x")]
    caught = await refused(api.create("Web", image_id=image.id, interfaces=interfaces))
    assert isinstance(caught, InvalidArgument)
    assert [field for field, _ in caught.violations] == [
        "instance.name",
        "instance.interfaces[0].network_id",
    ]


async def test_the_seed_is_remembered_and_needs_a_network(api: Api) -> None:
    image = await api.a_ready_image()
    metadata = instance_pb2.Instance.SEED_METADATA
    made = (await api.create("web", image_id=image.id, seed=metadata)).instance
    assert made.seed == (await get(api, made.id)).seed == metadata
    plain = (await api.create("db", image_id=image.id)).instance
    assert plain.seed == instance_pb2.Instance.SEED_DISK
    caught = await refused(api.create("no", image_id=image.id, seed=metadata, no_network=True))
    assert caught.reason == "SEED_NEEDS_NETWORK"


async def test_a_cloud_without_networks_launches_as_ever(tmp_path: Path) -> None:
    async with an_api(tmp_path / "b", network=NetworkSettings()) as api:
        made = (await api.create("web")).instance
        assert not made.interfaces
        assert await marked(api) == set()
        asked = [Interface()]
        caught = await refused(api.create("db", image_id=made.image_id, interfaces=asked))
        assert caught.reason == "NETWORKING_NOT_CONFIGURED"


@pytest.mark.skipif(databases.kind() != databases.SQLITE, reason="it looks into SQLite's engine")
async def test_a_list_reads_the_ports_of_all_its_instances_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await api.a_ready_image()
    asked: list[str] = []

    async def listed() -> list[instance_pb2.Instance]:
        asked.clear()
        return list((await api.instances.ListInstances(pb.ListInstancesRequest())).instances)

    await api.create("web-0", image_id=image.id)
    engine = api.uow._reading  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    await listed()
    few = len(asked)
    for number in range(1, 6):
        await api.create(f"web-{number}", image_id=image.id)
    rows = await listed()
    assert len(asked) == few
    assert [len(row.interfaces) for row in rows] == [1] * 6
    assert len({one.fixed_addresses[0].address for row in rows for one in row.interfaces}) == 6

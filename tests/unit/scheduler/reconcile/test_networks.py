"""The leader's loop for networks: what the store says comes to OVN, whatever happens to either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.support import network_calls as calls
from tests.support import routing_calls as routing
from tests.support.api import Api, an_api
from tests.support.builders import NOON, a_claim, a_host
from tests.support.network_api import marked
from tests.support.network_loop import (
    Led,
    Scene,
    a_scene,
    leading,
    repairs,
    until,
    until_settled,
)
from unkai.network.v1 import port_service_pb2, subnet_service_pb2
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.ovn.fake import FakeNorthbound, FakeOvn
from unkai_scheduler.ovn.northbound.units import keys_of, unit_of_key
from unkai_scheduler.ovn.rows import UNIT, Place, Ref
from unkai_scheduler.reconcile import host_rows
from unkai_scheduler.reconcile import networks as loops
from unkai_scheduler.reconcile.network_units import derive
from unkai_scheduler.reconcile.network_views import view_of
from unkai_scheduler.reconcile.office import Office, ReignEnded
from unkai_scheduler.store import claims, hosts, instances, ovn_units, ovn_work
from unkai_wire.cluster_records import HostRecord
from unkai_wire.ids import uuid_of


class Wired:
    """An API, the fake OVN, and the loop between them."""

    def __init__(self, api: Api, ovn: FakeOvn, member: FakeNorthbound, led: Led) -> None:
        self.api = api
        self.ovn = ovn
        self.member = member
        self.led = led

    @property
    def units(self) -> set[str]:
        """Return the keys of the units that OVN has rows of."""
        return set(self.ovn.tables.index.counts())

    def row(self, table: str, uuid: UUID) -> Any:
        return self.ovn.tables.rows[table].get(uuid)

    def port_row(self, ident: str) -> Any:
        return self.row("Logical_Switch_Port", uuid_of(ident))

    def empty_ovn(self) -> None:
        """Have the database lose all its rows while it is away."""
        self.ovn.stop()
        for table, rows in self.ovn.tables.rows.items():
            if table != "NB_Global" and self.ovn.tables.schema[table].is_root:
                for uuid in list(rows):
                    if uuid in self.ovn.tables.rows[table]:
                        self.ovn.delete(table, uuid)
        assert not self.units
        self.ovn.start()

    async def whole(self) -> bool:
        """Tell whether OVN is as the store says, in every unit."""
        keys = [key async for key in every_key(self.api)]
        derived = await self.api.uow.read(lambda conn: derive(conn, keys))
        return not await self.member.compare(derived.units)


async def every_key(api: Api) -> AsyncIterator[str]:
    """Yield the keys of all units of the store."""
    for kind in ovn_units.KINDS:
        idents = await api.uow.read(lambda conn, of=kind: ovn_units.page(conn, of, "", 1000))
        for ident in idents:
            yield f"{kind}:{ident}"


@asynccontextmanager
async def wired(folder: Path, **network: Any) -> AsyncIterator[Wired]:
    ovn = FakeOvn()
    member = ovn.member()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(an_api(folder / "a"))
        led = await stack.enter_async_context(leading(api, member, **network))
        made = Wired(api, ovn, member, led)
        await until(lambda: "cloud:base" in made.units)
        yield made


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Wired]:
    async with wired(tmp_path) as made:
        yield made


def a_host_record(**changes: Any) -> HostRecord:
    """Make what an agent writes of its host."""
    host = a_host()
    values = {name: getattr(host, name) for name in host_rows.TOLD}
    return HostRecord(
        **{"host_id": host.id, "name": host.name, "accelerator_reason": "", **values, **changes}
    )


def joined(office: Office, record: HostRecord, conn: Any) -> None:
    """Write a host's row as the leader does that has seen its record."""
    host_rows.write_row(
        conn, office, record.host_id, state=HostState.UP, record=record, now=NOON, etag="e"
    )


async def deleted_port(api: Api, ident: str) -> None:
    await api.ports.DeletePort(port_service_pb2.DeletePortRequest(port_id=ident))


async def test_one_of_everything_comes_to_ovn_and_is_reconciling_no_more(cloud: Wired) -> None:
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    assert cloud.units >= scene.keys
    assert await cloud.whole()
    assert not await repairs(cloud.api)


async def test_some_units_come_out_the_same_whether_the_whole_store_is_read_or_what_they_need(
    cloud: Wired,
) -> None:
    await a_scene(cloud.api)
    keys = [key async for key in every_key(cloud.api)]
    whole = await cloud.api.uow.read(lambda conn: view_of(conn, keys))
    assert set(keys_of(whole)) == {*keys, "cloud:base"}
    for key in keys:
        alone = await cloud.api.uow.read(lambda conn, of=key: view_of(conn, [of]))
        assert unit_of_key(alone, key) == unit_of_key(whole, key), key


async def test_what_is_removed_goes_from_ovn(cloud: Wired) -> None:
    network = await calls.a_network(cloud.api)
    await calls.a_subnet(cloud.api, network.id)
    port = await calls.a_port(cloud.api, network.id)
    await until_settled(cloud.api)
    assert cloud.port_row(port.id)
    await deleted_port(cloud.api, port.id)
    await until_settled(cloud.api)
    assert cloud.port_row(port.id) is None
    assert await cloud.whole()


async def test_a_changed_port_touches_its_own_rows_alone(cloud: Wired) -> None:
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    before = len(cloud.ovn.tables.written)
    port = calls.port_pb2.Port(id=scene.ports[1])
    pair = calls.port_pb2.AddressPair(cidr="10.0.0.200/32")
    await calls.change_port(cloud.api, port, allowed_address_pairs=[pair])
    await until_settled(cloud.api)
    written = {ref for record in cloud.ovn.tables.written[before:] for ref in record}
    assert {ref for ref in written if ref.table != "NB_Global"} == {
        Ref("Logical_Switch_Port", uuid_of(scene.ports[1]))
    }


async def test_a_router_has_no_way_out_until_a_host_reaches_the_outside_and_then_by_those_that_do(
    cloud: Wired,
) -> None:
    flat = calls.network_pb2.Network.TYPE_FLAT
    outside = await calls.a_network(
        cloud.api, "outside", external=True, type=flat, physical_network="public"
    )
    await calls.a_subnet(cloud.api, outside.id, "203.0.113.0/24")
    await routing.a_way_out(cloud.api, outside.id)
    await until_settled(cloud.api)
    assert not cloud.ovn.tables.rows["HA_Chassis"]
    told: dict[str, Any] = {"features": (NETWORKS,), "physical_networks": ("public",)}
    records = [a_host_record(**told), a_host_record(**told), a_host_record()]
    for record in records:
        await cloud.api.uow.write(partial(joined, cloud.led.office, record))
    await until_settled(cloud.api)
    chassis = cloud.ovn.tables.rows["HA_Chassis"].values()
    names = {name for row in chassis for name in row["chassis_name"]}
    assert names == {record.host_id for record in records[:2]}


async def test_a_port_says_on_which_host_its_instance_is(cloud: Wired) -> None:
    scene = await a_scene(cloud.api)
    made = (await cloud.api.create(interfaces=[{"port_id": scene.ports[0]}])).instance
    await until_settled(cloud.api)
    assert cloud.port_row(scene.ports[0])["options"] == {}
    host, row = a_host(), await cloud.api.uow.read(lambda conn: instances.get(conn, made.id))
    assert row is not None
    await cloud.api.uow.write(lambda conn: hosts.insert(conn, host))
    await cloud.api.uow.write(lambda conn: claims.insert(conn, [a_claim(row, host)]))
    await until(lambda: cloud.port_row(scene.ports[0])["options"])
    assert cloud.port_row(scene.ports[0])["options"] == {"requested-chassis": host.id}
    now = cloud.led.office.clock()
    await cloud.api.uow.write(lambda conn: claims.delete(conn, made.id, now))
    await until(lambda: not cloud.port_row(scene.ports[0])["options"])


# Damage.


async def damaged(cloud: Wired, scene: Scene) -> set[str]:
    """Delete a row, alter one, take one out of a set; return the units concerned."""
    first, second = scene.ports
    cloud.ovn.delete("Logical_Switch_Port", uuid_of(first))
    cloud.ovn.set("Logical_Switch_Port", uuid_of(second), "addresses", frozenset({"unknown"}))
    name = f"pg_{str(uuid_of(scene.group)).replace('-', '_')}"
    groups = cloud.ovn.tables.rows["Port_Group"]
    (uuid,) = [uuid for uuid, row in groups.items() if row["name"] == frozenset({name})]
    acl = next(iter(groups[uuid]["acls"]))
    assert isinstance(acl, UUID)
    cloud.ovn.delete("ACL", acl)
    return {f"port:{first}", f"port:{second}", f"security_group:{scene.group}"}


async def test_rows_that_others_delete_or_alter_are_put_right_and_an_event_says_which(
    cloud: Wired,
) -> None:
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    units = await damaged(cloud, scene)

    async def are_told() -> bool:
        return {event.attributes["unit"] for event in await repairs(cloud.api)} >= units

    await until(are_told)
    assert await cloud.whole()
    said = {event.attributes["unit"]: event for event in await repairs(cloud.api)}
    assert "its rows had been altered" in said[f"port:{scene.ports[1]}"].message
    assert "1 of its" in said[f"security_group:{scene.group}"].message
    assert said[f"port:{scene.ports[0]}"].resource_id == scene.ports[0]


async def test_rows_of_others_are_not_touched(cloud: Wired) -> None:
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    foreign, theirs = uuid4(), {"owner": "somebody"}
    cloud.ovn.insert("Logical_Switch", foreign, {"name": "theirs", "external_ids": theirs})
    cloud.ovn.start()  # all is read anew, and compared
    await damaged(cloud, scene)
    await until(lambda: cloud.port_row(scene.ports[0]))
    await until_settled(cloud.api)
    assert await cloud.whole()
    assert cloud.row("Logical_Switch", foreign)["external_ids"] == theirs


async def test_a_database_that_was_emptied_is_filled_and_one_event_says_of_how_many_beyond_some(
    cloud: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "MAX_EVENTS", 3)
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    cloud.empty_ovn()
    await until(lambda: cloud.units >= scene.keys)
    await until_settled(cloud.api)
    assert await cloud.whole()

    async def is_told() -> bool:
        return any("units of OVN" in event.message for event in await repairs(cloud.api))

    await until(is_told)
    assert len(await repairs(cloud.api)) == 3 + 1


async def test_a_first_start_mends_nothing_though_the_store_has_networks_already(
    tmp_path: Path,
) -> None:
    ovn = FakeOvn()
    async with an_api(tmp_path / "a") as api:
        scene = await a_scene(api)
        async with leading(api, ovn.member()):
            await until(lambda: set(ovn.tables.index.counts()) >= scene.keys)
            await until_settled(api)
        assert not await repairs(api)


async def test_an_emptied_database_lacks_the_rows_of_the_whole_cloud_too_and_an_event_says_so(
    cloud: Wired,
) -> None:
    await calls.a_network(cloud.api)
    await until_settled(cloud.api)
    cloud.empty_ovn()

    async def is_told() -> bool:
        return "cloud:base" in {event.attributes["unit"] for event in await repairs(cloud.api)}

    await until(is_told)


# Unwanted units.


async def test_a_unit_that_was_removed_and_is_there_again_goes(cloud: Wired) -> None:
    network = await calls.a_network(cloud.api)
    await until_settled(cloud.api)
    view = await cloud.api.uow.read(lambda conn: view_of(conn, [f"network:{network.id}"]))
    unit = unit_of_key(view, f"network:{network.id}")
    await cloud.api.networks.DeleteNetwork(
        calls.networks_pb.DeleteNetworkRequest(network_id=network.id)
    )
    await until(lambda: unit.key not in cloud.units)
    for row in unit.rows:  # as from a copy of OVN's database that was put back
        marks = {UNIT: unit.key}
        cloud.ovn.insert(row.table, row.uuid, {**row.columns, "external_ids": marks}, row.parent)
    await until(lambda: unit.key not in cloud.units)


async def test_a_unit_that_the_store_never_heard_of_is_kept(cloud: Wired) -> None:
    uuid = uuid4()
    cloud.ovn.insert(
        "Logical_Switch", uuid, {"name": "later", "external_ids": {UNIT: "network:net-later"}}
    )
    cloud.ovn.start()
    network = await calls.a_network(cloud.api)
    await until(lambda: f"network:{network.id}" in cloud.units)
    await until_settled(cloud.api)
    await until(cloud.led.loop.findings)
    assert cloud.row("Logical_Switch", uuid)
    assert not await repairs(cloud.api)
    (found,) = cloud.led.loop.findings()
    assert (found.kind, found.resource_id) == (FindingKind.OVN_ORPHAN, "net-later")


async def test_work_on_what_the_store_has_no_trace_of_removes_nothing(cloud: Wired) -> None:
    uuid = uuid4()
    key = "network:net-later"
    cloud.ovn.insert("Logical_Switch", uuid, {"name": "later", "external_ids": {UNIT: key}})
    now = cloud.led.office.clock()
    await cloud.api.uow.write(lambda conn: ovn_work.mark(conn, [key], now, "changed"))
    await until_settled(cloud.api)
    assert cloud.row("Logical_Switch", uuid)


# What goes wrong on the way.


@pytest.mark.parametrize("applied", [True, False])
async def test_an_answer_that_was_lost_is_found_out(cloud: Wired, applied: bool) -> None:
    await until_settled(cloud.api)
    cloud.member.lose_answer(applied=applied)
    scene = await a_scene(cloud.api)
    await until_settled(cloud.api)
    assert cloud.units >= scene.keys
    assert await cloud.whole()
    assert not await repairs(cloud.api)


async def test_while_ovn_is_away_work_waits_and_is_done_when_it_is_back(cloud: Wired) -> None:
    await until_settled(cloud.api)
    cloud.ovn.stop()
    scene = await a_scene(cloud.api)
    await asyncio.sleep(0.1)
    assert await marked(cloud.api) >= scene.keys - {"cloud:base"}
    cloud.ovn.start()
    await until_settled(cloud.api)
    assert await cloud.whole()


async def test_a_leader_that_ovn_knows_to_be_deposed_writes_nothing_and_its_reign_ends(
    cloud: Wired,
) -> None:
    await until_settled(cloud.api)
    cloud.ovn.raise_term(cloud.led.office.term + 5)
    network = await calls.a_network(cloud.api)
    await asyncio.wait([cloud.led.task], timeout=20)
    error = cloud.led.task.exception()
    assert isinstance(error, BaseExceptionGroup)
    ended = error.exceptions[0]
    assert isinstance(ended, ReignEnded)
    assert ended.highest_term == cloud.led.office.term + 5
    assert f"network:{network.id}" not in cloud.units


async def test_a_refused_unit_waits_and_holds_nobody_up(cloud: Wired) -> None:
    network = await calls.a_network(cloud.api)
    await calls.a_subnet(cloud.api, network.id)
    await until_settled(cloud.api)
    cloud.ovn.stop()
    port = await calls.a_port(cloud.api, network.id)
    switch = uuid4()
    cloud.ovn.insert("Logical_Switch", switch, {"name": "theirs"})
    taken = {"name": str(uuid_of(port.id))}  # names of ports are unique
    theirs = uuid4()
    cloud.ovn.insert("Logical_Switch_Port", theirs, taken, Place("Logical_Switch", switch, "ports"))
    other = await calls.a_network(cloud.api, "other")
    cloud.ovn.start()
    await until(lambda: f"network:{other.id}" in cloud.units)

    async def is_refused() -> bool:
        return await marked(cloud.api) == {f"port:{port.id}"}

    await until(is_refused)
    (work,) = await cloud.api.uow.read(
        lambda conn: ovn_work.due(conn, NOON + timedelta(days=1), 10)
    )
    assert "REFUSED" in work.reason
    assert work.due_time > cloud.led.office.clock() + timedelta(seconds=10)
    (found,) = cloud.led.loop.findings()
    assert (found.kind, found.resource_id) == (FindingKind.OVN_REFUSED, port.id)
    assert found.fix
    cloud.ovn.delete("Logical_Switch_Port", theirs)
    pair = calls.port_pb2.AddressPair(cidr="10.0.0.200/32")
    await calls.change_port(cloud.api, port, allowed_address_pairs=[pair])
    await until_settled(cloud.api)
    assert not cloud.led.loop.findings()


async def test_a_change_made_while_its_unit_is_brought_is_brought_too(cloud: Wired) -> None:
    network = await calls.a_network(cloud.api)
    subnet = await calls.a_subnet(cloud.api, network.id)
    for number in range(20):
        await calls.change_subnet(cloud.api, subnet, dns_servers=[f"192.0.2.{number + 1}"])
    await until_settled(cloud.api)
    assert await cloud.whole()
    await cloud.api.subnets.DeleteSubnet(
        subnet_service_pb2.DeleteSubnetRequest(subnet_id=subnet.id)
    )
    await until(lambda: f"subnet:{subnet.id}" not in cloud.units)

"""The leader's loop on a real OVN: what the API makes arrives, and stays whatever happens to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import network_calls as calls
from tests.support.acceptance import Shows, count, seeded
from tests.support.api import Api, an_api
from tests.support.network_loop import (
    Led,
    Scene,
    a_scene,
    leading,
    repairs,
    until,
    until_settled,
)
from tests.support.ovn_daemons import OvnDaemons
from tests.support.ovn_members import until_reached
from unkai.network.v1 import network_service_pb2, port_service_pb2
from unkai_scheduler.ovn.northbound.networks import METADATA_V4
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.rows import UNIT
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.reconcile.network_units import derive
from unkai_scheduler.store import ovn_units
from unkai_wire.ids import uuid_of

pytestmark = pytest.mark.real
WHOLE_WITHIN_S = 30.0
"""Acceptance 6 of networks."""


class Cloud:
    """An API, a real OVN, and the loop between them."""

    def __init__(self, api: Api, central: OvnDaemons, member: OvnNorthbound) -> None:
        self.api = api
        self.central = central
        self.member = member

    async def units(self) -> set[str]:
        return set(await self.member.inventory())

    async def rows(self, table: str) -> Any:
        return await asyncio.to_thread(self.central.north.select, table)

    async def differing(self) -> set[str]:
        """Return the units that are not as the store says."""
        keys = ["cloud:base"]
        for kind in ovn_units.KINDS:
            page = await self.api.uow.read(lambda conn, of=kind: ovn_units.page(conn, of, "", 1000))
            keys += [f"{kind}:{ident}" for ident in page]
        derived = await self.api.uow.read(lambda conn: derive(conn, keys))
        wanted = {unit.key for unit in derived.units if unit.rows}
        return set(await self.member.compare(derived.units)) | (await self.units() ^ wanted)

    async def is_whole(self) -> bool:
        return not await self.differing()


@asynccontextmanager
async def a_cloud(folder: Path) -> AsyncIterator[Cloud]:
    """Serve an API beside a running OVN; nobody leads yet."""
    central = await asyncio.to_thread(OvnDaemons, folder)
    member = OvnNorthbound(OvnSettings((central.north_remote,)))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, central.stop)
        await asyncio.to_thread(central.start)
        stack.push_async_callback(member.close)
        member.start()
        await until_reached(member)
        yield Cloud(await stack.enter_async_context(an_api(folder / "a")), central, member)


@asynccontextmanager
async def led(cloud: Cloud, **more: Any) -> AsyncIterator[Led]:
    async with leading(cloud.api, cloud.member, **more) as reign:
        yield reign


async def test_one_of_everything_arrives_and_becomes_flows(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud, led(cloud):
        scene = await a_scene(cloud.api)
        await until_settled(cloud.api)
        await until(cloud.is_whole)
        assert await cloud.units() >= scene.keys

        def are_bound() -> bool:
            bound = {
                row["logical_port"] for row in cloud.central.south("Port_Binding", "logical_port")
            }
            return bound >= {str(uuid_of(ident)) for ident in scene.ports}

        await until(lambda: asyncio.to_thread(are_bound))
        floating = next(iter(await cloud.rows("NAT")))
        assert floating

        def are_flows() -> bool:
            flows = "\n".join(cloud.central.flows())
            port = str(uuid_of(scene.ports[0]))
            return all(text in flows for text in (port, METADATA_V4, "203.0.113.", "10.0.0."))

        await until(lambda: asyncio.to_thread(are_flows))
        # What OVN's own daemon writes into rows of ours is no damage.
        assert not await repairs(cloud.api)


async def test_damage_is_whole_within_seconds_and_told_and_others_rows_stay(
    tmp_path: Path, shows: Shows
) -> None:
    random = seeded("damage to OVN")
    async with a_cloud(tmp_path) as cloud, led(cloud):
        await a_scene(cloud.api)
        await until_settled(cloud.api)
        theirs = await asyncio.to_thread(a_foreign_switch, cloud.central)
        slowest_s, hurt = 0.0, set[str]()
        for _ in range(count(60)):
            hurt |= await asyncio.to_thread(damage, cloud.central, random)
            began_s = time.monotonic()
            await until(cloud.is_whole, WHOLE_WITHIN_S)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        await until_settled(cloud.api)
        said = {event.attributes["unit"] for event in await repairs(cloud.api)}
        assert said >= hurt
        assert theirs == foreign_rows(await cloud.rows("Logical_Switch"))
    shows(
        "networks 6 northbound damaged by hand",
        f"{count(60)} damages, {len(hurt)} units, whole within {slowest_s:.1f} s, each told; "
        f"rows of others as they were",
    )


def a_foreign_switch(central: OvnDaemons) -> Any:
    """Make a switch that is not ours; return such rows."""
    row = {"name": "theirs", "external_ids": ["map", [["owner", "somebody"]]]}
    central.north.transact({"op": "insert", "table": "Logical_Switch", "row": row})
    return foreign_rows(central.north.select("Logical_Switch"))


def foreign_rows(rows: Any) -> Any:
    return {uuid: row for uuid, row in rows.items() if UNIT not in row["external_ids"]}


_ALTERED: dict[str, dict[str, Any]] = {
    "Logical_Switch": {"name": "altered"},
    "Logical_Switch_Port": {"addresses": ["set", ["unknown"]]},
    "Logical_Router_Port": {"networks": ["set", ["192.0.2.77/32"]]},
    "ACL": {"action": "allow"},
    "NAT": {"external_ip": "192.0.2.66"},
    "DHCP_Options": {"options": ["map", []]},
    "Load_Balancer": {"vips": ["map", []]},
    "Port_Group": {"ports": ["set", []]},
}
_ROOTS = ("Logical_Switch", "Logical_Router", "Port_Group", "DHCP_Options", "Load_Balancer")
_HELD = {
    "Logical_Switch": ("ports",),
    "Logical_Router": ("ports", "nat", "static_routes"),
    "Port_Group": ("acls",),
}


def damage(central: OvnDaemons, random: Any) -> set[str]:
    """Delete or alter some row of ours; return the unit whose row it was."""
    while True:
        table = random.choice([*_ALTERED])
        ours = {
            uuid: row
            for uuid, row in sorted(central.north.select(table).items())
            if UNIT in row["external_ids"]
        }
        if not ours:
            continue
        uuid = random.choice([*ours])
        where = [["_uuid", "==", ["uuid", str(uuid)]]]
        unit = ours[uuid]["external_ids"][UNIT]
        if table in _ROOTS and random.random() < 0.5:
            central.north.transact({"op": "delete", "table": table, "where": where})
            return {str(unit)}
        if table in _HELD and random.random() < 0.5:
            emptied = {column: ["set", []] for column in _HELD[table]}
            central.north.transact({"op": "update", "table": table, "where": where, "row": emptied})
            return set()  # whose rows went, the comparison finds
        altered = {"op": "update", "table": table, "where": where, "row": _ALTERED[table]}
        central.north.transact(altered)
        return set() if table == "Port_Group" else {str(unit)}


async def test_the_database_and_its_daemon_killed_amid_changes_end_whole(tmp_path: Path) -> None:
    random = seeded("OVN killed")
    async with a_cloud(tmp_path) as cloud, led(cloud):
        scene = await a_scene(cloud.api)
        for number in range(count(50)):
            network = await calls.a_network(cloud.api, f"n{number}")
            await calls.a_subnet(cloud.api, network.id, f"10.{number + 1}.0.0/24")
            port = await calls.a_port(cloud.api, network.id)
            await asyncio.sleep(random.random() * 0.1)
            await asyncio.to_thread(kill_and_start, cloud.central, random)
            if random.random() < 0.5:
                request = port_service_pb2.DeletePortRequest(port_id=port.id)
                await cloud.api.ports.DeletePort(request)
        await until_settled(cloud.api)
        await until(cloud.is_whole)
        assert await cloud.units() >= scene.keys


def kill_and_start(central: OvnDaemons, random: Any) -> None:
    match random.choice(["north", "south", "northd"]):
        case "north":
            central.north.stop()
            central.north.start()
        case "south":
            central.kill("ovsdb-server")
            central.start_south()
        case _:
            central.kill("ovn-northd")
            central.start_northd()


async def test_a_leader_killed_between_the_stores_word_and_ovn_leaves_it_to_the_next(
    tmp_path: Path,
) -> None:
    random = seeded("leaders of networks killed")
    async with a_cloud(tmp_path) as cloud:
        made: list[str] = []
        for number in range(count(40)):
            async with led(cloud):
                network = await calls.a_network(cloud.api, f"n{number}")
                made.append(network.id)
                await calls.a_port(cloud.api, network.id)
                if random.random() < 0.3:
                    gone = made.pop(random.randrange(len(made)))
                    await delete_network(cloud.api, gone)
                await asyncio.sleep(random.random() * 0.06)
        async with led(cloud):
            await until_settled(cloud.api)
            await until(cloud.is_whole)
            assert not await repairs(cloud.api)


async def delete_network(api: Api, ident: str) -> None:
    """Delete a network with its ports."""
    listed = await api.ports.ListPorts(port_service_pb2.ListPortsRequest(network_id=ident))
    for port in listed.ports:
        await api.ports.DeletePort(port_service_pb2.DeletePortRequest(port_id=port.id))
    request = network_service_pb2.DeleteNetworkRequest(network_id=ident)
    await api.networks.DeleteNetwork(request)


async def test_a_deposed_leaders_write_is_refused(tmp_path: Path, shows: Shows) -> None:
    async with a_cloud(tmp_path) as cloud:
        async with led(cloud) as newer:
            await until_settled(cloud.api)
            await until(cloud.is_whole)
        before = await asyncio.to_thread(cloud.central.north.log)
        network = await calls.a_network(cloud.api)
        async with led(cloud, term=newer.office.term - 1) as deposed:
            await asyncio.wait([deposed.task], timeout=60)
            assert deposed.task.done()
        assert await asyncio.to_thread(cloud.central.north.log) == before
        assert f"network:{network.id}" not in await cloud.units()
    shows("networks 6 deposed leader", "its write is refused by the database; nothing was written")


async def test_one_port_changed_writes_its_row_alone(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud, led(cloud):
        scene: Scene = await a_scene(cloud.api)
        await until_settled(cloud.api)
        await until(cloud.is_whole)
        before = len(await asyncio.to_thread(cloud.central.north.log))
        pair = calls.port_pb2.AddressPair(cidr="10.0.0.200/32")
        port = calls.port_pb2.Port(id=scene.ports[1])
        await calls.change_port(cloud.api, port, allowed_address_pairs=[pair])
        await until_settled(cloud.api)
        log = (await asyncio.to_thread(cloud.central.north.log))[before:]
        written = {ref for record in log for ref in record if ref.table != "NB_Global"}
        assert written == {("Logical_Switch_Port", uuid_of(scene.ports[1]))}

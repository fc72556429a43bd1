"""Instances with ports, from the accepted request to the last address given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.support.acceptance import Shows, count, seeded
from tests.support.adopting import adopt, backup, restore
from tests.support.builders import an_id
from tests.support.cloud import Cloud, a_cloud
from tests.support.networks import a_network, a_subnet
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.domain.networks import Network, NetworkType
from unkai_scheduler.domain.operations import Operation, OperationState
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.domain.ports import Port, PortOwner, PortState
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.instance_changes import Accepted
from unkai_scheduler.services.instance_drafts import InstanceDraft
from unkai_scheduler.services.instances import InstancesService
from unkai_scheduler.services.launch_ports import InterfaceDraft
from unkai_scheduler.services.port_drafts import PortDraft
from unkai_scheduler.services.ports import PortsService
from unkai_scheduler.store import networks, ports, subnets
from unkai_scheduler.store.tables_networks import addresses, ovn_tombstones, ovn_work
from unkai_scheduler.store.tables_networks import ports as port_rows
from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Principal, Role

S = InstanceState
NETWORKING = NetworkSettings(northbound=("unix:/nb.sock",), physical_networks={"outside": 1500})
MIB = 1 << 20


def a_call(request_id: str = "") -> Call:
    return Call(Principal(Role.LOCAL, "root"), "/test", request_id=request_id)


@dataclass
class User:
    """What a user does, by the services themselves."""

    cloud: Cloud

    def __post_init__(self) -> None:
        context = ServiceContext(
            self.cloud.uow, self.cloud.clock, an_id, lambda _ids: self.cloud.wake()
        )
        self.instances = InstancesService(context, NETWORKING)
        self.ports = PortsService(context, NETWORKING)
        self.names = iter(range(10_000))

    async def launch(self, *interfaces: InterfaceDraft, **draft: Any) -> Accepted:
        wanted = InstanceDraft(
            name=f"vm-{next(self.names)}",
            image_id=self.cloud.image.id,
            vcpus=1,
            memory_bytes=128 * MIB,
            interfaces=interfaces,
            **draft,
        )
        return await self.instances.create(a_call(), "", wanted)

    async def run(self, *interfaces: InterfaceDraft, **draft: Any) -> Instance:
        """Launch an instance and wait until it runs; return it with its ports."""
        made = await self.launch(*interfaces, **draft)
        done = await self.cloud.until_ended(made.operation.id)
        assert done.state is OperationState.SUCCEEDED, done.error
        return await self.instances.get(made.instance.id)

    async def delete(self, instance_id: str) -> Operation:
        accepted = await self.instances.delete(a_call(), instance_id)
        return await self.cloud.until_ended(accepted.operation.id)

    async def a_free_port(self, network: Network) -> Port:
        return await self.ports.create(a_call(), "", PortDraft(network_id=network.id))

    async def port(self, port_id: str) -> Port:
        return await self.ports.get(port_id)

    async def until_port(self, port_id: str, state: PortState) -> None:
        async def holds() -> bool:
            return (await self.port(port_id)).state is state

        await self.cloud.until(holds, f"port becomes {state.value}")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with a_cloud(tmp_path, network=NETWORKING) as cloud:
        yield cloud


@pytest.fixture
def user(cloud: Cloud) -> User:
    return User(cloud)


async def a_wired_network(cloud: Cloud, **changes: Any) -> Network:
    network = a_network(**changes)

    def work(conn: Any) -> None:
        networks.insert(conn, network)
        subnets.insert(conn, a_subnet(network))

    await cloud.uow.write(work)
    return network


def order_of(cloud: Cloud, row: Instance) -> MachineOrder:
    return cloud.agents.hosts[row.host_id].machines[row.id].order


async def test_a_host_is_ordered_the_ports_and_their_user_sees_them_come_up(
    cloud: Cloud, user: User
) -> None:
    row = await user.run()

    (port,) = row.ports
    (ordered,) = order_of(cloud, row).ports
    assert (ordered.port_id, ordered.mac_address) == (port.id, port.mac_address)
    assert [one.address for one in ordered.addresses] == [one.address for one in port.addresses]
    await user.until_port(port.id, PortState.ACTIVE)
    cloud.lose_host(row.host_id)
    await user.until_port(port.id, PortState.UNKNOWN)
    cloud.return_host(row.host_id)
    await user.until_port(port.id, PortState.ACTIVE)
    stopped = await user.instances.stop(a_call(), row.id)
    await cloud.until_ended(stopped.operation.id)
    await user.until_port(port.id, PortState.DOWN)
    assert (await user.delete(row.id)).state is OperationState.SUCCEEDED
    assert await cloud.uow.read(lambda conn: ports.get(conn, port.id)) is None


async def test_a_port_is_plugged_into_a_running_machine_and_taken_out(
    cloud: Cloud, user: User
) -> None:
    network = await a_wired_network(cloud)
    row, free = await user.run(no_network=True), await user.a_free_port(network)

    given = await user.ports.attach(a_call(), free.id, row.id)
    done = await cloud.until_ended(given.operation.id)

    assert done.state is OperationState.SUCCEEDED
    after = await cloud.instance(row.id)
    assert (after.state, after.start_time) == (S.RUNNING, row.start_time)
    assert [port.port_id for port in order_of(cloud, after).ports] == [free.id]
    await user.until_port(free.id, PortState.ACTIVE)

    taken = await user.ports.detach(a_call(), free.id)
    done = await cloud.until_ended(taken.operation.id)

    assert (done.state, taken.port.owner) == (OperationState.SUCCEEDED, None)
    assert order_of(cloud, after).ports == ()
    assert (await user.port(free.id)).state is PortState.DOWN
    assert (await cloud.instance(row.id)).state is S.RUNNING


async def test_plugging_in_waits_for_the_port_to_work_and_not_for_ever(
    cloud: Cloud, user: User
) -> None:
    network = await a_wired_network(cloud)
    row, free = await user.run(no_network=True), await user.a_free_port(network)
    host = cloud.agents.hosts[row.host_id]
    host.stuck_ports.add(free.id)

    given = await user.ports.attach(a_call(), free.id, row.id)

    async def told() -> bool:
        return free.id in (await cloud.operation(given.operation.id)).progress_message

    await cloud.until(told, "the operation says which port does not work")
    done = await cloud.until_ended(given.operation.id, within_s=240)
    assert (done.state, (done.error or {})["reason"]) == (
        OperationState.FAILED,
        "OPERATION_DEADLINE",
    )
    assert (await cloud.instance(row.id)).state is S.RUNNING
    assert (await user.port(free.id)).owner_id == row.id


async def test_a_port_leaves_a_machine_whose_host_is_silent_once_that_is_back(
    cloud: Cloud, user: User
) -> None:
    row = await user.run()
    (port,) = row.ports
    cloud.lose_host(row.host_id)
    await cloud.until_state(row.id, S.UNKNOWN)

    taken = await user.ports.detach(a_call(), port.id)
    assert taken.port.owner is None
    other = await user.run(InterfaceDraft(port_id=port.id))
    cloud.return_host(row.host_id)
    done = await cloud.until_ended(taken.operation.id)

    assert done.state is OperationState.SUCCEEDED
    assert order_of(cloud, row).ports == ()
    assert [port.port_id for port in order_of(cloud, other).ports] == [port.id]


async def test_a_physical_network_decides_where_an_instance_goes(cloud: Cloud, user: User) -> None:
    provider = {"type": NetworkType.FLAT, "physical_network": "outside"}
    network = await a_wired_network(cloud, **provider)
    made = await user.launch(InterfaceDraft(network_id=network.id))
    failed = await cloud.until_ended(made.operation.id)
    assert (failed.error or {})["reason"] == "NO_CAPACITY"
    assert "3 of 3 lack a network" in (failed.error or {})["message"]
    # What failed holds nothing.
    assert await used(cloud) == []
    wired = cloud.add_host(physical_networks=["outside"])
    row = await user.run(InterfaceDraft(network_id=network.id))
    assert row.host_id == wired


async def test_a_host_whose_switch_is_in_trouble_says_so_and_stays_a_gateway(cloud: Cloud) -> None:
    wired = cloud.add_host(physical_networks=["outside"])
    cloud.register(wired, network_problem="its switch is gone")

    async def seen() -> bool:
        host = (await cloud.hosts()).get(wired)
        return host is not None and host.network_problem == "its switch is gone"

    await cloud.until(seen, "the host's row says so")
    host = (await cloud.hosts())[wired]
    assert (host.physical_networks, NETWORKS in host.features) == (("outside",), True)


async def test_a_create_that_fails_gives_all_back_and_lets_go_of_what_it_was_given(
    cloud: Cloud, user: User
) -> None:
    network = await a_wired_network(cloud)
    given = await user.a_free_port(network)
    error = UnkaiError("it does not start", reason="MACHINE_FAILED")
    for host_id in cloud.host_ids:
        cloud.agents.fail_starts(host_id, error)
    made = await user.launch(
        InterfaceDraft(port_id=given.id), InterfaceDraft(network_id=network.id)
    )
    await cloud.until_ended(made.operation.id)

    assert (await cloud.instance(made.instance.id)).state is S.FAILED
    assert (await user.port(given.id)).owner is None
    assert [owner for _, owner in await used(cloud)] == [""]
    assert (await user.delete(made.instance.id)).state is OperationState.SUCCEEDED


async def test_an_adopted_machine_keeps_its_addresses(cloud: Cloud, user: User) -> None:
    network = await a_wired_network(cloud)

    async def written() -> bool:
        return len(await cloud.hosts()) == len(cloud.host_ids)

    await cloud.until(written, "all hosts have their rows")
    copy = await asyncio.to_thread(backup, cloud)
    given = await user.a_free_port(network)
    row = await user.run(InterfaceDraft(port_id=given.id), InterfaceDraft(network_id=network.id))
    await restore(cloud, copy)
    user = User(cloud)

    async def heard() -> bool:
        leader = cloud.schedulers["s1"].leader
        return leader.is_leading and bool(leader.audit.holders(row.id))

    await cloud.until(heard, "the leader hears of the machine")
    adopted = await adopt(cloud, row.id)

    assert [port.addresses for port in adopted.instance.ports] == [
        port.addresses for port in row.ports
    ]
    assert [port.id for port in adopted.instance.ports] == [port.id for port in row.ports]
    assert sum("was not known" in warning for warning in adopted.warnings) == 2
    stopped = await user.instances.stop(a_call(), row.id)
    assert (await cloud.until_ended(stopped.operation.id)).state is OperationState.SUCCEEDED
    ordered = order_of(cloud, await cloud.instance(row.id)).ports
    assert [port.port_id for port in ordered] == [port.id for port in row.ports]


async def used(cloud: Cloud) -> list[tuple[str, str]]:
    """Return each address in use on networks of instances, with its port's owner."""
    query = select(addresses.c.address, port_rows.c.owner_id).join(
        port_rows, port_rows.c.id == addresses.c.port_id
    )
    kinds = port_rows.c.owner_kind.is_(None) | (port_rows.c.owner_kind == PortOwner.INSTANCE.value)
    found = await cloud.uow.read(lambda conn: conn.execute(query.where(kinds)).all())
    return [(row.address, row.owner_id) for row in found]


async def test_whatever_is_done_no_address_is_leaked_or_given_out_twice(
    cloud: Cloud, user: User, shows: Shows
) -> None:
    """Random launches, attachments, removals; between them the leader is killed."""
    rng = seeded("launched ports")
    network = await a_wired_network(cloud)
    own = [await user.a_free_port(network) for _ in range(3)]
    tried = count(200, least=20)
    alive: list[str] = []
    kills = 0

    async def act() -> None:
        what = rng.choice(["launch", "launch", "launch", "delete", "delete", "attach", "detach"])
        if what == "launch":
            given = [InterfaceDraft(port_id=rng.choice(own).id)] * (rng.random() < 0.3)
            drafts = [*given, *[InterfaceDraft(network_id=network.id)] * rng.randint(0, 2)]
            made = await user.launch(*drafts, no_network=not drafts and rng.random() < 0.5)
            alive.append(made.instance.id)
        elif alive and what == "delete":
            await user.instances.delete(a_call(), alive.pop(rng.randrange(len(alive))))
        elif alive and what == "attach":
            await user.ports.attach(a_call(), rng.choice(own).id, rng.choice(alive))
        elif what == "detach":
            await user.ports.detach(a_call(), rng.choice(own).id)

    for number in range(tried):
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(_refusable(act()))
        if number % 5 == 4:
            await cloud.kill()
            await cloud.start()
            kills += 1
        if rng.random() < 0.3:
            await cloud.until_quiet()
    await cloud.until_quiet()

    holders = {row.id for row in await cloud.instances() if row.state is not S.FAILED}
    in_use = await used(cloud)
    assert {owner for _, owner in in_use} <= holders | {""}
    for row in await cloud.instances():
        if row.state is S.RUNNING:
            held = await cloud.uow.read(lambda conn, i=row.id: ports.of_owner(conn, i))
            ordered = [port.port_id for port in order_of(cloud, row).ports]
            assert ordered == [port.id for port in held]
    for ident in alive:
        await user.instances.delete(a_call(), ident)
    await cloud.until_quiet()
    assert await used_by_none(cloud, own)
    live = await cloud.uow.read(lambda conn: set(conn.execute(select(port_rows.c.id)).scalars()))
    buried = await cloud.uow.read(
        lambda conn: set(
            conn.execute(
                select(ovn_tombstones.c.id).where(ovn_tombstones.c.kind == "port")
            ).scalars()
        )
    )
    marked = await cloud.uow.read(
        lambda conn: set(
            conn.execute(select(ovn_work.c.id).where(ovn_work.c.kind == "port")).scalars()
        )
    )
    # What was made is there or has a tombstone, and OVN is to be told of either.
    assert not live & buried
    assert buried <= marked
    shows(
        "networks 5 launched ports",
        f"{tried * 8} acts by 8 at once, {kills} kills of the leader: {len(buried)} ports made and "
        "gone, no address leaked or given out twice",
    )


async def _refusable(act: Any) -> None:
    with suppress(UnkaiError):
        await act


async def used_by_none(cloud: Cloud, own: list[Port]) -> bool:
    """Tell whether only the free ports that were there at first have addresses."""
    in_use = await used(cloud)
    assert [owner for _, owner in in_use] == [""] * sum(len(port.addresses) for port in own)
    rows = await cloud.uow.read(lambda conn: ports.list_page(conn, after=None, limit=1000))
    return {row.id for row in rows if row.owner in {None, PortOwner.INSTANCE}} == {
        port.id for port in own
    }

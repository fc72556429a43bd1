"""Hosts are told the names of the networks that their machines are on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, update

from tests.support.builders import a_project
from tests.support.cloud import Cloud
from tests.support.networks import add_network, add_port
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.networks import Network
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.reconcile.names import SURE_S
from unkai_scheduler.store import ports, projects
from unkai_scheduler.store.tables import instances
from unkai_wire.errors import DeadlineExceeded, Unavailable


async def a_network(cloud: Cloud, cidr: str = "10.0.0.0/24") -> tuple[Network, str]:
    return await cloud.uow.write(lambda conn: add_network(conn, cidr))


async def running(cloud: Cloud, name: str) -> Instance:
    made = await cloud.create(name)
    await cloud.until_ended(made.operation_id)
    return await cloud.instance(made.id)


async def plug(cloud: Cloud, instance: Instance, wired: tuple[Network, str]) -> Port:
    network, subnet_id = wired
    owned = {"owner": PortOwner.INSTANCE, "owner_id": instance.id}
    port = await cloud.uow.write(lambda conn: add_port(conn, network, subnet_id, **owned))
    cloud.wake()
    return port


def names(cloud: Cloud, host_id: str, network_id: str) -> Mapping[str, tuple[str, ...]] | None:
    """Return what a host holds of a network's names; None: nothing."""
    held = cloud.agents.hosts[host_id].names.get(network_id)
    return None if held is None else held.put


async def until(cloud: Cloud, holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
    async def look() -> bool:
        return holds()

    await cloud.until(look, what, within_s=within_s)


async def told(cloud: Cloud, host_id: str, network_id: str, wanted: Mapping[str, str]) -> None:
    """Wait until a host holds exactly these names."""
    whole = {name: (address,) for name, address in wanted.items()}
    await until(cloud, lambda: names(cloud, host_id, network_id) == whole, f"names are {whole}")


def address(port: Port) -> str:
    return port.addresses[0].address


async def renamed(cloud: Cloud, ident: str, name: str) -> None:
    await change(cloud, ident, name=name)


async def change(cloud: Cloud, ident: str, **values: str) -> None:
    """Write columns of an instance, as a service does, and say so."""

    def work(conn: Connection) -> None:
        conn.execute(update(instances).where(instances.c.id == ident).values(**values))

    await cloud.uow.write(work)
    cloud.wake()


async def test_each_host_with_a_machine_on_a_network_is_told_all_its_names(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    network = wired[0]
    one, two = await running(cloud, "one"), await running(cloud, "two")
    at = {made.spec.name: address(await plug(cloud, made, wired)) for made in (one, two)}

    for host_id in {one.host_id, two.host_id}:
        await told(cloud, host_id, network.id, at)
        assert cloud.agents.hosts[host_id].names[network.id].domain == network.dns_domain
    others = set(cloud.host_ids) - {one.host_id, two.host_id}
    assert all(names(cloud, host_id, network.id) is None for host_id in others)


async def test_a_change_is_told_as_a_change(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one, two = await running(cloud, "one"), await running(cloud, "two")
    first, second = [await plug(cloud, each, wired) for each in (one, two)]
    ident, host = wired[0].id, cloud.agents.hosts[one.host_id]
    await told(cloud, one.host_id, ident, {"one": address(first), "two": address(second)})
    before = len(host.told_names)

    await renamed(cloud, two.id, "three")

    await told(cloud, one.host_id, ident, {"one": address(first), "three": address(second)})
    change = host.told_names[before]
    assert change.base_revision == host.told_names[before - 1].revision
    assert (dict(change.put), change.removed) == ({"three": (address(second),)}, {"two"})


async def test_a_name_goes_with_its_instance(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one, two = await running(cloud, "one"), await running(cloud, "two")
    first, second = [await plug(cloud, each, wired) for each in (one, two)]
    ident = wired[0].id
    await told(cloud, one.host_id, ident, {"one": address(first), "two": address(second)})

    deleted = await cloud.delete(two.id)
    await cloud.until_ended(deleted.id)

    left = {"one": (address(first),)}
    await until(
        cloud, lambda: names(cloud, one.host_id, ident) == left, f"names are {left}", within_s=5
    )


async def test_what_lost_calls_did_is_made_good(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    at = address(await plug(cloud, one, wired))
    await told(cloud, one.host_id, wired[0].id, {"one": at})
    agents, ensure = cloud.agents, cloud.agents.ensure_names
    lost: list[object] = []

    async def lossy(*args: object) -> None:
        lost.append(args)
        if len(lost) % 2:
            await ensure(*args)  # type: ignore[arg-type]  # the answer is lost, or the call
        raise DeadlineExceeded("no answer within 10 s")

    agents.ensure_names = lossy  # type: ignore[method-assign]
    for name in ("two", "three", "four"):
        await renamed(cloud, one.id, name)
        await until(cloud, lambda: len(lost) >= 2, "calls are made and fail")
        lost.clear()
    agents.ensure_names = ensure  # type: ignore[method-assign]

    await told(cloud, one.host_id, wired[0].id, {"four": at})


async def test_a_host_that_lost_its_names_is_told_all_when_it_is_there_again(
    cloud: Cloud,
) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    at = address(await plug(cloud, one, wired))
    await told(cloud, one.host_id, wired[0].id, {"one": at})

    cloud.agents.hosts[one.host_id].names.clear()
    cloud.agents.hosts[one.host_id].break_streams()  # its agent starts anew

    await told(cloud, one.host_id, wired[0].id, {"one": at})


async def test_a_host_that_says_nothing_of_its_loss_is_told_again_in_time(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    at = address(await plug(cloud, one, wired))
    await told(cloud, one.host_id, wired[0].id, {"one": at})

    cloud.agents.hosts[one.host_id].names.clear()

    what = "names are there again"
    host_id, ident = one.host_id, wired[0].id
    await until(cloud, lambda: names(cloud, host_id, ident) is not None, what, within_s=2 * SURE_S)


async def test_a_new_leader_tells_at_a_higher_revision(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    at = address(await plug(cloud, one, wired))
    await told(cloud, one.host_id, wired[0].id, {"one": at})
    before = cloud.agents.hosts[one.host_id].names[wired[0].id].revision

    await cloud.kill()
    await cloud.start("s2")
    await renamed(cloud, one.id, "two")

    await told(cloud, one.host_id, wired[0].id, {"two": at})
    assert cloud.agents.hosts[one.host_id].names[wired[0].id].revision > before


async def test_a_machine_that_comes_again_is_told_although_its_host_forgot(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    port = await plug(cloud, one, wired)
    await told(cloud, one.host_id, wired[0].id, {"one": address(port)})
    await cloud.uow.write(lambda conn: ports.delete(conn, port.id))
    await cloud.until_ended((await cloud.delete(one.id)).id)
    for host_id in cloud.host_ids:  # agents forget with the last machine
        cloud.agents.hosts[host_id].names.clear()

    again = await running(cloud, "again")
    at = address(await plug(cloud, again, wired))

    await told(cloud, again.host_id, wired[0].id, {"again": at})


async def test_of_one_name_the_networks_own_project_has_it_then_the_oldest(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    foreign = await running(cloud, "db")
    own = await running(cloud, "web")
    await plug(cloud, foreign, wired)
    at = address(await plug(cloud, own, wired))

    other = a_project(name="other")
    await cloud.uow.write(lambda conn: projects.insert(conn, other))
    await change(cloud, foreign.id, project_id=other.id)
    await renamed(cloud, own.id, "db")

    await told(cloud, own.host_id, wired[0].id, {"db": at})


async def test_a_network_that_goes_is_forgotten(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    port = await plug(cloud, one, wired)
    await told(cloud, one.host_id, wired[0].id, {"one": address(port)})
    before = len(cloud.agents.hosts[one.host_id].told_names)

    await cloud.uow.write(lambda conn: ports.delete(conn, port.id))
    cloud.wake()
    other = await a_network(cloud, "10.9.0.0/24")
    at = address(await plug(cloud, one, other))

    await told(cloud, one.host_id, other[0].id, {"one": at})
    after = cloud.agents.hosts[one.host_id].told_names[before:]
    assert {change.network_id for change in after} == {other[0].id}


async def test_hosts_are_told_at_most_once_a_second_of_a_network(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    one = await running(cloud, "one")
    at = address(await plug(cloud, one, wired))
    await told(cloud, one.host_id, wired[0].id, {"one": at})
    host, began = cloud.agents.hosts[one.host_id], cloud.clock()
    before = len(host.told_names)

    for turn in range(20):
        await renamed(cloud, one.id, f"name{turn}")
    await told(cloud, one.host_id, wired[0].id, {"name19": at})

    took_s = (cloud.clock() - began).total_seconds()
    assert len(host.told_names) - before <= took_s + 2


async def test_one_host_that_fails_does_not_keep_others_from_their_names(cloud: Cloud) -> None:
    wired = await a_network(cloud)
    made = [await running(cloud, f"i{number}") for number in range(3)]
    assert len({each.host_id for each in made}) > 1
    ensure, bad = cloud.agents.ensure_names, made[0].host_id

    async def failing(endpoint: object, *args: object) -> None:
        if endpoint.host_id == bad:  # type: ignore[attr-defined]
            raise Unavailable("the host cannot keep the names", reason="NAMES_UNWRITABLE")
        await ensure(endpoint, *args)  # type: ignore[arg-type]

    cloud.agents.ensure_names = failing  # type: ignore[method-assign]
    at = {each.spec.name: address(await plug(cloud, each, wired)) for each in made}

    for host_id in {each.host_id for each in made} - {bad}:
        await told(cloud, host_id, wired[0].id, at)
    assert names(cloud, bad, wired[0].id) is None
    cloud.agents.ensure_names = ensure  # type: ignore[method-assign]
    await told(cloud, bad, wired[0].id, at)

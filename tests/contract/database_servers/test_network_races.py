"""Two schedulers work on networks at the same moment: nothing is given out twice, nothing dangles.

Refusals are the ones that a caller alone would have heard, or the hint to try again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.acceptance import Shows, count, seeded
from tests.support.builders import an_id
from tests.support.commit_proxy import Fault, a_commit_proxy
from tests.support.network_replica import SETTINGS, Replica, together
from tests.support.pauses import pause_after
from tests.support.store import a_store, ids_with_default_project, noon
from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.load_balancers import BalancedProtocol, Listener, Member
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import FixedAddress
from unkai_scheduler.domain.security_groups import Direction
from unkai_scheduler.services.default_networks import (
    ensure_default_network,
    lock_for_default,
)
from unkai_scheduler.services.floating_ips import FloatingIpDraft
from unkai_scheduler.services.load_balancer_drafts import LoadBalancerDraft
from unkai_scheduler.services.projects import (
    resolve_project,
)
from unkai_scheduler.services.router_drafts import InterfaceDraft, RouterDraft
from unkai_scheduler.services.security_rules import RuleDraft
from unkai_scheduler.store import floating_ips, load_balancers, networks, ovn_work, ports
from unkai_scheduler.store.tables_networks import addresses as address_rows
from unkai_scheduler.store.unit_of_work import Connection, open_unit_of_work

CROWD = 16
ROUNDS = 8


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(a_store(tmp_path)) for _ in range(2)]
        yield Replica(one), Replica(two)


def address_count(conn: Connection, network_id: str) -> int:
    found = conn.execute(address_rows.select().where(address_rows.c.network_id == network_id))
    return len(found.all())


async def test_a_crowd_at_one_subnet_gets_every_address_once_and_the_rest_hear_that_none_is_left(
    replicas: tuple[Replica, Replica], database: str, shows: Shows
) -> None:
    one, _ = replicas
    network, _ = await one.network("10.0.0.0/28", shared=True)  # 13 beside the gateway's
    projects = [await one.project() for _ in range(CROWD)]
    made, refused = await together(
        *(replicas[n % 2].port(network, project_id=projects[n]) for n in range(CROWD))
    )

    given = [port.addresses[0].address for port in made]
    assert sorted(given) == sorted(f"10.0.0.{n}" for n in range(2, 15))
    assert refused == {"NO_FREE_ADDRESS": CROWD - 13}
    assert await one.uow.read(lambda conn: address_count(conn, network.id)) == 13
    shows(
        f"networks 2 allocation {database}",
        f"{CROWD} at once: {len(set(given))} addresses, none twice",
    )


async def test_a_mac_address_that_many_ask_for_is_one_ports(
    replicas: tuple[Replica, Replica],
) -> None:
    """Projects keep each other out of nothing but their own row: here all are different ones."""
    network, _ = await replicas[0].network(shared=True)
    projects = [await replicas[0].project() for _ in range(8)]
    wanted = {"mac_address": "02:00:00:00:00:99"}
    made, refused = await together(
        *(replicas[n % 2].port(network, project_id=projects[n], **wanted) for n in range(8))
    )

    assert len(made) == 1
    assert refused == {"MAC_ADDRESS_IN_USE": 7}


async def test_an_address_that_many_ask_for_is_one_ports(
    replicas: tuple[Replica, Replica],
) -> None:
    network, subnet = await replicas[0].network(shared=True)
    projects = [await replicas[0].project() for _ in range(8)]
    wanted = {"addresses": (FixedAddress(subnet.id, "10.0.0.77"),)}
    made, refused = await together(
        *(replicas[n % 2].port(network, project_id=projects[n], **wanted) for n in range(8))
    )

    assert len(made) == 1
    assert refused == {"ADDRESS_IN_USE": 7}


async def test_the_operators_network_is_made_once(replicas: tuple[Replica, Replica]) -> None:
    projects = [await replicas[0].project() for _ in range(6)]
    made, refused = await together(*(replicas[n % 2].outside(projects[n]) for n in range(6)))

    assert len(made) == 1
    assert refused == {"PHYSICAL_NETWORK_TAKEN": 5}


async def test_subnets_made_at_once_do_not_overlap(replicas: tuple[Replica, Replica]) -> None:
    network, _ = await replicas[0].network()
    made, refused = await together(
        *(replicas[n % 2].subnet(network, "10.1.0.0/24") for n in range(6))
    )

    assert len(made) == 1
    assert refused == {"SUBNET_OVERLAPS": 5}


async def test_a_projects_default_network_is_made_once_by_all_who_are_first(
    replicas: tuple[Replica, Replica],
) -> None:
    def ensure(replica: Replica) -> Awaitable[Network]:
        def work(conn: Connection) -> Network:
            project = resolve_project(conn, "")
            call = replica.call()
            lock_for_default(conn, project)
            return ensure_default_network(conn, replica.context, call, project, settings=SETTINGS)

        return replica.uow.write(work)

    made, refused = await together(*(ensure(replicas[n % 2]) for n in range(8)))

    assert not refused
    assert len({network.id for network in made}) == 1


Race = Callable[[Replica, Replica], Awaitable[Sequence[Awaitable[Any]]]]


async def _port_and_its_network(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    network, _ = await one.network()
    return [one.port(network), two.networks.delete(two.call(), network.id)]


async def _port_and_its_subnet(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    network, subnet = await one.network()
    wanted = (FixedAddress(subnet.id, ""),)
    return [one.port(network, addresses=wanted), two.subnets.delete(two.call(), subnet.id)]


async def _port_and_its_group(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    network, _ = await one.network()
    group = await one.group()
    made = one.port(network, security_group_ids=(group.id,))
    return [made, two.groups.delete(two.call(), group.id)]


async def _rule_and_the_group_it_names(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    naming, named = await one.group(), await one.group()
    rule = RuleDraft(direction=Direction.INGRESS, remote_group_id=named.id)
    return [
        one.groups.add_rule(one.call(), naming.id, rule),
        two.groups.delete(two.call(), named.id),
    ]


async def _floating_address_and_its_port(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    outside, network, subnet = await _wired(one)
    await one.way_out(outside, subnet)
    port = await one.port(network)
    draft = FloatingIpDraft(network_id=outside.id, port_id=port.id)
    return [
        one.floating_ips.create(one.call(), "", draft),
        two.ports.delete(two.call(), port.id),
    ]


async def _floating_address_and_its_router(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    outside, network, subnet = await _wired(one)
    router = await one.way_out(outside, subnet)
    port = await one.port(network)
    draft = FloatingIpDraft(network_id=outside.id, port_id=port.id)
    return [
        one.floating_ips.create(one.call(), "", draft),
        two.routers.delete(two.call(), router.id),
    ]


async def _interface_and_its_subnet(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    _, subnet = await one.network()
    draft = RouterDraft(name="r" + an_id("router")[4:])
    router = await one.routers.create(one.call(), "", draft)
    return [
        one.routers.add_interface(one.call(), router.id, InterfaceDraft(subnet.id)),
        two.subnets.delete(two.call(), subnet.id),
    ]


async def _member_and_its_port(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    network, subnet = await one.network()
    port = await one.port(network)
    listener = Listener(BalancedProtocol.TCP, 80, (Member(port.id, 80),))
    draft = LoadBalancerDraft(
        name="l" + an_id("load_balancer")[4:], subnet_id=subnet.id, listeners=(listener,)
    )
    return [
        one.balancers.create(one.call(), "", draft),
        two.ports.delete(two.call(), port.id),
    ]


async def _wired(one: Replica) -> tuple[Network, Network, Subnet]:
    """Return the operator's network, and one of the project's with a subnet."""
    known = await one.uow.read(
        lambda conn: networks.list_page(conn, after=None, limit=1, external=True)
    )
    outside = known[0] if known else await one.outside()
    return outside, *(await one.network())


async def _label_and_a_members_port(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    network, subnet = await one.network()
    port = await one.port(network)
    listener = Listener(BalancedProtocol.TCP, 80, (Member(port.id, 80),))
    draft = LoadBalancerDraft(
        name="l" + an_id("load_balancer")[4:], subnet_id=subnet.id, listeners=(listener,)
    )
    balancer = await one.balancers.create(one.call(), "", draft)
    labelled = LoadBalancerDraft(labels={"tier": "web"})
    return [
        one.balancers.update(one.call(), balancer.id, labelled, ["labels"], ""),
        two.ports.delete(two.call(), port.id),
    ]


async def _name_and_the_instance_behind(one: Replica, two: Replica) -> Sequence[Awaitable[Any]]:
    outside, network, subnet = await _wired(one)
    await one.way_out(outside, subnet)
    port, instance = await one.port(network), await one.running()
    await one.ports.attach(one.call(), port.id, instance.id)
    draft = FloatingIpDraft(network_id=outside.id, port_id=port.id)
    floating = await one.floating_ips.create(one.call(), "", draft)
    renamed = FloatingIpDraft(name="f" + an_id("floating_ip")[4:])
    return [
        one.floating_ips.update(one.call(), floating.id, renamed, ["name"], ""),
        two.free(instance.id),
    ]


@pytest.mark.parametrize(
    ("race", "reasons"),
    [
        (_port_and_its_network, {"NETWORK_NOT_FOUND", ""}),
        (_port_and_its_subnet, {"SUBNET_IN_USE", "SUBNET_NOT_ON_NETWORK"}),
        (_port_and_its_group, {"SECURITY_GROUP_IN_USE", "SECURITY_GROUP_NOT_FOUND"}),
        (_rule_and_the_group_it_names, {"SECURITY_GROUP_NAMED", "SECURITY_GROUP_NOT_FOUND"}),
        (_floating_address_and_its_port, {"PORT_HAS_FLOATING_IP", "PORT_NOT_FOUND"}),
        (
            _floating_address_and_its_router,
            {"ROUTER_HAS_FLOATING_IPS", "NO_ROUTER_TO_NETWORK", "PORT_CHANGED"},
        ),
        (_interface_and_its_subnet, {"SUBNET_IN_USE", "SUBNET_NOT_FOUND"}),
        (_member_and_its_port, {"PORT_NOT_FOUND", ""}),
        (_label_and_a_members_port, {""}),
        (_name_and_the_instance_behind, {""}),
    ],
)
async def test_of_use_and_removal_at_once_each_is_done_whole_or_refused_with_its_reason(
    replicas: tuple[Replica, Replica],
    race: Race,
    reasons: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty reason: both may come to pass, one after the other."""
    pause_after(monkeypatch, load_balancers, "get")
    pause_after(monkeypatch, floating_ips, "get", "of_ports")
    heard: Counter[str] = Counter()
    for number in range(ROUNDS):
        one, two = replicas if number % 2 else reversed(replicas)
        made, refused = await together(*await race(one, two))
        heard += refused
        assert made, refused
        assert len(made) == 1 or "" in reasons

    assert set(heard) <= reasons, heard


async def test_everything_at_once_ends_without_a_lock_that_was_given_up(
    replicas: tuple[Replica, Replica], given_up: list[int], database: str, shows: Shows
) -> None:
    """Whoever takes locks out of order makes two callers wait for each other, and is retried."""
    one, two = replicas
    outside, network, subnet = await _wired(one)
    router = await one.way_out(outside, subnet)
    random = seeded(f"network crowd {database}")

    async def life(replica: Replica, number: int) -> None:
        for _ in range(count(20, least=3)):
            port = await replica.port(network)
            draft = FloatingIpDraft(network_id=outside.id, port_id=port.id)
            floating = await replica.floating_ips.create(replica.call(), "", draft)
            other, on_other = await replica.network(f"10.{number + 1}.{random.randrange(250)}.0/24")
            joined = InterfaceDraft(on_other.id)
            await replica.routers.add_interface(replica.call(), router.id, joined)
            await replica.routers.remove_interface(replica.call(), router.id, on_other.id)
            await replica.networks.delete(replica.call(), other.id)
            await replica.floating_ips.delete(replica.call(), floating.id)
            await replica.ports.delete(replica.call(), port.id)

    await asyncio.gather(*(life(replicas[n % 2], n) for n in range(8)))

    left = await two.uow.read(lambda conn: ports.list_page(conn, after=None, limit=99))
    assert {port.owner_id for port in left} == {router.id}
    assert not given_up
    work = await two.uow.read(ovn_work.count)
    shows(f"networks 5 crowd {database}", f"8 lives at once, no refusal; {work} units marked")


async def test_a_port_whose_commit_is_lost_is_made_once(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    async with a_store(tmp_path) as direct:
        running = databases.server(database)
        network, _ = await Replica(direct).network("10.0.0.0/24")
        async with a_commit_proxy(running.port) as proxy:
            url = databases.settings_of(tmp_path).url.replace(f":{running.port}", f":{proxy.port}")
            uow = await open_unit_of_work(
                DatabaseSettings(url=url), clock=noon, new_id=ids_with_default_project()
            )
            try:
                behind = Replica(uow)
                await behind.port(network)  # opens the writer's slot, makes the default group
                made = []
                for fault in Fault:
                    proxy.faults.append(fault)
                    made.append(await behind.port(network, request_id=f"r-{fault.name}"))
                again = [await behind.port(network, request_id=f"r-{f.name}") for f in Fault]
            finally:
                await uow.close()
        taken = await direct.read(lambda conn: address_count(conn, network.id))

    assert again == made
    assert taken == 1 + len(Fault)
    shows(f"networks 5 lost COMMIT {database}", f"{len(Fault)} ports, {taken - 1} addresses")

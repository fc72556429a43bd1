"""Two schedulers want the same rows from two ends: neither is given up for the other's sake.

A database notices who waits for each other, gives one up after a while, and the scheduler tries
that again: outcomes are right then, and late. So what is counted is what was tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.util.concurrency import await_

from tests.support.acceptance import Shows, count
from tests.support.builders import NOON, an_id
from tests.support.network_replica import Replica, together
from tests.support.pauses import pause_after
from tests.support.store import a_store, noon
from unkai_scheduler.domain.load_balancers import BalancedProtocol, HealthCheck, Listener, Member
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.security_groups import Direction
from unkai_scheduler.services.floating_ips import FloatingIpDraft
from unkai_scheduler.services.load_balancer_drafts import LoadBalancerDraft
from unkai_scheduler.services.port_drafts import PortDraft
from unkai_scheduler.services.router_drafts import GatewayDraft, RouterDraft
from unkai_scheduler.services.security_rules import RuleDraft
from unkai_scheduler.store import networks, ovn_work, ports, rows
from unkai_scheduler.store.unit_of_work import Connection

ROUNDS = 4
Acts = Sequence[Awaitable[Any]]
Race = Callable[[Replica, Replica], AsyncIterator[Acts]]


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(a_store(tmp_path)) for _ in range(2)]
        yield Replica(one), Replica(two)


async def _groups_whose_rules_name_each_other(one: Replica, two: Replica) -> AsyncIterator[Acts]:
    for _ in range(ROUNDS):
        first, second = (await one.group()).id, (await one.group()).id
        yield [
            one.groups.add_rule(one.call(), first, _naming(second)),
            two.groups.add_rule(two.call(), second, _naming(first)),
        ]


async def _routers_out_by_several_subnets(one: Replica, two: Replica) -> AsyncIterator[Acts]:
    """Each takes an address of both subnets outside, in the order that its user names them in."""
    outside = await one.outside()
    await one.subnet(outside, "198.51.100.0/24")
    mine, theirs = await one.project(), await one.project()
    for number in range(10, 10 + 2 * ROUNDS, 2):
        named = f"203.0.113.{number}", f"198.51.100.{number}"
        others = f"198.51.100.{number + 1}", f"203.0.113.{number + 1}"
        yield [
            replica.routers.create(
                replica.call(),
                project_id,
                RouterDraft(
                    name="r" + an_id("router")[4:], gateway=GatewayDraft(outside.id, addresses)
                ),
            )
            for replica, project_id, addresses in ((one, mine, named), (two, theirs, others))
        ]


async def _a_checked_member_and_its_network(one: Replica, two: Replica) -> AsyncIterator[Acts]:
    """A balancer makes a port on its member's network, which is being removed."""
    _, subnet = await one.network()
    for _ in range(ROUNDS):
        network, _ = await one.network()
        member = await one.port(network)
        yield [
            one.balancers.create(one.call(), "", _balancer(subnet.id, member.id)),
            two.networks.delete(two.call(), network.id),
        ]


async def _a_checked_member_and_who_shares_its_network(
    one: Replica, two: Replica
) -> AsyncIterator[Acts]:
    """A balancer makes a port in another project, which makes one on the same subnet."""
    mine, theirs = await one.project(), await one.project()
    for _ in range(ROUNDS):
        network, subnet = await one.network(project_id=theirs, shared=True)
        member = await one.port(network, project_id=mine)
        yield [
            one.balancers.create(one.call(), mine, _balancer(subnet.id, member.id)),
            two.port(network, project_id=theirs),
        ]


def _naming(group_id: str) -> RuleDraft:
    return RuleDraft(direction=Direction.INGRESS, remote_group_id=group_id)


def _balancer(subnet_id: str, member_port_id: str) -> LoadBalancerDraft:
    member = Member(member_port_id, 80)
    listener = Listener(BalancedProtocol.TCP, 80, (member,), HealthCheck())
    return LoadBalancerDraft(
        name="l" + an_id("load_balancer")[4:], subnet_id=subnet_id, listeners=(listener,)
    )


@pytest.mark.parametrize(
    ("race", "reasons"),
    [
        (_groups_whose_rules_name_each_other, set()),
        (_routers_out_by_several_subnets, set()),
        (_a_checked_member_and_its_network, {"NETWORK_IN_USE", "PORT_NOT_FOUND"}),
        (_a_checked_member_and_who_shares_its_network, set()),
    ],
)
async def test_nobody_waits_for_who_waits_for_them(
    replicas: tuple[Replica, Replica],
    race: Race,
    reasons: set[str],
    given_up: list[int],
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    one, two = replicas
    heard: Counter[str] = Counter()
    async for acts in race(one, two):
        with monkeypatch.context() as patched:
            pause_after(patched, rows, "lock", "hold")
            _, refused = await together(*acts)
        heard += refused

    assert set(heard) <= reasons, heard
    assert not given_up
    shows(f"networks 5 lock order {database}", f"{race.__name__[1:]}: none given up")


async def test_projects_that_share_a_network_keep_out_of_each_others_way(
    replicas: tuple[Replica, Replica], given_up: list[int], database: str, shows: Shows
) -> None:
    """All that a project can have there, made and removed, while the leader settles the work."""
    one, two = replicas
    outside = await one.outside()
    await one.subnet(outside, "198.51.100.0/24")
    network, subnet = await one.network(shared=True)
    await one.subnet(network, "10.0.1.0/24")
    await one.way_out(outside, subnet)
    projects = [await one.project() for _ in range(4)]

    async def life(replica: Replica, project_id: str) -> None:
        call = replica.call()
        for _ in range(count(12, least=3)):
            port = await replica.port(network, project_id=project_id)
            floating = await replica.floating_ips.create(
                call, project_id, FloatingIpDraft(network_id=outside.id, port_id=port.id)
            )
            balancer = await replica.balancers.create(
                call, project_id, _balancer(subnet.id, port.id)
            )
            router = await replica.routers.create(
                call,
                project_id,
                RouterDraft(name="r" + an_id("router")[4:], gateway=GatewayDraft(outside.id)),
            )
            groups = [await replica.group(project_id) for _ in range(2)]
            first, second = (group.id for group in groups)
            await asyncio.gather(
                replica.groups.add_rule(call, first, _naming(second)),
                replica.groups.add_rule(call, second, _naming(first)),
            )
            await replica.ports.update(
                call, port.id, PortDraft(security_group_ids=(first,)), ["security_group_ids"], ""
            )
            await replica.floating_ips.delete(call, floating.id)
            await replica.ports.delete(call, port.id)
            await replica.routers.delete(call, router.id)
            await replica.balancers.delete(call, balancer.id)

    async def settle_all(term: int) -> None:
        while True:
            due = await two.uow.read(lambda conn: ovn_work.due(conn, noon(), 200))
            done = [(work.key, work.number) for work in due]
            await two.uow.lead(term, lambda conn, d=done: ovn_work.settle(conn, d))  # type: ignore[misc]
            await asyncio.sleep(0.01)

    leading = asyncio.create_task(settle_all(await two.uow.take_term(0)))
    await asyncio.gather(*(life(replicas[n % 2], projects[n // 2]) for n in range(8)))
    assert not leading.done()
    leading.cancel()

    assert not given_up
    shows(f"networks 5 sharing {database}", "8 lives in 4 projects at once: none given up")


async def test_the_leader_waits_for_nobody_who_marks_what_it_settles(
    replicas: tuple[Replica, Replica], given_up: list[int]
) -> None:
    """Else the whole reign would stand still, as long as a database takes to notice."""
    user, leader = replicas
    term = await leader.uow.take_term(0)
    units = ["network:net-1", "port:prt-1", "subnet:sub-1"]
    await user.uow.write(lambda conn: ovn_work.mark(conn, units, NOON, "made"))
    due = await leader.uow.read(lambda conn: ovn_work.due(conn, NOON, 9))
    is_marked = asyncio.Event()

    def mark_again(conn: Connection) -> None:
        ovn_work.mark(conn, ["port:prt-1"], NOON, "removed")
        is_marked.set()
        await_(asyncio.sleep(0.5))
        ovn_work.mark(conn, ["network:net-1"], NOON, "removed")

    async def settle() -> None:
        await is_marked.wait()
        done = [(work.key, work.number) for work in due]
        await leader.uow.lead(term, lambda conn: ovn_work.settle(conn, done))

    await asyncio.gather(user.uow.write(mark_again), settle())

    left = await leader.uow.read(lambda conn: ovn_work.due(conn, NOON, 9))
    assert {(work.key, work.reason) for work in left} == {
        ("network:net-1", "removed"),
        ("port:prt-1", "removed"),
    }
    assert not given_up


async def test_a_free_port_is_plugged_in_or_goes_with_its_network(
    replicas: tuple[Replica, Replica],
    locks: bool,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    one, two = replicas
    instance = await one.running()
    pause_after(monkeypatch, ports, "of_kind_on_network", pause_s=0.25)
    reasons: Counter[str] = Counter()
    lost = 0
    for _ in range(ROUNDS):
        network, _ = await one.network()
        port = await one.port(network)
        made, refused = await together(
            two.networks.delete(two.call(), network.id),
            one.ports.attach(one.call(), port.id, instance.id),
        )
        reasons += refused
        stored = await one.uow.read(lambda conn, i=port.id: ports.get(conn, i))
        attached = any(some is not None for some in made)
        lost += attached and stored is None
        if stored is not None:
            assert stored.owner is PortOwner.INSTANCE
            await one.ports.detach(one.call(), port.id)
            await one.settle(instance.id)

    left = await one.uow.read(lambda conn: networks.list_page(conn, after=None, limit=99))
    assert (lost == 0) is locks
    if locks:
        assert set(reasons) <= {"NETWORK_IN_USE", "PORT_NOT_FOUND"}, reasons
        assert len(left) == reasons["NETWORK_IN_USE"]
    shows(f"networks 5 removed networks {database}{'' if locks else ', locks taken away'}",
          f"{lost} of {ROUNDS} ports gone from under their instance")  # fmt: skip

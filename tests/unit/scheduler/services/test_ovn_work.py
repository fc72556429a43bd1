"""What a change makes stale in OVN, as the store tells it: all that is derived from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.support.builders import NOON, an_id
from tests.support.northbound import (
    BALANCED,
    BALANCER,
    DB,
    DB_INSTANCE,
    DEFAULT,
    GREEN,
    GREEN4,
    HELD,
    HELD_TOO,
    ON_BLUE,
    ON_GREEN,
    OPEN,
    OUTSIDE,
    ROUTER,
    SITE,
    TO_BALANCER,
    TO_WEB,
    WAY_OUT,
    WEB,
    WEB_INSTANCE,
    a_world,
)
from tests.support.store import noon, open_store
from unkai_scheduler.ovn.northbound.affected import affected
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import (
    addresses,
    floating_ips,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)
from unkai_scheduler.store import ovn_work as stored
from unkai_scheduler.store.unit_of_work import UnitOfWork

_OWNERS = {
    ON_BLUE: ROUTER,
    ON_GREEN: ROUTER,
    WAY_OUT: ROUTER,
    BALANCED: BALANCER,
    HELD: TO_WEB,
    HELD_TOO: TO_BALANCER,
}
"""The world's own ports do not say whose they are."""


def keys(**named: tuple[str, ...]) -> set[str]:
    return {f"{kind}:{ident}" for kind, idents in named.items() for ident in idents}


def plant(conn: Connection) -> None:
    """Insert the world that OVN's rows are shown of."""
    world = a_world()
    for network in world.networks.values():
        networks.insert(conn, network)
    for subnet in world.subnets.values():
        subnets.insert(conn, subnet)
    for group in world.security_groups.values():
        security_groups.insert(conn, group)
    for port in world.ports.values():
        owner_id = _OWNERS.get(port.id, port.owner_id)
        ports.insert(conn, replace(port, owner_id=owner_id))
        for place, some in enumerate(port.addresses):
            addresses.take_this(conn, some.subnet_id, port.id, some.address, position=place)
    for router in world.routers.values():
        routers.insert(conn, router)
    for floating in world.floating_ips.values():
        floating_ips.insert(conn, floating)
    for balancer in world.load_balancers.values():
        load_balancers.insert(conn, balancer)


@pytest.fixture
async def uow(tmp_path: Path) -> AsyncIterator[UnitOfWork]:
    store = await open_store(tmp_path)
    await store.write(plant)
    yield store
    await store.close()


def context(uow: UnitOfWork) -> ServiceContext:
    return ServiceContext(uow, noon, an_id, lambda ids: None)


async def dependents(uow: UnitOfWork, kind: str, ident: str) -> frozenset[str]:
    return await uow.read(lambda conn: ovn_work.dependents(conn, kind, ident))


CHANGED = [
    *(("network", ident) for ident in a_world().networks),
    *(("subnet", ident) for ident in a_world().subnets),
    *(("port", ident) for ident in a_world().ports),
    *(("security_group", ident) for ident in a_world().security_groups),
    *(("router", ident) for ident in a_world().routers),
    *(("floating_ip", ident) for ident in a_world().floating_ips),
    *(("load_balancer", ident) for ident in a_world().load_balancers),
    *(("instance", ident) for ident in (WEB_INSTANCE, DB_INSTANCE)),
]


async def test_the_store_tells_of_all_that_the_derivation_looks_at(uow: UnitOfWork) -> None:
    for kind, ident in CHANGED:
        expected = affected(a_world(), kind, ident)
        assert await dependents(uow, kind, ident) >= expected, (kind, ident)


@pytest.mark.parametrize(
    ("kind", "ident", "expected"),
    [
        ("network", GREEN, keys(network=(GREEN,), router=(ROUTER,))),
        ("network", OUTSIDE, keys(network=(OUTSIDE,), router=(ROUTER,))),
        (
            "subnet",
            GREEN4,
            keys(subnet=(GREEN4,), router=(ROUTER,), port=(DB, OPEN), load_balancer=(BALANCER,)),
        ),
        ("port", WEB, keys(port=(WEB,), floating_ip=(TO_WEB,), load_balancer=(BALANCER,))),
        ("port", OPEN, keys(port=(OPEN,))),
        ("port", WAY_OUT, keys(router=(ROUTER,))),
        ("port", BALANCED, keys(load_balancer=(BALANCER,), floating_ip=(TO_BALANCER,))),
        ("port", HELD, set()),
        ("security_group", SITE, keys(security_group=(SITE,))),
        ("router", ROUTER, keys(router=(ROUTER,), load_balancer=(BALANCER,))),
        ("floating_ip", TO_WEB, keys(floating_ip=(TO_WEB,))),
        ("instance", WEB_INSTANCE, keys(port=(WEB,))),
    ],
)
async def test_a_change_makes_these_units_stale_and_no_other(
    uow: UnitOfWork, kind: str, ident: str, expected: set[str]
) -> None:
    found = await dependents(uow, kind, ident)
    subnets_too = {key for key in found if kind == "network" and key.startswith("subnet:")}
    assert found - subnets_too == expected
    assert len(subnets_too) == len([s for s in a_world().subnets.values() if s.network_id == ident])


async def test_what_is_marked_is_due_now_and_again_by_a_higher_number(uow: UnitOfWork) -> None:
    def mark(conn: Connection) -> list[Any]:
        ovn_work.touched(conn, context(uow), "security_group", DEFAULT, reason="made")
        return stored.due(conn, NOON, 10)

    (first,) = await uow.write(mark)
    (second,) = await uow.write(mark)
    assert (first.key, first.reason) == (f"security_group:{DEFAULT}", "made")
    assert second.number == first.number + 1


async def test_only_what_was_removed_has_a_tombstone(uow: UnitOfWork) -> None:
    both = [f"port:{WEB}", f"port:{DB}"]

    def work(conn: Connection) -> set[str]:
        ovn_work.touched(conn, context(uow), "port", WEB)
        ovn_work.removed(conn, context(uow), "port", DB)
        due = {work.key for work in stored.due(conn, NOON + timedelta(seconds=1), 10)}
        assert due >= set(both)
        return stored.tombs(conn, both)

    assert await uow.write(work) == {f"port:{DB}"}


async def test_a_resource_that_is_not_there_makes_at_most_itself_stale(uow: UnitOfWork) -> None:
    for kind in ("network", "subnet", "port", "router", "floating_ip"):
        ident = an_id(kind)
        assert await dependents(uow, kind, ident) <= {f"{kind}:{ident}"}

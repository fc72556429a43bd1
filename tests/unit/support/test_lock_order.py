"""`tests.support.lock_order` sees what is locked out of order: a watchman asleep lets all pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import lock_order
from tests.support.builders import a_project
from tests.support.networks import a_network, a_port, a_subnet
from tests.support.store import a_store
from unkai_scheduler.store import networks, ports, projects, subnets
from unkai_scheduler.store.unit_of_work import Connection

FIRST, SECOND = (a_network(name=name) for name in ("n1", "n2"))
SUBNET = a_subnet(FIRST)
PORT = a_port(FIRST)
Work = Callable[[Connection], object]


def _network_after_its_subnet(conn: Connection) -> None:
    subnets.locked(conn, SUBNET.id)
    networks.held(conn, FIRST.id)


def _later_id_first(conn: Connection) -> None:
    networks.held(conn, SECOND.id)
    networks.held(conn, FIRST.id)


def _held_then_written(conn: Connection) -> None:
    networks.held(conn, FIRST.id)
    networks.replace(conn, FIRST, etag=None)


def _inserted_too_late(conn: Connection) -> None:
    projects.locked(conn, PORT.project_id)
    subnets.lock(conn, SUBNET.id)
    ports.insert(conn, PORT)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (_network_after_its_subnet, f"networks {FIRST.id} is held after subnets {SUBNET.id}"),
        (_later_id_first, f"networks {FIRST.id} is held after networks {SECOND.id}"),
        (_held_then_written, f"networks {FIRST.id} is written after it was held"),
        (_inserted_too_late, f"networks {FIRST.id} is named by ports after subnets {SUBNET.id}"),
    ],
)
async def test_what_is_locked_out_of_order_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Work, said: str
) -> None:
    order = await seen_of(work, tmp_path, monkeypatch)

    assert [what.splitlines()[0] for what in order.broken] == [said]


def _all_in_order(conn: Connection) -> None:
    other = a_project()
    projects.locked(conn, FIRST.project_id)
    projects.insert(conn, other)
    networks.lock(conn, [SECOND.id], [FIRST.id])
    networks.replace(conn, SECOND, etag=None)
    subnets.lock_of(conn, SECOND.id, FIRST.id)
    ports.insert(conn, PORT)
    ports.locked(conn, PORT.id)
    networks.insert(conn, a_network(project_id=other.id, name="late"))
    networks.held(conn, FIRST.id)


async def test_what_is_in_order_or_made_here_is_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await seen_of(_all_in_order, tmp_path, monkeypatch)

    assert not order.broken
    assert order.locked == {"projects", "networks", "subnets"}


async def seen_of(
    work: Work, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> lock_order.LockOrder:
    """Run work on two networks, and return what was seen of it."""
    monkeypatch.setattr(lock_order, "_OURS", ("/unkai_scheduler/store/",))
    async with a_store(folder) as uow:

        def prepare(conn: Connection) -> None:
            networks.insert(conn, FIRST)
            networks.insert(conn, SECOND)
            subnets.insert(conn, SUBNET)

        await uow.write(prepare)
        with lock_order.watched(monkeypatch) as order:
            await uow.write(work)
    return order

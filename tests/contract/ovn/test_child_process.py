"""The child process around a real ovsdb-server: what is killed, frozen and cut off comes right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from structlog.testing import capture_logs

from tests.support.acceptance import count, seeded
from tests.support.etcd import Authority
from tests.support.ovn import PATIENCE_S, OvsdbServer, mutation, program
from tests.support.ovn_members import applied, hearing, until_reached
from tests.support.ovn_units import gone, group, port, switch, uuid_of
from tests.support.ovn_worlds import RealWorld
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.rows import Outcome, Place, Unit
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_wire.errors import Unavailable

pytestmark = pytest.mark.real

NET = switch("net-1")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RealWorld]:
    made = await asyncio.to_thread(RealWorld, tmp_path)
    try:
        yield made
    finally:
        await made.close()


def children() -> list[psutil.Process]:
    """Return the child processes of this test."""
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "unkai_scheduler.ovn.child" in each.cmdline():
                found.append(each)
    return found


async def test_after_a_standstill_of_the_database_the_new_leaders_word_stands(
    world: RealWorld,
) -> None:
    for early in (False, True):
        old = await world.member(impatient=True)
        new = await world.member()
        term = 10 + 2 * early
        await old.apply(term, [NET, port("p1", "net-1")])
        world.server.freeze()
        late = await old.apply(term, [port("p1", "net-1", enabled=False), port("p2", "net-1")])
        assert set(late.values()) == {Outcome.UNKNOWN}
        wanted = [NET, port("p1", "net-1", enabled=True), gone(port("p2", "net-1"))]
        # Its first transaction waits in the same place as the late one, or comes after it.
        taking_over = asyncio.create_task(new.apply(term + 1, wanted)) if early else None
        await asyncio.sleep(0.1)
        world.server.thaw()
        found = await taking_over if taking_over else await new.apply(term + 1, wanted)
        assert set(found.values()) == {Outcome.DONE}
        before = await world.log()
        await until_reached(old)

        assert await world.log() == before
        assert await new.compare(wanted) == []
        assert set(await world.rows("Logical_Switch_Port")) == {uuid_of("p1")}


async def test_a_child_that_says_nothing_is_killed_and_followed_by_another(
    world: RealWorld,
) -> None:
    nb = await world.member(impatient=True)
    await nb.apply(1, [NET])
    (frozen,) = children()
    frozen.suspend()
    async with hearing(nb) as heard:
        found = await nb.apply(1, [port("p1", "net-1")])
        await heard.until(lambda: heard.everything)

    assert found == {"port:p1": Outcome.UNKNOWN}
    assert not psutil.pid_exists(frozen.pid)
    await applied(nb, 1, [port("p1", "net-1")])
    assert await nb.inventory() == {NET.key: 1, "port:p1": 1}


async def test_an_apply_that_is_given_up_does_not_go_on(world: RealWorld) -> None:
    nb = await world.member()
    await nb.apply(1, [NET])
    (busy,) = children()
    busy.suspend()
    asking = asyncio.create_task(nb.apply(1, [port("p1", "net-1")]))
    await asyncio.sleep(0.2)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await until_reached(nb)
    assert not psutil.pid_exists(busy.pid)
    assert not await world.rows("Logical_Switch_Port")


async def test_children_and_database_killed_at_random_moments_leave_everything_whole(
    world: RealWorld,
) -> None:
    rng = seeded("ovn kills")
    nb = await world.member(healthy_s=0.0)
    desired: dict[str, Unit] = {}
    unknown = kills = 0
    for _ in range(count(60, least=6)):
        change = some_change(rng)
        desired |= {unit.key: unit for unit in change}
        asking = asyncio.create_task(nb.apply(1, list(desired.values())))
        await asyncio.sleep(rng.uniform(0.0, 0.08))
        if rng.random() < 0.3:
            await world.stop()
            await world.start()
        else:
            for child in children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        kills += 1
        (found,) = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(found, dict | Unavailable), found
        unknown += isinstance(found, dict) and Outcome.UNKNOWN in found.values()
        await until_reached(nb)

    wanted = list(desired.values())
    await applied(nb, 1, wanted)

    assert await nb.compare(wanted) == []
    expected = {unit.key: len(unit.rows) for unit in wanted if unit.rows}
    assert await nb.inventory() == expected
    counts = [
        len(await world.rows(table))
        for table in ("Logical_Switch", "Logical_Switch_Port", "Port_Group", "ACL")
    ]
    assert sum(counts) == sum(expected.values())
    print(f"{kills} kills, {unknown} of the applies unknown, {sum(counts)} rows whole")


def some_change(rng: random.Random) -> list[Unit]:
    """Return a few units that come, change or go."""
    change = [NET, switch("net-2")]
    for name in rng.sample("abcdef", 3):
        rules = group(f"pg_{name}", rules=rng.randrange(30))
        change.append(rules)
    for number in rng.sample(range(60), 30):
        groups = tuple(f"pg_{name}" for name in rng.sample("abcdef", rng.randrange(3)))
        change += [group(name) for name in groups]
        one = port(f"p{number}", rng.choice(["net-1", "net-2"]), groups, enabled=rng.random() < 0.5)
        change.append(gone(one) if rng.random() < 0.3 else one)
    return list({unit.key: unit for unit in change}.values())


async def test_a_port_that_others_make_while_its_switch_goes_is_not_lost(world: RealWorld) -> None:
    nb = await world.member()
    insert = {"op": "insert", "table": "Logical_Switch_Port", "row": {"name": "theirs"}}
    first = 0
    for _ in range(count(200)):
        await applied(nb, 1, [NET])
        uuid = uuid4()
        joins = mutation(Place("Logical_Switch", uuid_of("net-1"), "ports"), "insert", uuid)
        found, answer = await asyncio.gather(
            nb.apply(1, [gone(NET)]),
            asyncio.to_thread(world.server.transact, {**insert, "uuid": str(uuid)}, joins),
        )
        joined = answer[1]["count"]

        assert len(await world.rows("Logical_Switch_Port")) == joined
        assert found == {NET.key: Outcome.IN_USE if joined else Outcome.DONE}
        if joined:
            first += 1
            leaves = mutation(Place("Logical_Switch", uuid_of("net-1"), "ports"), "delete", uuid)
            await asyncio.to_thread(world.server.transact, leaves)
    print(f"{first} ports came before their switch was gone")


async def test_a_row_is_made_again_where_a_reference_to_it_was_left_behind(
    world: RealWorld,
) -> None:
    """Such as ovsdb-server 3.1 leaves: it would die of the row that comes back."""
    nb = await world.member()
    one, other = port("p1", "net-1", ("pg_a",)), port("p2", "net-1")
    await nb.apply(1, [NET, group("pg_a"), one, other])
    # The group is changed, and the port goes for want of a parent, in one transaction.
    members = Place("Port_Group", uuid_of("pg_a"), "ports")
    await asyncio.to_thread(
        world.server.transact,
        mutation(members, "insert", uuid_of("p2")),
        mutation(Place("Logical_Switch", uuid_of("net-1"), "ports"), "delete", uuid_of("p1")),
    )
    if uuid_of("p1") not in (await world.rows("Port_Group"))[members.uuid]["ports"]:
        pytest.skip("this ovsdb-server leaves no reference behind")

    await applied(nb, 1, [one])

    assert await nb.compare([NET, one]) == []
    assert (await world.rows("Port_Group"))[members.uuid]["ports"] >= {uuid_of("p1")}


async def test_a_thousand_ports_are_applied_and_one_changed_port_writes_its_row(
    world: RealWorld,
) -> None:
    nb = await world.member()
    nets = [switch(f"net-{n}") for n in range(100)]
    ports = [port(f"p{n}", f"net-{n % 100}", ("pg_drop",)) for n in range(1000)]
    units = [group("pg_drop", rules=8), *nets, *ports]

    began = time.monotonic()
    found = await nb.apply(1, units)
    took_s = time.monotonic() - began

    assert set(found.values()) == {Outcome.DONE}
    before = len(await world.log())
    began = time.monotonic()
    await nb.apply(1, [port("p7", "net-7", ("pg_drop",), enabled=False)])
    one_s = time.monotonic() - began
    (record,) = (await world.log())[before:]
    assert {(ref.table, ref.uuid) for ref in record} == {("Logical_Switch_Port", uuid_of("p7"))}
    began = time.monotonic()
    ports[7] = port("p7", "net-7", ("pg_drop",), enabled=True)
    assert await nb.compare([group("pg_drop", rules=8), *nets, *ports]) == ["port:p7"]
    compare_s = time.monotonic() - began
    (child,) = children()
    print(
        f"1,000 ports on 100 networks: applied in {took_s:.2f} s and {before - 1} transactions, "
        f"one changed in {one_s * 1000:.0f} ms, all compared in {compare_s:.2f} s, "
        f"child {child.memory_info().rss >> 20} MiB"
    )


async def test_the_database_is_asked_over_tls_when_it_has_the_right_name(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "pki")
    server = OvsdbServer(tmp_path, tls=authority.issue("ovn", dns=("northbound",)))
    files = authority.issue("scheduler")
    await asyncio.to_thread(server.start)

    def member(server_name: str) -> OvnNorthbound:
        return OvnNorthbound(
            OvnSettings(
                (server.remote,), files.certificate, files.key, files.ca, server_name=server_name
            )
        )

    by_name, by_address, wrong = member("northbound"), member(""), member("somebody-else")
    try:
        with capture_logs() as logs:
            for each in (by_name, by_address, wrong):
                each.start()
            await until_reached(by_name)
            await until_reached(by_address)
            said = "the server's certificate is for ['127.0.0.1', 'northbound'], not somebody-else"
            async with asyncio.timeout(PATIENCE_S):
                while not any(log.get("text") == said for log in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        assert await by_name.apply(1, [NET]) == {NET.key: Outcome.DONE}
        # Its own picture of the database follows the other's transaction in a moment.
        async with asyncio.timeout(PATIENCE_S):
            while await by_address.compare([NET]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        with pytest.raises(Unavailable):
            await wrong.inventory()
    finally:
        await asyncio.gather(by_name.close(), by_address.close(), wrong.close())
        await asyncio.to_thread(server.stop)


async def test_another_authoritys_server_is_not_spoken_to(tmp_path: Path) -> None:
    server = OvsdbServer(tmp_path, tls=Authority.make(tmp_path / "theirs").issue("ovn"))
    await asyncio.to_thread(server.start)
    own = Authority.make(tmp_path / "ours")
    files = own.issue("scheduler")
    nb = OvnNorthbound(OvnSettings((server.remote,), files.certificate, files.key, files.ca))
    nb.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with pytest.raises(Unavailable) as refused:
                    await nb.inventory()
                if "Could not retrieve schema" in refused.value.metadata["why"]:
                    break
                await asyncio.sleep(0.05)
    finally:
        await nb.close()
        await asyncio.to_thread(server.stop)


PARENT = """
import asyncio, sys
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.settings import OvnSettings

async def main():
    nb = OvnNorthbound(OvnSettings((sys.argv[1],)))
    nb.start()
    async for _ in nb.changes():
        print("heard", flush=True)

asyncio.run(main())
"""


def test_no_child_outlives_its_parent(tmp_path: Path) -> None:
    program("ovsdb-server")
    remote = f"unix:{tmp_path / 'nobody.sock'}"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, remote], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        deadline = time.monotonic() + PATIENCE_S
        while not (orphans := psutil.Process(parent.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(orphans, PATIENCE_S)
    assert not alive


async def test_closing_ends_the_child(world: RealWorld) -> None:
    nb = await world.member()
    (child,) = children()

    await nb.close()

    assert not psutil.pid_exists(child.pid)
    with pytest.raises(Unavailable):
        await nb.inventory()

"""The independent checker is not blind: each kind of what must not be is planted, and found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.agent import a_fence, a_spec
from tests.support.builders import (
    NOON,
    a_claim,
    a_host,
    a_key_pair,
    an_event,
    an_id,
    an_instance,
    an_operation,
)
from tests.support.checker import check
from tests.support.evidence import half_made, ledger_of
from tests.support.findings import Kind
from tests.support.raw_rows import read_tables
from tests.support.sights import Held, HostSight, Rules, Sight, uuid_of
from tests.support.store import a_store
from unkai_agent.ledger import Ledger
from unkai_scheduler.domain.instances import InstanceState, Power
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.operations import OperationState, Verb
from unkai_scheduler.store import (
    claims,
    events,
    hosts,
    instances,
    key_pairs,
    operations,
    requests,
    tombstones,
)
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire import ids

HOSTS = a_host(name="h1"), a_host(name="h2", cpus=2)
KEY = a_key_pair()
RUNNING = an_instance(
    state=InstanceState.RUNNING, has_run=True, labels={"tier": "web"}, key_pair_ids=(KEY.id,)
)
STOPPED = an_instance(state=InstanceState.STOPPED, desired_power=Power.OFF, has_run=True)
GONE = an_id("instance")
STRANGER = an_id("instance")
MADE = {"state": OperationState.SUCCEEDED, "end_time": NOON}


@dataclass
class Scene:
    """A small cloud in which all is well, until a test plants something."""

    path: Path
    sight: Sight = field(init=False)

    def __post_init__(self) -> None:
        first, second = (
            HostSight(
                host.name,
                ledger={row.id: Held(1, 1)},
                tombstones={GONE: Held(2, 1)},
                reported={row.id: Held(1, 1, row.state.value)},
                folders={row.id},
                domains={uuid_of(row.id): row.state is InstanceState.RUNNING},
            )
            for host, row in zip(HOSTS, (RUNNING, STOPPED), strict=True)
        )
        self.sight = Sight(
            {},
            hosts=[first, second],
            processes=[(uuid_of(RUNNING.id), 101)],
            keys={
                **{f"/unkai/v1/hosts/{host.id}": {} for host in HOSTS},
                "/unkai/v1/schedulers/s1": {"name": "s1"},
                "/unkai/v1/leader": {"name": "s1"},
            },
        )

    def sql(self, statement: str, *values: object) -> None:
        """Write behind the product's back."""
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("PRAGMA synchronous = OFF")
            db.execute(statement, values)

    def host(self, place: int, **changes: object) -> None:
        """Let a host be seen otherwise."""
        hosts = list(self.sight.hosts)
        hosts[place] = replace(hosts[place], **changes)
        self.sight = replace(self.sight, hosts=hosts)

    def keys(self, **changes: object) -> None:
        """Let etcd's keys be otherwise; None: gone. `__` in a name stands for `/`."""
        keys = dict(self.sight.keys or {})
        for name, value in changes.items():
            key = "/unkai/v1/" + name.replace("__", "/")
            keys.pop(key, None) if value is None else keys.update({key: value})
        self.sight = replace(self.sight, keys=keys)

    def kinds(self, rules: Rules = Rules()) -> set[Kind]:  # noqa: B008 - frozen
        """Return the kinds of what the checker finds."""
        tables = read_tables(f"sqlite:///{self.path}")
        return {finding.kind for finding in check(replace(self.sight, tables=tables), rules)}


def _write_scene(conn: Connection) -> None:
    for host in HOSTS:
        hosts.insert(conn, host)
    key_pairs.insert(conn, KEY)
    for host, row in zip(HOSTS, (RUNNING, STOPPED), strict=True):
        instances.insert(conn, row)
        claims.insert(conn, [a_claim(row, host)])
        made = an_operation(resource_id=row.id, request_id=f"r-{row.id}", **MADE)
        operations.insert(conn, made)
        answer = {"operation": {"id": made.id}}
        requests.remember(conn, f"r-{row.id}", "me", "Create", "digest", answer, NOON)
    for verb in (Verb.CREATE, Verb.DELETE):
        operations.insert(conn, an_operation(resource_id=GONE, verb=verb, **MADE))
    tombstones.insert(conn, Tombstone(GONE, HOSTS[0].id, 2, 1, NOON))
    events.insert(conn, an_event())
    events.insert(conn, an_event())
    events.stamp(conn, 10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database's file, made once: migrating costs more than a test."""
    folder = tmp_path_factory.mktemp("whole")

    async def make() -> None:
        async with a_store(folder) as uow:
            await uow.write(_write_scene)

    asyncio.run(make())
    return (folder / "unkai.db").read_bytes()


@pytest.fixture
def scene(whole: bytes, tmp_path: Path) -> Scene:
    (tmp_path / "unkai.db").write_bytes(whole)
    return Scene(tmp_path / "unkai.db")


Plant = Callable[[Scene], None]


def sql(statement: str, *values: object) -> Plant:
    return lambda scene: scene.sql(statement, *values)


def host(place: int, **changes: object) -> Plant:
    return lambda scene: scene.host(place, **changes)


def keys(**changes: object) -> Plant:
    return lambda scene: scene.keys(**changes)


def processes(*found: tuple[str, int]) -> Plant:
    def plant(scene: Scene) -> None:
        scene.sight = replace(scene.sight, processes=found)

    return plant


def of(row: object, column: str, value: object) -> Plant:
    return sql(f"UPDATE instances SET {column} = ? WHERE id = ?", value, row.id)  # type: ignore[attr-defined]


PLANTS: list[tuple[Kind, Plant]] = [
    (Kind.OPERATION_UNDER_WAY, sql("UPDATE operations SET state='RUNNING', end_time=NULL")),
    (Kind.OPERATION_HALF_ENDED, sql("UPDATE operations SET state='RUNNING'")),
    (Kind.OPERATION_HALF_ENDED, sql("UPDATE operations SET end_time=NULL")),
    *[
        (Kind.INSTANCE_UNSETTLED, of(RUNNING, "state", state))
        for state in ("PROVISIONING", "DELETING", "UNKNOWN", "LOST", "FAILED", "STARTING")
    ],
    (Kind.INSTANCE_WITHOUT_CLAIM, sql("DELETE FROM claims WHERE instance_id=?", RUNNING.id)),
    (Kind.INSTANCE_GONE, sql("DELETE FROM instances WHERE id=?", RUNNING.id)),
    (Kind.INSTANCE_RISEN, sql("UPDATE operations SET verb='DELETE'")),
    (Kind.FAILED_HOLDS, sql("UPDATE instances SET state='FAILED', has_run=0")),
    (Kind.POWER_AT_ODDS, of(RUNNING, "desired_power", "OFF")),
    (Kind.POWER_AT_ODDS, of(STOPPED, "desired_power", "ON")),
    (Kind.CLAIM_WITHOUT_INSTANCE, sql("DELETE FROM instances WHERE id=?", RUNNING.id)),
    (Kind.CLAIM_ON_NO_HOST, sql("DELETE FROM hosts WHERE name='h1'")),
    *[
        (Kind.CLAIM_AT_ODDS, sql(f"UPDATE claims SET {figure} = {figure} + 1"))
        for figure in ("vcpus", "memory_bytes", "disk_bytes", "run_epoch")
    ],
    *[
        (Kind.CLAIM_WITHOUT_MACHINE, host(0, **{witness: {}}))
        for witness in ("ledger", "reported", "folders", "domains")
    ],
    *[
        (Kind.MACHINE_WITHOUT_INSTANCE, host(1, **{witness: {STOPPED.id: there, STRANGER: there}}))
        for witness, there in (("ledger", Held(1, 1)), ("reported", Held(1, 1)), ("folders", 1))
    ],
    (
        Kind.MACHINE_WITHOUT_INSTANCE,
        host(1, domains={uuid_of(STOPPED.id): False, uuid_of(STRANGER): False}),
    ),
    *[
        (Kind.MACHINE_UNCLAIMED, host(1, **{witness: {STOPPED.id: there, RUNNING.id: there}}))
        for witness, there in (("ledger", Held(1, 1)), ("reported", Held(1, 1)), ("folders", 1))
    ],
    (
        Kind.MACHINE_UNCLAIMED,
        host(1, domains={uuid_of(STOPPED.id): False, uuid_of(RUNNING.id): False}),
    ),
    (Kind.MACHINE_TWICE, host(1, folders={STOPPED.id, RUNNING.id})),
    (Kind.MACHINE_TWICE, host(1, domains={uuid_of(RUNNING.id): True})),
    (Kind.MACHINE_AT_ODDS, host(0, ledger={RUNNING.id: Held(2, 1)})),
    (Kind.MACHINE_AT_ODDS, host(0, reported={RUNNING.id: Held(1, 2, "RUNNING")})),
    (Kind.MACHINE_AT_ODDS, host(0, reported={RUNNING.id: Held(1, 1, "STOPPED")})),
    (Kind.MACHINE_AT_ODDS, host(0, domains={uuid_of(RUNNING.id): False})),
    (Kind.MACHINE_AT_ODDS, host(1, domains={uuid_of(STOPPED.id): True})),
    (Kind.MACHINE_AND_TOMBSTONE, host(0, tombstones={RUNNING.id: Held(1, 1)})),
    (Kind.QEMU_TWICE, processes((uuid_of(RUNNING.id), 101), (uuid_of(RUNNING.id), 102))),
    (
        Kind.QEMU_WITHOUT_INSTANCE,
        processes((uuid_of(RUNNING.id), 101), (uuid_of(STRANGER), 102)),
    ),
    (
        Kind.QEMU_WITHOUT_INSTANCE,
        processes((uuid_of(RUNNING.id), 101), (uuid_of(STOPPED.id), 102)),
    ),
    (Kind.QEMU_MISSING, processes()),
    (Kind.HALF_MADE_FILE, host(0, half_made=["/x/images/a.part"])),
    (Kind.LEDGER_CORRUPT, host(0, corrupt=["/x/ledger/corrupt/ins-1.json"])),
    (Kind.HOST_OVERSOLD, sql("UPDATE claims SET vcpus = 9")),
    (Kind.HOST_OVERSOLD, sql("UPDATE claims SET memory_bytes = memory_bytes * 1000")),
    (Kind.HOST_OVERSOLD, sql("UPDATE claims SET disk_bytes = disk_bytes * 10000")),
    (Kind.HOST_NOT_UP, sql("UPDATE hosts SET state='LOST' WHERE name='h2'")),
    (Kind.HOST_UNSEEN, host(1, unseen="virsh does not answer")),
    (Kind.HOST_UNSEEN, host(1, name="h9")),
    (Kind.EVENT_UNSTAMPED, sql("UPDATE events SET number=NULL WHERE number=2")),
    (Kind.EVENT_NUMBERS, sql("DELETE FROM events WHERE number=1")),
    (Kind.EVENT_NUMBERS, sql("UPDATE events SET number=7 WHERE number=2")),
    (Kind.ROW_DANGLING, sql("DELETE FROM instance_labels")),
    (Kind.ROW_DANGLING, sql("INSERT INTO instance_labels VALUES (?,'a','b')", STRANGER)),
    (Kind.ROW_DANGLING, sql("DELETE FROM instance_key_pairs")),
    (Kind.ROW_DANGLING, sql("INSERT INTO instance_key_pairs VALUES (?,?)", STRANGER, KEY.id)),
    (Kind.ROW_DANGLING, of(RUNNING, "project_id", an_id("project"))),
    (Kind.ROW_DANGLING, of(RUNNING, "operation_id", an_id("operation"))),
    (Kind.REQUEST_TWICE, sql("UPDATE operations SET request_id='r-1'")),
    (Kind.REQUEST_UNKEPT, sql("DELETE FROM operations WHERE resource_id=?", RUNNING.id)),
    (
        Kind.TOMBSTONE_AT_ODDS,
        sql("INSERT INTO tombstones VALUES (?,?,1,1,'2026-01-01')", RUNNING.id, HOSTS[0].id),
    ),
    (Kind.TOMBSTONE_AT_ODDS, sql("UPDATE tombstones SET generation=0")),
    (Kind.TOMBSTONE_AT_ODDS, host(0, tombstones={RUNNING.id: Held(3, 1)})),
    (Kind.KEY_OF_NOBODY, keys(stray={})),
    (Kind.KEY_OF_NOBODY, keys(**{f"hosts__{an_id('host')}": {}})),
    (Kind.KEY_OF_NOBODY, keys(schedulers__s2={})),
    (Kind.KEY_MISSING, keys(**{f"hosts__{HOSTS[0].id}": None})),
    (Kind.KEY_MISSING, keys(leader=None)),
    (Kind.KEY_MISSING, keys(leader={"name": "s9"})),
    (Kind.KEY_MISSING, keys(schedulers__s1=None)),
]


def test_a_cloud_in_which_all_is_well_has_no_findings(scene: Scene) -> None:
    assert scene.kinds() == set()


@pytest.mark.parametrize(
    ("kind", "plant"), PLANTS, ids=[f"{n}-{kind.name}" for n, (kind, _) in enumerate(PLANTS)]
)
def test_what_must_not_be_is_found(scene: Scene, kind: Kind, plant: Plant) -> None:
    plant(scene)

    assert kind in scene.kinds()


def test_every_kind_is_planted() -> None:
    assert {kind for kind, _ in PLANTS} == set(Kind)


def test_a_failed_create_that_holds_nothing_may_be_allowed(scene: Scene) -> None:
    scene.sql("DELETE FROM claims WHERE instance_id=?", STOPPED.id)
    scene.sql("UPDATE instances SET state='FAILED', has_run=0 WHERE id=?", STOPPED.id)
    nothing = {"ledger": {}, "reported": {}, "folders": (), "domains": {}}
    scene.host(1, **nothing)

    assert scene.kinds() == {Kind.INSTANCE_UNSETTLED}
    assert scene.kinds(Rules(lasting=frozenset({"RUNNING", "FAILED"}))) == set()


def test_an_id_holds_its_uuid() -> None:
    assert uuid_of(RUNNING.id) == str(ids.uuid_of(RUNNING.id))


def test_a_ledger_on_disk_is_read_as_the_agent_wrote_it(tmp_path: Path) -> None:
    spec = a_spec(generation=3, run_epoch=2)
    Ledger(tmp_path).accept(a_fence(spec), spec)
    (tmp_path / "machines" / "x.json.tmp").touch()

    assert ledger_of(tmp_path) == {spec.instance_id: Held(3, 2)}
    assert half_made(tmp_path) == [str(tmp_path / "machines" / "x.json.tmp")]


def test_json_of_rows_is_read(scene: Scene) -> None:
    tables = read_tables(f"sqlite:///{scene.path}")

    assert json.loads(json.dumps(tables, default=str))["instances"][0]["labels"] == {"tier": "web"}

"""Migrations on each database: the tables they make, what an old filled one keeps, broken ones."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, event, insert, inspect, select, text

from tests.support import databases
from tests.support.acceptance import Shows, count, seeded
from tests.support.builders import (
    NOON,
    a_claim,
    a_flavor,
    a_host,
    a_key_pair,
    a_placement_group,
    a_project,
    an_aggregate,
    an_event,
    an_image,
    an_instance,
    an_operation,
)
from tests.support.networks import (
    a_floating_ip,
    a_group,
    a_load_balancer,
    a_router,
    a_rule,
    add_network,
    add_port,
)
from tests.support.store import a_store
from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.domain.load_balancers import BalancedProtocol, HealthCheck, Listener, Member
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.domain.routers import Gateway, RouterInterface
from unkai_scheduler.store import (
    aggregates,
    claims,
    events,
    flavors,
    floating_ips,
    hosts,
    images,
    instances,
    key_pairs,
    load_balancers,
    migrations,
    operations,
    ovn_work,
    placement_groups,
    projects,
    requests,
    routers,
    security_groups,
    sqlite,
    tombstones,
)
from unkai_scheduler.store.server_unit_of_work import run_alone, server_of
from unkai_scheduler.store.tables import metadata

T = TypeVar("T")
OLD_REVISIONS = [step[0] for step in migrations.steps_from(None)][:-1]
FILLED_BY_MIGRATIONS = {"instance_key_pairs"}
UNFILLED = {"settlements", "uploads", "alembic_version"}


def on(settings: DatabaseSettings, work: Callable[[Connection], T]) -> T:
    """Run work in one transaction, with the lock of those who migrate."""
    if settings.kind != "sqlite":
        return run_alone(server_of(settings), settings, work)
    engine = sqlite.writer_engine(settings.url)
    try:
        with engine.connect() as conn, conn.begin():
            return work(conn)
    finally:
        engine.dispose()


def move_to(conn: Connection, revision: str, *, down: bool = False) -> None:
    config = migrations.config()
    config.attributes["connection"] = conn
    (command.downgrade if down else command.upgrade)(config, revision)


def an_empty_database(folder: Path, number: int = 0) -> DatabaseSettings:
    if databases.kind() == databases.SQLITE:
        return DatabaseSettings(url=f"sqlite:///{folder}/empty-{number}.db")
    running = databases.server(databases.kind())
    return DatabaseSettings(url=running.url(running.new()))


def fill(conn: Connection) -> None:
    """Write some of everything."""
    host, flavor, image = a_host(), a_flavor(), an_image()
    pairs, group = [a_key_pair(), a_key_pair()], a_placement_group()
    named = an_instance(
        flavor_id=flavor.id,
        image_id=image.id,
        key_pair_ids=tuple(pair.id for pair in pairs),
        labels={"tier": "web", "empty": ""},
        state_reason={"reason": "雲海"},
        user_data=b"\x00\xff#!/bin/sh",
        due_time=NOON + timedelta(microseconds=1),
    )
    hosts.insert(conn, host)
    project = a_project()
    projects.insert(conn, project)
    aggregates.insert(
        conn, an_aggregate(host_ids=(host.id,), project_ids=(project.id,), traits=("SSD",))
    )
    flavors.insert(conn, flavor)
    images.insert(conn, image)
    placement_groups.insert(conn, group)
    for pair in pairs:
        key_pairs.insert(conn, pair)
    for row in (named, an_instance()):
        instances.insert(conn, row)
        operations.insert(conn, an_operation(resource_id=row.id))
        events.insert(conn, an_event(resource_id=row.id, attributes={"a": "b"}))
    claims.insert(conn, [a_claim(named, host)])
    tombstones.insert(conn, Tombstone("ins-gone", host.id, 3, 2, NOON))
    requests.remember(conn, "r-1", "client:ada", "/m", "digest", {"n": [1, None]}, NOON)
    events.stamp(conn, 1)
    fill_networks(conn)


def fill_networks(conn: Connection) -> None:
    """Write some of everything that networks are made of."""
    network, subnet_id = add_network(conn, is_default=True, labels={"a": "雲海"})
    group, router = a_group(), a_router()
    group = replace(group, rules=(a_rule(), a_rule(remote_group_id=group.id)))
    security_groups.insert(conn, group)
    gateway, place, own, holder, port = (
        add_port(conn, network, subnet_id, security_group_ids=(group.id,)) for _ in range(5)
    )
    places = (RouterInterface(subnet_id, place.id, ""),)
    router = replace(router, gateway=Gateway(network.id, gateway.id, ()), interfaces=places)
    routers.insert(conn, router)
    led = {"port_id": port.id, "fixed_address": port.addresses[0].address}
    floating_ips.insert(conn, a_floating_ip(holder, router_id=router.id, **led))
    listener = Listener(BalancedProtocol.TCP, 443, (Member(port.id, 443),), HealthCheck())
    load_balancers.insert(conn, a_load_balancer(own, listeners=(listener,)))
    ovn_work.mark(conn, [f"port:{port.id}"], NOON, "made")
    ovn_work.entomb(conn, ["port:prt-gone"], NOON)


def raw_rows(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables of this version."""
    return {
        table.name: [dict(row) for row in conn.execute(select(table)).mappings()]
        for table in metadata.sorted_tables
    }


def put_rows(
    conn: Connection, rows: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Write rows into whichever of their tables and columns a revision has.

    Return what the head then has: no rows of a table that is new, unless its migration fills it.
    """
    there = MetaData()
    there.reflect(conn)
    kept = there.tables.keys() | FILLED_BY_MIGRATIONS
    expected = {name: found if name in kept else [] for name, found in rows.items()}
    for table in metadata.sorted_tables:
        if table.name in there.tables and rows[table.name]:
            known = [
                column for column in table.columns if column.name in there.tables[table.name].c
            ]
            values = [{c.name: row[c.name] for c in known} for row in rows[table.name]]
            conn.execute(insert(table), values)
    return expected


def ordered(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {
        name: sorted(repr(sorted(row.items())) for row in found)
        for name, found in rows.items()
        if name not in UNFILLED
    }


async def filled(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a database of this version that has some of everything."""
    async with a_store(folder) as uow:
        await uow.write(fill)
        return await uow.read(raw_rows)


async def test_migrations_make_exactly_the_tables(tmp_path: Path, database: str) -> None:
    settings = an_empty_database(tmp_path)

    def differs(_context: object, column: Any, *_types: Any) -> bool | None:
        # MariaDB has names of its own for a double and for bytes above 65,535.
        doubles = {"stop_grace_s", "cpu_ratio", "memory_ratio", "disk_ratio"}
        aliased = database == "mariadb" and column.name in {*doubles, "user_data"}
        return False if aliased else None

    def work(conn: Connection) -> list[Any]:
        migrations.upgrade_on(conn)
        context = MigrationContext.configure(conn, opts={"compare_type": differs})
        return list(compare_metadata(context, metadata))

    assert await asyncio.to_thread(on, settings, work) == []
    if database == "mariadb":
        assert await asyncio.to_thread(on, settings, collations) == {"utf8mb4_bin"}


def collations(conn: Connection) -> set[str]:
    """Return how MariaDB compares the texts of all tables: any script, capitals apart."""
    asked = "SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE()"
    return {collation for (collation,) in conn.execute(text(asked)) if collation is not None}


async def test_the_schema_can_be_taken_back_to_nothing(tmp_path: Path) -> None:
    settings = an_empty_database(tmp_path)

    def work(conn: Connection) -> list[str]:
        migrations.upgrade_on(conn)
        move_to(conn, "base", down=True)
        return inspect(conn).get_table_names()

    assert await asyncio.to_thread(on, settings, work) == ["alembic_version"]


@pytest.mark.parametrize("revision", OLD_REVISIONS)
async def test_a_filled_database_of_each_earlier_revision_is_brought_to_the_head(
    tmp_path: Path, revision: str, database: str, shows: Shows
) -> None:
    rows = await filled(tmp_path)
    old = an_empty_database(tmp_path)

    def make(conn: Connection) -> dict[str, list[dict[str, Any]]]:
        move_to(conn, revision)
        return put_rows(conn, rows)

    def upgrade(conn: Connection) -> dict[str, list[dict[str, Any]]]:
        migrations.upgrade_on(conn)
        assert migrations.revision_on(conn) == migrations.head_revision()
        return raw_rows(conn)

    expected = await asyncio.to_thread(on, old, make)
    after = await asyncio.to_thread(on, old, upgrade)

    assert ordered(after) == ordered(expected)
    counted = sum(len(found) for found in expected.values())
    shows(f"solid 11 migration {revision} {database}", f"to the head with {counted} rows, all kept")


async def test_a_migration_that_broke_off_anywhere_goes_on_to_the_head(
    tmp_path: Path, database: str
) -> None:
    """After any of its statements the process may end; on MariaDB that statement has stayed."""
    rows = await filled(tmp_path)

    def make(conn: Connection) -> dict[str, list[dict[str, Any]]]:
        move_to(conn, OLD_REVISIONS[0])
        return put_rows(conn, rows)

    def upgrade(conn: Connection, ends_after: int) -> int:
        """Return how many statements there were; raise after so many."""
        done = 0

        def tell(*_arguments: Any) -> None:
            nonlocal done
            done += 1
            if done == ends_after:
                raise RuntimeError("power cut")

        event.listen(conn, "after_cursor_execute", tell)
        migrations.upgrade_on(conn)
        return done

    whole = an_empty_database(tmp_path)
    expected = await asyncio.to_thread(on, whole, make)
    statements = await asyncio.to_thread(on, whole, lambda conn: upgrade(conn, -1))
    places = list(range(1, statements + 1))
    seeded(f"migrations {database}").shuffle(places)
    for number, place in enumerate(places[: count(statements, least=5)], start=1):
        broken = an_empty_database(tmp_path, number)
        await asyncio.to_thread(on, broken, make)
        with pytest.raises(RuntimeError, match="power cut"):
            await asyncio.to_thread(on, broken, lambda conn, p=place: upgrade(conn, p))
        gc.collect()
        await asyncio.to_thread(on, broken, lambda conn: upgrade(conn, -1))

        after = await asyncio.to_thread(on, broken, raw_rows)
        assert ordered(after) == ordered(expected), place
    assert statements > 5

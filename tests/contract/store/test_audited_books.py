"""What the audit reads: a host that tells of thousands of machines costs a few statements.

A read has seconds. With a statement for each machine, a database restored from far back would never
be audited, and nothing that hosts hold could be adopted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from tests.support.builders import NOON, a_claim, a_host, an_id, an_instance
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.reconcile.audit import books_of
from unkai_scheduler.reconcile.findings import Books
from unkai_scheduler.store import claims, hosts, instances, tombstones
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork

MANY = 1200
MOST_STATEMENTS = 20
HOST = a_host()


def a_machine(ident: str) -> Machine:
    return Machine(ident, HOST.id, 1, 1, 1, MachineState.RUNNING, name="web")


def a_stone(ident: str) -> Tombstone:
    return Tombstone(ident, HOST.id, 1, 1, NOON)


async def test_thousands_of_orphans_and_tombstones_are_looked_up_in_a_few_statements(
    uow: UnitOfWork,
) -> None:
    claimed, failed = an_instance(name="claimed"), an_instance(name="failed")
    orphans = [an_id("instance") for _ in range(MANY)]
    removed = [an_id("instance") for _ in range(MANY)]
    recorded = [a_stone(removed[0]), a_stone(orphans[-1])]

    def fill(conn: Connection) -> None:
        hosts.insert(conn, HOST)
        for row in (claimed, failed):
            instances.insert(conn, row)
        claims.insert(conn, [a_claim(claimed, HOST)])
        for stone in recorded:
            tombstones.insert(conn, stone)

    await uow.write(fill)
    held = [a_machine(ident) for ident in (*orphans, claimed.id, failed.id)]
    buried = [a_stone(ident) for ident in removed]
    statements: list[str] = []

    def look(conn: Connection) -> Books:
        def count(_conn: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            statements.append(statement)

        event.listen(conn, "before_cursor_execute", count)
        return books_of(conn, held, buried, frozenset({HOST.id}), AllocationRatios())

    books = await uow.read(look)

    assert 0 < len(statements) <= MOST_STATEMENTS
    assert set(books.rows) == {claimed.id, failed.id}
    assert books.rows[claimed.id].host_id == HOST.id
    assert books.known == {stone.instance_id: [stone] for stone in recorded}
    assert set(books.hosts) == {HOST.id}

"""A process that uses the store while a test does it harm: `python -m tests.support.store_child`.

`write FOLDER`: insert pairs of instance and operation for ever, in groups; print each instance's id
when its pair is committed. `fill FOLDER`: in a folder on a small disk, write until it is full, make
room, go on; print what happened as JSON. `lead FOLDER TERM`: insert an instance under a term,
slowly, print `inside` in the middle, then what came of it; once more after a line of input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tests.support.builders import MIB, an_instance, an_operation
from tests.support.store import a_store
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.store import instances, operations
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire import ids
from unkai_wire.errors import Unavailable, UnkaiError

WRITERS = 8


def _insert_pair(instance: Instance) -> Callable[[Connection], None]:
    operation = an_operation(id=ids.new_id("operation"), resource_id=instance.id)

    def work(conn: Connection) -> None:
        instances.insert(conn, instance)
        operations.insert(conn, operation)

    return work


async def write(folder: Path) -> None:
    """Insert pairs until killed."""

    async def insert_for_ever(uow: UnitOfWork) -> None:
        while True:
            ident = ids.new_id("instance")
            instance = an_instance(id=ident, name="vm" + ident.removeprefix("ins"))
            await uow.write_grouped(_insert_pair(instance))
            sys.stdout.write(instance.id + "\n")
            sys.stdout.flush()

    async with a_store(folder) as uow, asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(insert_for_ever(uow))


async def fill(folder: Path) -> None:
    """Write until the disk is full, make room, and go on."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * MIB)
    async with a_store(folder) as uow:
        done = 0
        reasons: list[str] = []
        while len(reasons) < 3 and done < 10_000:
            row = an_instance(user_data=b"x" * 60_000)
            try:
                await uow.write_grouped(_insert_pair(row))
                done += 1
            except Unavailable as error:
                reasons.append(error.reason)
        kept_when_full = await uow.read(_count)
        ballast.unlink()
        await uow.write(_insert_pair(an_instance(user_data=b"x" * 60_000)))
        kept_after = await uow.read(_count)
    async with a_store(folder) as uow:
        kept_reopened = await uow.read(_count)
    told = {
        "done": done,
        "reasons": reasons,
        "kept_when_full": kept_when_full,
        "kept_after": kept_after,
        "kept_reopened": kept_reopened,
    }
    sys.stdout.write(json.dumps(told) + "\n")


async def lead(folder: Path, term: str) -> None:
    """Write under a term, twice."""

    def slowly(conn: Connection) -> None:
        instances.insert(conn, an_instance(id=ids.new_id("instance")))
        sys.stdout.write("inside\n")
        sys.stdout.flush()
        time.sleep(0.5)

    def at_once(conn: Connection) -> None:
        instances.insert(conn, an_instance(id=ids.new_id("instance")))

    async with a_store(folder) as uow:
        for work in (slowly, at_once):
            try:
                await uow.lead(int(term), work)
                answer = "done"
            except UnkaiError as error:
                answer = error.reason
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()
            if work is slowly:
                await asyncio.to_thread(sys.stdin.readline)


def _count(conn: Connection) -> list[int]:
    page = instances.list_page(conn, after=None, limit=100_000)
    return [len(page), len(operations.list_page(conn, after=None, limit=100_000))]


if __name__ == "__main__":
    acts: dict[str, Any] = {"write": write, "fill": fill, "lead": lead}
    asyncio.run(acts[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))

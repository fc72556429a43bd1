"""Watchers that are cut off again and again, and resumed at any scheduler, see all, once, in order.

Two schedulers serve one database over real gRPC; the product's own sequencer stamps what writers
at both insert, in transactions of any size. Watchers are cut at random events, in mid-stream, and
with the scheduler that served them, and come back with the last revision that they were told.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support import databases
from tests.support.acceptance import Shows, count, seeded
from tests.support.api import Api, an_api, refused
from tests.support.builders import an_event
from tests.support.store import noon, open_store
from unkai.event.v1 import event_service_pb2 as pb
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.reconcile.events import Sequencer
from unkai_scheduler.reconcile.hearsay import Hearsay
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.settings import Settings
from unkai_scheduler.store import events, history
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import FailedPrecondition
from unkai_wire.ids import new_id

pytestmark = pytest.mark.timeout(600)
WATCHERS = 10
WRITERS = 4
KINDS = ("instance", "image", "host")
LONGEST_S = 500.0


_CHOSEN = os.environ.get(databases.KIND_VARIABLE)


@pytest.fixture(params=[_CHOSEN] if _CHOSEN else databases.KINDS)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    with databases.use(request.param):
        yield request.param


@dataclass
class Cloud:
    """The schedulers that serve now, by name."""

    serving: dict[str, Api] = field(default_factory=dict)
    cuts: int = 0
    """Watches that ended before all was seen."""


@dataclass
class Watcher:
    """Follows events of some kinds; remembers only where it was and what it was told."""

    cloud: Cloud
    rng: random.Random
    kinds: tuple[str, ...]
    revision: str
    told: list[str] = field(default_factory=list)

    async def follow(self, wanted: int) -> None:
        """Watch until so many events were told, whatever ends the watch."""
        while len(self.told) < wanted:
            api = self.rng.choice(list(self.cloud.serving.values()))
            request = pb.WatchEventsRequest(after_revision=self.revision, resource_kinds=self.kinds)
            watch = api.events.WatchEvents(request)
            try:
                async with asyncio.timeout(self._patience_s()):
                    await self._read(watch, wanted, self.rng.choice((1, 20, 200, 2000, 10_000)))
            except TimeoutError:
                pass
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                _check_cut(error)
            finally:
                watch.cancel()
            self.cloud.cuts += 1

    def _patience_s(self) -> float:
        return self.rng.choice((0.02, 0.1, 1.0, 5.0, 20.0))

    async def _read(self, watch: Any, wanted: int, most: int) -> None:
        end = min(wanted, len(self.told) + most)
        while len(self.told) < end:
            answer = await watch.read()
            if answer is grpc.aio.EOF:
                return
            # What is told with a revision is all that a watcher may rely on.
            self.revision = answer.revision or answer.event.revision
            if answer.HasField("event"):
                self.revision = answer.event.revision
                self.told.append(answer.event.resource_id)


def _check_cut(error: BaseException) -> None:
    """Raise what is not the end of a scheduler or of our patience."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return
    assert isinstance(error, grpc.aio.AioRpcError)
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        raise error


class Writer:
    """Inserts events in transactions of any size, as replicas and leader do."""

    def __init__(self, stores: list[UnitOfWork], rng: random.Random) -> None:
        self._stores = stores
        self._rng = rng
        self.written: list[tuple[str, str]] = []
        """Kind and resource of each event."""

    async def write(self, numbers: Iterator[int], most: int) -> None:
        """Insert one event for each number below `most`."""
        while batch := [
            n for n in itertools.islice(numbers, self._rng.choice((1, 3, 20, 60))) if n < most
        ]:
            made = [
                an_event(resource_kind=self._rng.choice(KINDS), resource_id=f"r-{n}") for n in batch
            ]

            def insert(conn: Any, made: list[Any] = made) -> None:
                for event in made:
                    events.insert(conn, event)

            await self._rng.choice(self._stores).write(insert)
            self.written += [(event.resource_kind, event.resource_id) for event in made]
            if self._rng.random() < 0.2:
                await asyncio.sleep(self._rng.uniform(0, 0.05))


@asynccontextmanager
async def a_sequencer(uow: UnitOfWork, folder: Path) -> AsyncIterator[None]:
    """Lead, as far as events go."""
    term = await uow.take_term(0)
    office = Office(
        name="s1",
        term=term,
        uow=uow,
        agents=FakeAgents(),
        images=open_image_store(f"file://{folder / 'none'}"),
        live=LiveState(),
        settings=Settings(),
        clock=noon,
        new_id=new_id,
        hearsay=Hearsay(lambda: 0.0),
    )
    stamping = asyncio.create_task(Sequencer(office).run())
    try:
        yield
    finally:
        stamping.cancel()
        with suppress(asyncio.CancelledError):
            await stamping


@asynccontextmanager
async def a_scheduler(
    cloud: Cloud, name: str, store: UnitOfWork, folder: Path
) -> AsyncIterator[Api]:
    async with an_api(folder / name, name=name, uow=store) as api:
        cloud.serving[name] = api
        try:
            yield api
        finally:
            del cloud.serving[name]


async def all_told(store: UnitOfWork) -> list[tuple[str, str]]:
    """Return kind and resource of each stamped event, in order, read from the store alone."""

    def read(conn: Any) -> list[tuple[str, str]]:
        found, after = [], None
        while page := events.list_page(conn, after=after, limit=1000):
            found += [(e.resource_kind, e.resource_id) for e in page]
            after = [str(page[-1].revision)]
        return found[::-1]

    return await store.read(read)


async def test_watchers_resumed_at_random_see_every_event_once_and_in_order(
    tmp_path: Path, database: str, shows: Shows
) -> None:
    rng, wanted = seeded(f"watchers-{database}"), count(10_000)
    async with AsyncExitStack() as stack, asyncio.timeout(LONGEST_S):
        stores = [await open_store(tmp_path) for _ in range(3)]
        for store in stores:
            stack.push_async_callback(store.close)
        cloud = Cloud()
        await stack.enter_async_context(a_scheduler(cloud, "s1", stores[0], tmp_path))
        second = AsyncExitStack()
        await second.enter_async_context(a_scheduler(cloud, "s2", stores[1], tmp_path))
        await stack.enter_async_context(a_sequencer(stores[0], tmp_path))
        began = str(await stores[0].read(events.newest))
        watchers = [Watcher(cloud, random.Random(rng.random()), (), began) for _ in range(WATCHERS)]
        writers = [Writer(stores[:2], random.Random(rng.random())) for _ in range(WRITERS)]
        numbers = itertools.count()

        async with asyncio.TaskGroup() as tasks:
            for watcher in watchers:
                tasks.create_task(watcher.follow(wanted))
            for writer in writers:
                tasks.create_task(writer.write(numbers, wanted))
            while min(len(w.told) for w in watchers) < wanted // 4:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await second.aclose()
            await stack.enter_async_context(a_scheduler(cloud, "s3", stores[2], tmp_path))

        in_order = [resource for _, resource in await all_told(stores[0])]
        assert sorted(in_order) == sorted(f"r-{n}" for n in range(wanted))
        for watcher in watchers:
            assert watcher.told == in_order
        chosen = Watcher(cloud, rng, ("host",), began)
        hosts = [resource for kind, resource in await all_told(stores[0]) if kind == "host"]
        await chosen.follow(len(hosts))
        assert chosen.told == hosts
    shows(
        f"solid 4 watchers {database}",
        f"{WATCHERS} × {wanted} events, {cloud.cuts} times cut and resumed at one of two"
        f" schedulers, of which one went and another came: each event once, in order",
    )


async def test_who_was_away_too_long_or_before_a_restore_is_told_to_list_anew(
    tmp_path: Path, database: str
) -> None:
    async with an_api(tmp_path / "a") as api:
        await api.uow.write(lambda conn: [events.insert(conn, an_event()) for _ in range(20)])
        await api.stamp()
        newest = (await api.events.ListEvents(pb.ListEventsRequest())).revision
        epoch = newest.partition(".")[0]
        await api.lead(lambda conn: events.prune(conn, keep=5, limit=1000))

        away = api.events.WatchEvents(pb.WatchEventsRequest(after_revision=f"{epoch}.14"))
        caught = await refused(away.read())
        assert (type(caught), caught.reason) == (FailedPrecondition, "REVISION_GONE")
        assert caught.metadata["newest_revision"] == newest
        back = Watcher(Cloud({"s1": api}), random.Random(1), (), f"{epoch}.15")
        await back.follow(5)
        assert back.revision == newest

        await api.lead(history.raise_epoch)
        restored = api.events.WatchEvents(pb.WatchEventsRequest(after_revision=newest))
        assert (await refused(restored.read())).reason == "REVISION_GONE"
        listed = (await api.events.ListEvents(pb.ListEventsRequest())).revision
        anew = api.events.WatchEvents(pb.WatchEventsRequest(after_revision=listed))
        async with asyncio.timeout(5):
            assert (await anew.read()).revision == listed
        anew.cancel()

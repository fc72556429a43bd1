"""A scheduler that stops ends at once what only waits for news; work under way gets its grace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.api import Api, ConsoleAgents, an_api, refused
from tests.support.builders import NOON, an_event, an_id
from unkai.compute.v1 import instance_service_pb2
from unkai.event.v1 import event_service_pb2
from unkai.host.v1 import host_service_pb2
from unkai.operation.v1 import operation_service_pb2
from unkai.storage.v1 import image_pb2, image_service_pb2
from unkai_scheduler.agents.fake_host import idle_usage
from unkai_scheduler.agents.port import Endpoint, UsageSample
from unkai_scheduler.store import events, uploads
from unkai_wire.errors import Unavailable

GRACE_S = 30.0
PROMPT_S = 15.0
"""Far from the grace."""


class SilentConsoles(ConsoleAgents):
    """Consoles that say one thing and then nothing for ever."""

    async def read_console_log(
        self, endpoint: Endpoint, instance_id: str, *, tail_bytes: int, follow: bool
    ) -> AsyncIterator[bytes]:
        yield b"login: "
        await asyncio.Event().wait()


async def begin_waiting(api: Api) -> list[Any]:
    """Open one call of every kind that waits; return them once each has begun."""
    created = await api.create("web")
    host = await api.place(created.instance.id)
    api.live.put_sample(UsageSample(host.id, idle_usage(host.memory_bytes, NOON), ()))
    streams = [
        api.events.WatchEvents(event_service_pb2.WatchEventsRequest()),
        api.instances.ReadConsoleLog(
            instance_service_pb2.ReadConsoleLogRequest(instance_id=created.instance.id, follow=True)
        ),
        health_pb2_grpc.HealthStub(api.channel).Watch(health_pb2.HealthCheckRequest()),
        api.hosts.WatchUsage(host_service_pb2.WatchUsageRequest()),
    ]
    for stream in streams:
        await stream.read()
    wait = operation_service_pb2.WaitOperationRequest(operation_id=created.operation.id)
    wait.timeout.seconds = 60
    waiting = asyncio.ensure_future(refused(api.operations.WaitOperation(wait)))
    await asyncio.sleep(0.3)
    return [asyncio.ensure_future(refused(drained(s))) for s in streams] + [waiting]


async def drained(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def stopped_in(api: Api) -> float:
    """Stop the server; return the seconds it took."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await api.server.stop(GRACE_S)
    return loop.time() - begun_s


async def test_who_waits_is_told_at_once_that_the_scheduler_stops(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a", agents=SilentConsoles()) as api:
        waiting = await begin_waiting(api)
        took_s = await stopped_in(api)
        errors = await asyncio.gather(*waiting)
    assert took_s < PROMPT_S
    assert [type(error) for error in errors] == [Unavailable] * len(errors)
    assert {error.reason for error in errors} == {"SCHEDULER_STOPPING"}


async def test_a_watcher_that_never_reads_does_not_hold_the_scheduler_up(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        many = [an_event(id=an_id("event"), message="x" * 1000) for _ in range(2000)]
        await api.lead(lambda conn: [events.insert(conn, event) for event in many])
        while await api.stamp():
            pass
        options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(
            f"unix:{api.folder / 'api.sock'}", options=options
        ) as channel:
            watch = channel.unary_stream(
                "/unkai.event.v1.EventService/WatchEvents",
                request_serializer=event_service_pb2.WatchEventsRequest.SerializeToString,
            )(event_service_pb2.WatchEventsRequest(after_revision="1.0"))
            await watch.wait_for_connection()
            await asyncio.sleep(0.5)
            assert await stopped_in(api) < PROMPT_S
            watch.cancel()


async def test_an_upload_under_way_may_end_and_new_calls_are_refused(tmp_path: Path) -> None:
    async with an_api(tmp_path / "a") as api:
        created = await api.images.CreateImage(
            image_service_pb2.CreateImageRequest(image=image_pb2.Image(name="tiny"))
        )
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def requests() -> AsyncIterator[image_service_pb2.UploadImageRequest]:
            kind = image_service_pb2.UploadImageRequest
            yield kind(open=kind.Open(image_id=created.image.id))
            yield kind(chunk=b"\x01" * (1 << 20))
            begun.set()
            await go_on.wait()
            yield kind(chunk=b"\x01" * (1 << 20))

        upload = api.images.UploadImage(requests())
        await begun.wait()
        while not await api.uow.read(uploads.keys):  # noqa: ASYNC110 - until the server took it in
            await asyncio.sleep(0.01)
        stop = asyncio.ensure_future(api.server.stop(GRACE_S))
        await asyncio.sleep(0.2)
        late = await refused(api.images.ListImages(image_service_pb2.ListImagesRequest()))
        go_on.set()
        answer = await upload
        await stop
    assert late.reason == "SCHEDULER_STOPPING"
    assert answer.image.state == image_pb2.Image.STATE_READY

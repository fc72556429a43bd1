"""The agents port's promises, on the fake and on the gRPC client talking to a real server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from tests.support.agent_server import serving
from tests.support.builders import an_id, an_image, an_instance
from tests.support.etcd import Authority
from unkai.agent.v1 import machine_pb2
from unkai_scheduler.agents.channels import IDLE_CHANNEL_S
from unkai_scheduler.agents.client import GrpcAgents
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.limits import Limits
from unkai_scheduler.agents.port import (
    Agents,
    Endpoint,
    MachineChange,
    MachineOrder,
    Synced,
    UsageSample,
)
from unkai_scheduler.domain.hosts import MachineUsage, PortUsage
from unkai_scheduler.domain.images import ImageState
from unkai_scheduler.domain.instances import Power
from unkai_scheduler.domain.machines import Fence, Machine, MachineState, Tombstone
from unkai_wire.doctor.findings import Finding, Severity
from unkai_wire.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Unavailable,
    UnkaiError,
)
from unkai_wire.rpc_errors import STATUS_KEY
from unkai_wire.tls import server_options

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMITS = Limits(describe_s=5, order_s=5, silence_s=5)
BRIEF = Limits(describe_s=0.4, order_s=0.4, silence_s=0.4)
"""For who waits until they are over."""
HOST = "hst-one"


@dataclass(slots=True)
class World:
    """The port under test, and the hosts behind it."""

    agents: Agents
    cloud: FakeAgents
    endpoint: Endpoint


@pytest.fixture
def limits() -> Limits:
    """The client's limits: client and host share one loop, and its stalls are no silence."""
    return LIMITS


@pytest.fixture(params=["fake", pytest.param("grpc", marks=pytest.mark.real)])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, limits: Limits
) -> AsyncIterator[World]:
    # Behind gRPC the hosts wait longer than the client does: its own limits are under test.
    behind = limits if request.param == "fake" else Limits(30, 30, 30)
    cloud = FakeAgents(clock=lambda: NOW, limits=behind)
    endpoint = cloud.add_host(HOST, "h1")
    if request.param == "fake":
        yield World(cloud, cloud, endpoint)
        return
    authority = Authority.make(tmp_path)
    server_tls = authority.issue("host", dns=("fleet.test",))
    async with serving(cloud, server_tls) as address:
        client = GrpcAgents(authority.issue("scheduler"), limits=limits)
        try:
            yield World(client, cloud, Endpoint(HOST, address, "fleet.test"))
        finally:
            await client.close()


def an_order(*, must_exist: bool = False, **changes: Any) -> MachineOrder:
    return MachineOrder(
        instance=an_instance(**changes),
        image=an_image(state=ImageState.READY, sha256="a" * 64),
        disk_bytes=1 << 30,
        must_exist=must_exist,
        public_keys=("ssh-ed25519 AAAA me",),
        user_data=b"#!/bin/sh\n\xff",
    )


def a_fence(generation: int = 1, run_epoch: int = 1, term: int = 1) -> Fence:
    return Fence(term, generation, run_epoch)


async def listed(world: World) -> list[MachineChange]:
    """Return what the host holds now."""
    changes: list[MachineChange] = []
    stream = world.agents.watch_machines(world.endpoint)
    assert isinstance(stream, AsyncGenerator)
    async with asyncio.timeout(5), aclosing(stream):
        async for change in stream:
            if isinstance(change, Synced):
                break
            changes.append(change)
    return changes


async def test_a_host_describes_itself(world: World) -> None:
    found = await world.agents.describe(world.endpoint)

    assert found == world.cloud.hosts[HOST].description


async def test_an_announced_term_is_remembered(world: World) -> None:
    assert await world.agents.announce_term(world.endpoint, 7) == 7
    assert await world.agents.announce_term(world.endpoint, 3) == 7
    assert (await world.agents.describe(world.endpoint)).highest_term == 7


async def test_an_order_arrives_as_it_was_sent(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)

    held = world.cloud.hosts[HOST].machines[order.instance.id].order
    assert held == order


async def test_a_host_tells_what_a_machine_was_ordered_to_be(world: World) -> None:
    order = an_order(
        labels={"tier": "web"},
        key_pair_ids=(an_id("key_pair"),),
        required_traits=("CPU_X86_64",),
        preferred_traits=("SSD", "FAST"),
        forbidden_traits=("OLD",),
        zone="room-2",
        priority=7,
        aggregate_id=an_id("aggregate"),
        placement_group_id=an_id("placement_group"),
        desired_power=Power.OFF,
        reboot_serial=3,
        stop_grace_s=7.0,
        flavor_id=an_id("flavor"),
    )
    await world.agents.ensure_machine(world.endpoint, a_fence(4, 2), order)

    held = await world.agents.machine_spec(world.endpoint, order.instance.id)

    assert (held.machine.generation, held.machine.run_epoch) == (4, 2)
    assert held.machine.wants_power is False
    told, sent = held.order, order
    assert told.instance.spec == sent.instance.spec
    for field in ("id", "project_id", "desired_power", "reboot_serial", "stop_grace_s"):
        assert getattr(told.instance, field) == getattr(sent.instance, field), field
    for field in ("id", "format", "sha256", "size_bytes", "virtual_size_bytes"):
        assert getattr(told.image, field) == getattr(sent.image, field), field
    assert (told.user_data, told.public_keys) == (sent.user_data, sent.public_keys)
    assert (told.disk_bytes, told.must_exist) == (sent.disk_bytes, True)


async def test_what_is_not_held_was_not_ordered(world: World) -> None:
    with pytest.raises(NotFound):
        await world.agents.machine_spec(world.endpoint, an_id("instance"))


async def test_an_ordered_machine_runs(world: World) -> None:
    order = an_order()
    accepted = await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    (machine,) = await listed(world)

    assert accepted.state is MachineState.CONVERGING
    assert isinstance(machine, Machine)
    assert machine == dataclasses.replace(
        accepted,
        state=MachineState.RUNNING,
        observed_generation=1,
        accelerator="tcg",
        start_time=NOW,
        reboot_serial=order.instance.reboot_serial,
    )
    assert (machine.host_id, machine.name) == (HOST, order.instance.spec.name)


async def test_ordering_twice_changes_nothing(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    before = await listed(world)
    again = await world.agents.ensure_machine(world.endpoint, a_fence(), order)

    assert [again] == before == await listed(world)


async def test_a_machine_ordered_off_is_stopped(world: World) -> None:
    order = an_order(desired_power=Power.ON)
    await world.agents.ensure_machine(world.endpoint, a_fence(1), order)
    off = dataclasses.replace(
        order, instance=dataclasses.replace(order.instance, desired_power=Power.OFF)
    )
    await world.agents.ensure_machine(world.endpoint, a_fence(2), off)
    (machine,) = await listed(world)

    assert isinstance(machine, Machine)
    assert (machine.state, machine.observed_generation) == (MachineState.STOPPED, 2)


Deed = Callable[[World, MachineOrder], Any]


async def _nothing(world: World, order: MachineOrder) -> None:
    del world, order


async def _ensured(world: World, order: MachineOrder) -> None:
    await world.agents.ensure_machine(world.endpoint, a_fence(5, 3), order)


async def _removed(world: World, order: MachineOrder) -> None:
    await _ensured(world, order)
    await world.agents.remove_machine(world.endpoint, a_fence(6, 3), order.instance.id)


async def _term_raised(world: World, order: MachineOrder) -> None:
    del order
    world.cloud.raise_term(HOST, 9)


@pytest.mark.parametrize(
    ("before", "fence", "reason"),
    [
        (_term_raised, Fence(8, 1, 1), "STALE_TERM"),
        (_ensured, a_fence(4, 3), "STALE_GENERATION"),
        (_ensured, a_fence(5, 2), "STALE_RUN_EPOCH"),
        (_removed, a_fence(6, 3), "TOMBSTONED"),
        (_removed, a_fence(5, 3), "TOMBSTONED"),
    ],
)
async def test_an_order_without_the_right_is_refused(
    world: World, before: Deed, fence: Fence, reason: str
) -> None:
    order = an_order()
    await before(world, order)

    with pytest.raises(FailedPrecondition) as caught:
        await world.agents.ensure_machine(world.endpoint, fence, order)

    assert caught.value.reason == reason


async def test_a_stale_term_names_the_highest(world: World) -> None:
    world.cloud.raise_term(HOST, 9)

    with pytest.raises(FailedPrecondition) as caught:
        await world.agents.remove_machine(world.endpoint, Fence(8, 1, 1), an_id("instance"))

    assert caught.value.metadata["highest_term"] == "9"


async def test_an_order_above_the_tombstone_makes_it_anew(world: World) -> None:
    order = an_order()
    await _removed(world, order)
    await world.agents.ensure_machine(world.endpoint, a_fence(7, 3), order)
    (machine,) = await listed(world)

    assert isinstance(machine, Machine)
    assert machine.state is MachineState.RUNNING


async def test_a_removed_machine_leaves_a_tombstone(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(1, 1), order)
    left = await world.agents.remove_machine(world.endpoint, a_fence(2, 1), order.instance.id)

    assert left == Tombstone(order.instance.id, HOST, 2, 1, NOW)
    assert await listed(world) == [left]


async def test_removing_what_was_never_there_leaves_a_tombstone_too(world: World) -> None:
    ident = an_id("instance")

    first = await world.agents.remove_machine(world.endpoint, a_fence(2, 1), ident)
    again = await world.agents.remove_machine(world.endpoint, a_fence(2, 1), ident)

    assert first == again == Tombstone(ident, HOST, 2, 1, NOW)


async def test_a_slow_removal_is_seen_until_its_tombstone(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(1), order)
    world.cloud.converge_s = 5
    for _ in range(2):
        left = await world.agents.remove_machine(world.endpoint, a_fence(2), order.instance.id)
        assert isinstance(left, Machine)
        assert left.state is MachineState.REMOVING


async def test_acknowledged_tombstones_are_noted(world: World) -> None:
    ident = an_id("instance")
    tombstone = await world.agents.remove_machine(world.endpoint, a_fence(2), ident)
    assert isinstance(tombstone, Tombstone)

    await world.agents.acknowledge_tombstones(world.endpoint, 1, [tombstone])

    assert world.cloud.hosts[HOST].acknowledged == {ident}


async def test_a_crashed_machine_waits_for_the_order_as_its_permit(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    world.cloud.crash_machine(HOST, order.instance.id)
    (crashed,) = await listed(world)
    await world.agents.ensure_machine(
        world.endpoint, a_fence(), dataclasses.replace(order, must_exist=True)
    )
    (permitted,) = await listed(world)

    assert isinstance(crashed, Machine)
    assert isinstance(permitted, Machine)
    assert crashed.state is MachineState.AWAITING_PERMIT
    assert permitted.state is MachineState.RUNNING


async def test_a_missing_disk_that_must_exist_makes_it_lost(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    world.cloud.lose_disk(HOST, order.instance.id)
    world.cloud.reboot_host(HOST)
    must = dataclasses.replace(order, must_exist=True)
    await world.agents.ensure_machine(world.endpoint, a_fence(), must)
    (machine,) = await listed(world)

    assert isinstance(machine, Machine)
    assert machine.state is MachineState.LOST


async def test_a_failure_to_start_is_told_with_its_reason(world: World) -> None:
    world.cloud.fail_starts(
        HOST, FailedPrecondition("no bytes", reason="IMAGE_CORRUPT", metadata={"image_id": "i"})
    )
    await world.agents.ensure_machine(world.endpoint, a_fence(), an_order())
    (machine,) = await listed(world)

    assert isinstance(machine, Machine)
    assert machine.state is MachineState.FAILED
    assert machine.error is not None
    error = UnkaiError.from_record(machine.error)
    assert (error.reason, error.message) == ("IMAGE_CORRUPT", "no bytes")
    assert error.metadata == {"image_id": "i"}


async def test_a_watch_tells_of_changes_after_all_was_listed(world: World) -> None:
    stream = world.agents.watch_machines(world.endpoint)
    assert isinstance(stream, AsyncGenerator)
    async with asyncio.timeout(5), aclosing(stream):
        assert await anext(stream) == Synced()
        order = an_order()
        await world.agents.ensure_machine(world.endpoint, a_fence(), order)
        states = []
        while MachineState.RUNNING not in states:
            change = await anext(stream)
            assert isinstance(change, Machine)
            states.append(change.state)

    assert states == [MachineState.CONVERGING, MachineState.RUNNING]


@pytest.mark.parametrize("limits", [BRIEF], ids=["brief"])
@pytest.mark.parametrize("stream_name", ["watch_machines", "watch_usage"])
async def test_a_silent_stream_is_given_up(world: World, stream_name: str) -> None:
    stream = getattr(world.agents, stream_name)(world.endpoint)
    async with asyncio.timeout(20), aclosing(stream):
        await anext(stream)
        world.cloud.hang(HOST)
        with pytest.raises(Unavailable) as caught:
            await anext(stream)

    assert caught.value.reason == "HOST_SILENT"


async def test_a_reboot_breaks_the_watch_and_changes_the_boot_id(world: World) -> None:
    before = await world.agents.describe(world.endpoint)
    stream = world.agents.watch_machines(world.endpoint)
    assert isinstance(stream, AsyncGenerator)
    async with asyncio.timeout(5), aclosing(stream):
        await anext(stream)
        world.cloud.reboot_host(HOST)
        with pytest.raises(Unavailable):
            await anext(stream)

    assert (await world.agents.describe(world.endpoint)).boot_id != before.boot_id


async def test_samples_arrive_as_they_were_taken(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    host = world.cloud.hosts[HOST]
    ports = (PortUsage("prt-a", 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),)
    figures = MachineUsage(order.instance.id, 0.5, 0.1, 1 << 28, 1.0, 2.0, 3.0, 4.0, ports)
    host.machine_usage[order.instance.id] = figures
    stream = world.agents.watch_usage(world.endpoint)
    assert isinstance(stream, AsyncGenerator)
    async with asyncio.timeout(5), aclosing(stream):
        await anext(stream)
        loaded = dataclasses.replace(host.usage, cpu_used_ratio=0.75, io_pressure_ratio=0.25)
        world.cloud.set_usage(HOST, loaded)
        sample = await anext(stream)

    expected = dataclasses.replace(loaded, machines_running=1)
    assert sample == UsageSample(HOST, expected, (figures,))


@pytest.mark.parametrize("limits", [BRIEF], ids=["brief"])
async def test_an_unanswered_call_ends_by_its_deadline(world: World) -> None:
    world.cloud.hang(HOST)

    async with asyncio.timeout(20):
        with pytest.raises(DeadlineExceeded):
            await world.agents.describe(world.endpoint)
        with pytest.raises(DeadlineExceeded):
            await world.agents.ensure_machine(world.endpoint, a_fence(), an_order())


async def test_a_hosts_error_arrives_as_its_class(world: World) -> None:
    world.cloud.fail(HOST, Unavailable("libvirt hangs", reason="LIBVIRT_HANGS"))

    with pytest.raises(Unavailable) as caught:
        await world.agents.describe(world.endpoint)

    assert caught.value.reason == "LIBVIRT_HANGS"


async def test_a_host_that_nobody_knows_is_unavailable(world: World) -> None:
    with pytest.raises(Unavailable):
        await world.agents.describe(dataclasses.replace(world.endpoint, host_id="hst-other"))


@pytest.mark.parametrize(("tail", "expected"), [(0, 100_000), (10, 10), (200_000, 100_000)])
async def test_the_end_of_a_console_log_is_read(world: World, tail: int, expected: int) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    log = bytes(range(250)) * 400
    world.cloud.write_console(HOST, order.instance.id, log)

    pieces = [
        piece
        async for piece in world.agents.read_console_log(
            world.endpoint, order.instance.id, tail_bytes=tail, follow=False
        )
    ]

    assert b"".join(pieces) == log[-expected:]
    assert max(map(len, pieces)) <= 64 << 10


async def test_a_console_log_is_followed(world: World) -> None:
    order = an_order()
    ident = order.instance.id
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    world.cloud.write_console(HOST, ident, b"one\n")
    stream = world.agents.read_console_log(world.endpoint, ident, tail_bytes=0, follow=True)
    assert isinstance(stream, AsyncGenerator)
    async with asyncio.timeout(5), aclosing(stream):
        first = await anext(stream)
        world.cloud.write_console(HOST, ident, b"two\n")

        assert [first, await anext(stream)] == [b"one\n", b"two\n"]


async def test_the_console_of_an_unknown_machine_is_not_found(world: World) -> None:
    ident = an_id("instance")
    stream = world.agents.read_console_log(world.endpoint, ident, tail_bytes=0, follow=False)

    with pytest.raises(NotFound) as caught:
        _ = [piece async for piece in stream]

    assert caught.value.resource == ident


async def test_a_console_opens_with_an_empty_piece_and_answers(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)

    async def typed() -> AsyncIterator[bytes]:
        yield b"ls\n"

    outputs = [
        output
        async for output in world.agents.attach_console(
            world.endpoint, order.instance.id, typed(), force=False
        )
    ]

    assert outputs == [b"", b"ls\n"]


async def test_who_types_at_once_still_hears_that_the_console_is_in_use(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)
    ident = order.instance.id
    leave = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        await leave.wait()
        yield b"bye"

    async def pasted() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 32_768

    holder = world.agents.attach_console(world.endpoint, ident, waiting(), force=False)
    assert await anext(holder) == b""
    for _ in range(10):
        with pytest.raises(Conflict) as caught:
            _ = [
                piece
                async for piece in world.agents.attach_console(
                    world.endpoint, ident, pasted(), force=False
                )
            ]
        assert caught.value.reason == "CONSOLE_IN_USE"
    leave.set()
    assert [piece async for piece in holder] == [b"bye"]


async def test_a_used_image_is_not_evicted_and_an_unused_one_is(world: World) -> None:
    order = an_order()
    await world.agents.ensure_machine(world.endpoint, a_fence(), order)

    with pytest.raises(FailedPrecondition) as caught:
        await world.agents.evict_image(world.endpoint, 1, order.image.sha256)
    await world.agents.remove_machine(world.endpoint, a_fence(2), order.instance.id)
    await world.agents.evict_image(world.endpoint, 1, order.image.sha256)

    assert caught.value.reason == "IMAGE_IN_USE"
    assert world.cloud.hosts[HOST].cached_images == set()


class Nonsense(grpc.GenericRpcHandler):
    """Answers every call alike: with these bytes, or with a refusal whose details are these."""

    def __init__(self, answer: bytes, details: bytes | None) -> None:
        self._answer = answer
        self._details = details

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        streams = str(details.method).rpartition("/")[2].startswith("Watch")

        async def refuse(context: Any) -> None:
            if self._details is not None:
                trailing = ((STATUS_KEY, self._details),)
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", trailing)

        async def once(request: bytes, context: Any) -> bytes:
            await refuse(context)
            return self._answer

        async def often(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await refuse(context)
            yield self._answer

        if streams:
            return grpc.unary_stream_rpc_method_handler(often)
        return grpc.unary_unary_rpc_method_handler(once)


def a_refusal(reasons: str, *, spoil: bytes = b"") -> bytes:
    """Return a status whose count of reasons is this text, its details spoiled."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="NO_CAPACITY", metadata={"reason.x": reasons}))
    packed.value += spoil
    return status_pb2.Status(code=8, message="no", details=[packed]).SerializeToString()


AN_AGE = Timestamp(seconds=1 << 60)
NO_MACHINE = machine_pb2.Machine(
    state=machine_pb2.Machine.STATE_RUNNING, start_time=AN_AGE
).SerializeToString()


@pytest.mark.real
@pytest.mark.parametrize(
    ("answer", "details"),
    [
        pytest.param(b"\xff\xff\xff", None, id="no message"),
        pytest.param(b"\x0a" + bytes([len(NO_MACHINE)]) + NO_MACHINE, None, id="no time"),
        pytest.param(b"", b"\xff\xff", id="no status"),
        pytest.param(b"", a_refusal("1", spoil=b"\xff\xff"), id="no details"),
        pytest.param(b"", a_refusal("many"), id="no number"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_one_of_our_errors(
    answer: bytes, details: bytes | None, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path)
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((Nonsense(answer, details),))
    tls = authority.issue("host", dns=("fleet.test",))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
    await server.start()
    client = GrpcAgents(authority.issue("scheduler"))
    endpoint = Endpoint(HOST, f"127.0.0.1:{port}", "fleet.test")
    try:
        with pytest.raises(UnkaiError):
            await client.ensure_machine(endpoint, a_fence(), an_order())
        with pytest.raises(UnkaiError):
            await client.remove_machine(endpoint, a_fence(), an_id("instance"))
        for stream in (client.watch_machines(endpoint), client.watch_usage(endpoint)):
            with pytest.raises(UnkaiError):
                _ = [item async for item in stream]
        with suppress(UnkaiError):  # what its own fields hold may make sense by chance
            await client.describe(endpoint)
            await client.announce_term(endpoint, 1)
    finally:
        await client.close()
        await server.stop(0)


@pytest.mark.real
async def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    client = GrpcAgents(Authority.make(tmp_path).issue("scheduler"), limits=LIMITS)
    try:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.describe(Endpoint(HOST, "127.0.0.1:1", "fleet.test"))
    finally:
        await client.close()


@pytest.mark.real
async def test_an_agent_of_another_authority_is_not_spoken_to(tmp_path: Path) -> None:
    cloud = FakeAgents(clock=lambda: NOW)
    cloud.add_host(HOST, "h1")
    other = Authority.make(tmp_path / "other").issue("host", dns=("fleet.test",))
    client = GrpcAgents(Authority.make(tmp_path / "ours").issue("scheduler"), limits=LIMITS)
    async with serving(cloud, other) as address:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.describe(Endpoint(HOST, address, "fleet.test"))
    await client.close()


@pytest.mark.real
async def test_hosts_at_one_address_share_a_channel_that_closes_when_idle(tmp_path: Path) -> None:
    now_s = [0.0]
    cloud = FakeAgents(clock=lambda: NOW)
    for number in range(3):
        cloud.add_host(f"hst-{number}", f"h{number}")
    authority = Authority.make(tmp_path)
    client = GrpcAgents(authority.issue("scheduler"), monotonic=lambda: now_s[0])
    try:
        async with (
            serving(cloud, authority.issue("host", dns=("fleet.test",))) as first,
            serving(cloud, authority.issue("host2", dns=("fleet.test",))) as second,
        ):
            for number in range(3):
                await client.describe(Endpoint(f"hst-{number}", first, "fleet.test"))
            shared = client.open_addresses
            now_s[0] += IDLE_CHANNEL_S + 1
            await client.describe(Endpoint("hst-0", second, "fleet.test"))

            assert shared == [first]
            assert client.open_addresses == [second]
    finally:
        await client.close()


async def test_a_host_tells_what_it_finds_wrong_with_itself(world: World) -> None:
    found = Finding("kvm", Severity.WARN, "hangs", "slow", "mend it", "agent h1")
    world.cloud.hosts[HOST].findings = (found,)

    report, end_time = await world.agents.diagnose(world.endpoint, [])

    assert (report.where, report.findings, end_time) == ("agent h1", (found,), NOW)
    assert (await world.agents.diagnose(world.endpoint, ["ledger"]))[0].findings == ()


async def test_a_host_tells_what_its_flows_have_counted(world: World) -> None:
    world.cloud.hosts[HOST].flow_counts = {0xFFFFFFFF: 2**40, 7: 0}

    counted = await world.agents.count_flows(world.endpoint, [0xFFFFFFFF, 7, 8])

    assert counted == {0xFFFFFFFF: 2**40, 7: 0}

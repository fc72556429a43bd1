"""Story: a libvirt that hangs holds up its own host alone; work is given up in the midst of it.

1. Creates while one host's libvirt hangs. 2. A create cancelled at that host. 3. A create cancelled
while its image is fetched. 4. A libvirt that hangs for long, and comes back. Real QEMU; nothing is
left of what was given up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows, count
from tests.support.faults import busy_processors, hung_libvirt
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.user import User, tiny_image
from unkai.operation.v1 import operation_pb2, operation_service_pb2, operation_service_pb2_grpc
from unkai_lab.client import open_channel
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

CANCELLED = operation_pb2.Operation.STATE_CANCELLED
LARGE_BYTES = 1 << 30
HUNG_S = 75
"""Longer than any call of the agent's waits for libvirtd."""


@pytest.fixture(scope="module")
def two() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="hung", hosts=2))) as made:
        yield made


@pytest.fixture(scope="module")
def person(two: Lab) -> Iterator[User]:
    user = User(two.paths.scheduler_socket)
    user.upload("tiny", tiny_image())
    yield user
    user.delete_all()
    user.close()


@pytest.fixture
def operations(two: Lab) -> Iterator[Any]:
    with open_channel(two.paths.scheduler_socket) as channel:
        yield operation_service_pb2_grpc.OperationServiceStub(channel)


def shown(operations: Any, ident: str) -> Any:
    request = operation_service_pb2.GetOperationRequest(operation_id=ident)
    return operations.GetOperation(request, timeout=10).operation


def cancel(operations: Any, ident: str) -> None:
    request = operation_service_pb2.CancelOperationRequest(operation_id=ident)
    operations.CancelOperation(request, timeout=10)


def until_ended(operations: Any, ident: str, within_s: float) -> Any:
    request = operation_service_pb2.WaitOperationRequest(operation_id=ident)
    request.timeout.FromSeconds(int(within_s))
    return operations.WaitOperation(request, timeout=within_s + 5).operation


def assert_nothing_left(lab: Lab, ident: str) -> None:
    for host in lab.spec.host_names:
        assert ident[-6:] not in lab.virsh(host, "list", "--all", "--name")
        assert not list(lab.paths.cell(host).rglob(f"machines/{ident}/*"))


def test_a_hung_libvirt_holds_up_its_own_host_alone(two: Lab, person: User, shows: Shows) -> None:
    for number in range(2):
        person.launch(f"before-{number}")  # both hosts have the image
    with hung_libvirt(two, "h1"):
        answers = [person.create(f"hung-{number}") for number in range(6)]
        begun_s = time.monotonic()

        def running() -> list[str]:
            rows = [person.get(answer.instance.id) for answer in answers]
            return [row.id for row in rows if person.state(row.id) == "RUNNING"]

        def on(host: str) -> list[str]:
            rows = [person.get(answer.instance.id) for answer in answers]
            return [row.id for row in rows if row.host_name == host]

        wait_for(lambda: on("h2") and set(on("h2")) <= set(running()), "those of h2 run", 90)
        others_s = time.monotonic() - begun_s
        held = on("h1")
        assert not set(held) & set(running())
        assert set(person.hosts()) == {"h1", "h2"}, "the API answers"
    for answer in answers:
        person.finish(answer.operation)
    names = [n for host in two.spec.host_names for n in two.virsh(host, "list", "--name").split()]
    assert len(names) == len(set(names)) == 8
    assert sum(len(two.qemu_pids(host)) for host in two.spec.host_names) == 8
    shows(
        "solid hung libvirt",
        f"{6 - len(held)} on the other host ran after {others_s:.1f} s, {len(held)} afterwards, "
        "8 domains, 8 QEMUs",
    )


def test_a_create_cancelled_while_its_image_is_fetched_leaves_nothing(
    two: Lab, person: User, operations: Any, tmp_path: Path, shows: Shows
) -> None:
    large = tmp_path / "large.raw"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    person.upload("large", large)
    answer = person.create("fetching", image="large", flavor="nano", disk_bytes=LARGE_BYTES)
    ident = answer.operation.id
    seen: list[str] = []

    def fetches() -> bool:
        message = shown(operations, ident).progress_message
        seen.append(message)
        return message.startswith("fetch image: ")

    wait_for(fetches, "it fetches", 60)
    cancel(operations, ident)
    ended = until_ended(operations, ident, 60)
    assert ended.state == CANCELLED
    assert_nothing_left(two, answer.instance.id)
    shows("solid cancelled in a fetch", f"at '{seen[-1]}': CANCELLED, nothing left")


def test_a_create_cancelled_while_its_host_s_libvirt_hangs_leaves_nothing(
    two: Lab, person: User, operations: Any, shows: Shows
) -> None:
    with hung_libvirt(two, "h1"):
        answers = [person.create(f"given-up-{number}") for number in range(4)]
        wait_for(lambda: any(_host(person, a) == "h1" for a in answers), "one is on h1", 60)
        time.sleep(1)
        for answer in answers:
            cancel(operations, answer.operation.id)
    states = [until_ended(operations, answer.operation.id, 60).state for answer in answers]
    here = [a for a, state in zip(answers, states, strict=True) if state == CANCELLED]
    assert here
    for answer in here:
        assert_nothing_left(two, answer.instance.id)
    shows("solid cancelled at a hung host", f"{len(here)} CANCELLED, nothing left of them")


@pytest.mark.timeout(400)
def test_an_agent_outlives_a_libvirt_that_hangs_for_long_on_a_busy_machine(
    two: Lab, person: User, shows: Shows
) -> None:
    person.delete_all()
    for number in range(8):
        person.launch(f"early-{number}")
    before = two.site.running("h1", "agent")
    hung_s = count(HUNG_S, 15)
    with busy_processors(), hung_libvirt(two, "h1"):
        answers = [person.create(f"late-{number}") for number in range(4)]
        time.sleep(hung_s)
    for answer in answers:
        person.finish(answer.operation)
    person.delete_all()
    after = two.site.running("h1", "agent")
    assert before is not None
    assert after == before, "the agent died, and nothing started it again"
    assert not any(two.qemu_pids(host) for host in two.spec.host_names)
    shows("solid libvirt hung for long", f"{hung_s} s on a busy machine: the same agent, all done")


def _host(person: User, answer: Any) -> str:
    return str(person.get(answer.instance.id).host_name)

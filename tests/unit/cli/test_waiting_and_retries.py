"""Waiting for operations, and repeating what may be repeated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import unkai
from tests.support.fake_api import FakeApi
from tests.support.served_api import ServedApi
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.operation.v1 import operation_pb2, operation_service_pb2
from unkai_cli.client import Client, Patience
from unkai_cli.settings import Context
from unkai_wire.errors import Conflict, NoCapacity, Unavailable
from unkai_wire.rpc_errors import to_status

OPERATION = "opr-00000000000000000000000001"
INSTANCE = "ins-00000000000000000000000001"
IMAGE = "img-00000000000000000000000001"
State = operation_pb2.Operation.State
AWAY = Unavailable("the leader is changing")


def _operation(state: int = State.STATE_RUNNING, **fields: Any) -> operation_pb2.Operation:
    return operation_pb2.Operation(
        id=OPERATION,
        verb=operation_pb2.Operation.VERB_CREATE,
        resource_kind="instance",
        resource_id=INSTANCE,
        state=state,  # type: ignore[arg-type]
        request_id="req-1",
        **fields,
    )


def _waited(*answers: Any) -> list[Any]:
    kind = operation_service_pb2.WaitOperationResponse
    return [
        kind(operation=answer) if isinstance(answer, operation_pb2.Operation) else answer
        for answer in answers
    ]


@pytest.fixture
def creating(fake: FakeApi) -> FakeApi:
    """A cloud that accepts one create and answers reads of that instance."""
    instance = instance_pb2.Instance(
        id=INSTANCE, name="web", state=instance_pb2.Instance.STATE_RUNNING, host_name="h1"
    )
    project = project_pb2.Project(id="prj-1", name="default")
    fake.script("ListProjects", project_service_pb2.ListProjectsResponse(projects=[project]))
    fake.script(
        "CreateInstance",
        instance_service_pb2.CreateInstanceResponse(instance=instance, operation=_operation()),
    )
    fake.script("GetInstance", instance_service_pb2.GetInstanceResponse(instance=instance))
    fake.script("GetOperation", operation_service_pb2.GetOperationResponse(operation=_operation()))
    return fake


def _launch(*more: str) -> Any:
    return unkai("launch", IMAGE, "web", "-c", "1", "-m", "64M", *more)


def test_launch_tells_each_step_and_ends_with_the_row_and_what_to_do_next(
    creating: FakeApi,
) -> None:
    creating.script(
        "WaitOperation",
        *_waited(
            _operation(progress_message="waiting for capacity", queue_position=2),
            _operation(progress_message="fetching image", progress_percent=40),
            _operation(State.STATE_SUCCEEDED, progress_message="done", progress_percent=100),
        ),
    )
    outcome = _launch()
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split()[:3] == ["web", "RUNNING", "h1"]
    assert outcome.err.splitlines()[:4] == [
        "create instance: running",
        "create instance: waiting for capacity (number 2 in the queue)",
        "create instance: fetching image 40%",
        "create instance: done",
    ]
    assert "'unkai instance logs web'" in outcome.err.splitlines()[-1]


def test_a_failed_operation_fails_as_the_call_would_have(creating: FakeApi) -> None:
    full = to_status(NoCapacity("no host fits", reasons={"memory": 3}, fix="ask for less"))
    creating.script("WaitOperation", *_waited(_operation(State.STATE_FAILED, error=full)))
    outcome = _launch()
    assert (outcome.code, outcome.out) == (5, "")
    assert outcome.err.splitlines()[-4:] == [
        "  why: NO_CAPACITY",
        "       memory: 3 hosts",
        "  fix: ask for less",
        "  request: req-1",
    ]


def test_without_waiting_the_operation_is_named_and_nothing_is_awaited(creating: FakeApi) -> None:
    outcome = _launch("--no-wait")
    assert outcome.code == 0
    assert f"'unkai operation wait {OPERATION}'" in outcome.err
    assert creating.asked["WaitOperation"] == []


def test_the_end_of_patience_says_how_to_go_on_waiting(creating: FakeApi) -> None:
    creating.script("WaitOperation", *_waited(_operation()))
    outcome = _launch("--timeout", "0")
    assert outcome.code == 6
    assert "STILL_RUNNING" in outcome.err
    assert f"'unkai operation wait {OPERATION}'" in outcome.err


def test_an_interrupt_says_how_to_come_back_and_what_stops_it(creating: FakeApi) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    creating.script("WaitOperation", *_waited(_operation()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unkai_cli.client.Client._look_at", interrupted)
        outcome = _launch()
    assert outcome.code == 130
    assert f"'unkai operation wait {OPERATION}'" in outcome.err
    assert f"'unkai operation cancel {OPERATION}'" in outcome.err


def test_a_scheduler_that_goes_away_while_we_wait_does_not_end_the_wait(
    creating: FakeApi,
) -> None:
    away = [AWAY] * (2 * Patience().tries)
    done = _operation(State.STATE_SUCCEEDED, progress_message="done")
    creating.script("WaitOperation", *away, *_waited(done))
    outcome = _launch()
    assert outcome.code == 0
    assert "the leader is changing; trying again" in outcome.err


def test_all_are_awaited_even_when_one_fails(cloud: ServedApi) -> None:
    for name in ("one", "two"):
        cloud.do(cloud.api.create(name))
    cloud.lead(cloud.leader.settle)
    cloud.leader.failures.append(Conflict("one is stuck", reason="STUCK"))
    outcome = unkai("instance", "stop", "one", "two")
    assert outcome.code == 4
    assert "STUCK" in outcome.err
    states = unkai("instance", "list", "-o", "value=state").out.split()
    assert sorted(states) == ["FAILED", "STOPPED"]


def test_of_several_those_that_succeeded_are_shown_beside_the_failure(cloud: ServedApi) -> None:
    for name in ("one", "two"):
        cloud.do(cloud.api.create(name))
    cloud.lead(cloud.leader.settle)
    cloud.leader.failures.append(Conflict("this one is stuck", reason="STUCK"))
    outcome = unkai("instance", "delete", "one", "two")
    assert outcome.code == 4
    assert "STUCK" in outcome.err
    deleted = {name for name in ("one", "two") if f"{name} deleted" in outcome.err}
    assert len(deleted) == 1, outcome.err


def test_while_no_scheduler_answers_the_others_are_not_tried(fake: FakeApi) -> None:
    flavors = ["flv-0000000000000000000000000" + last for last in "12"]
    fake.script("DeleteFlavor", AWAY)
    assert unkai("flavor", "delete", *flavors).code == 6
    assert {request.flavor_id for request in fake.asked["DeleteFlavor"]} == {flavors[0]}


def test_a_change_is_repeated_with_the_same_request_id_while_unavailable(fake: FakeApi) -> None:
    made = project_service_pb2.CreateProjectResponse(project=project_pb2.Project(name="lab"))
    fake.script("CreateProject", AWAY, AWAY, made)
    outcome = unkai("project", "create", "lab")
    assert outcome.code == 0
    sent = [request.request_id for request in fake.asked["CreateProject"]]
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert sent[0]


def test_the_repeating_is_bounded(fake: FakeApi) -> None:
    fake.script("CreateProject", AWAY)
    assert unkai("project", "create", "lab").code == 6
    assert len(fake.asked["CreateProject"]) == Patience().tries


def test_a_stream_that_could_not_begin_is_begun_again_and_one_that_broke_off_is_not(
    fake: FakeApi,
) -> None:
    line = instance_service_pb2.ReadConsoleLogResponse(output=b"login: ")
    fake.script("GetInstance", instance_service_pb2.GetInstanceResponse())
    fake.script("ReadConsoleLog", [AWAY], [AWAY], [line, line])
    outcome = unkai("instance", "logs", INSTANCE)
    assert (outcome.code, outcome.out.strip()) == (0, "login: login:")
    assert len(fake.asked["ReadConsoleLog"]) == 3

    fake.script("ReadConsoleLog", [line, AWAY], [line])
    assert unkai("instance", "logs", INSTANCE).code == 6
    assert len(fake.asked["ReadConsoleLog"]) == 4


@pytest.mark.parametrize("reason", ["HOST_SILENT", "HOST_UNREACHABLE"])
def test_a_stream_that_a_host_keeps_from_beginning_is_not_begun_again(
    fake: FakeApi, reason: str
) -> None:
    fake.script("GetInstance", instance_service_pb2.GetInstanceResponse())
    fake.script("ReadConsoleLog", [Unavailable("host h1 says nothing", reason=reason)])
    outcome = unkai("instance", "logs", INSTANCE)
    assert (outcome.code, reason in outcome.err) == (6, True)
    assert len(fake.asked["ReadConsoleLog"]) == 1


@pytest.mark.parametrize("schedulers", [1, 2])
def test_once_its_time_is_up_a_stream_is_begun_at_no_scheduler_a_second_time(
    fake: FakeApi, schedulers: int
) -> None:
    fake.script("ReadConsoleLog", [AWAY])
    context = Context("ours", socket=",".join([str(fake.socket)] * schedulers))
    client = Client(context, patience=Patience(beginning_s=0.0))
    with pytest.raises(Unavailable):
        next(client.stream("InstanceService", "ReadConsoleLog", instance_id=INSTANCE))
    assert len(fake.asked["ReadConsoleLog"]) == schedulers


def test_other_errors_are_not_repeated(fake: FakeApi) -> None:
    fake.script("CreateProject", Conflict("moved"))
    assert unkai("project", "create", "lab").code == 4
    assert len(fake.asked["CreateProject"]) == 1


def test_pauses_between_tries_grow_and_have_a_cap(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("unkai_cli.client.time.sleep", pauses.append)
    fake.script("CreateProject", Unavailable("away", retry_after_s=0.0))
    unkai("project", "create", "lab")
    assert len(pauses) == Patience().tries - 1
    assert pauses[0] < 0.3
    assert max(pauses) <= 2.6


def test_operation_wait_shows_what_the_operation_became(creating: FakeApi) -> None:
    done = _operation(State.STATE_SUCCEEDED, progress_message="done", progress_percent=100)
    creating.script("WaitOperation", *_waited(done))
    creating.script("GetOperation", operation_service_pb2.GetOperationResponse(operation=done))
    outcome = unkai("operation", "wait", OPERATION)
    assert outcome.code == 0
    assert "SUCCEEDED" in outcome.out


def test_operation_cancel_asks_for_it_to_be_given_up(cloud: ServedApi) -> None:
    cloud.leader.idle = True
    created = cloud.do(cloud.api.create("web"))
    assert unkai("operation", "cancel", created.operation.id).code == 0
    shown = unkai("operation", "show", created.operation.id, "-o", "value=cancel_requested_time")
    assert shown.out.startswith("2026-")


def test_a_call_goes_to_the_next_scheduler_when_one_does_not_answer(
    creating: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alive = os.environ["UNKAI_SOCKET"]
    monkeypatch.setenv("UNKAI_SOCKET", f"{tmp_path}/dead.sock,{alive}")
    creating.script("WaitOperation", *_waited(_operation(State.STATE_SUCCEEDED)))
    assert _launch().code == 0


def test_a_call_tried_again_elsewhere_is_the_same_request(
    creating: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = os.environ["UNKAI_SOCKET"]
    monkeypatch.setenv("UNKAI_SOCKET", f"{alive},{alive}")
    made = instance_service_pb2.CreateInstanceResponse(
        instance=instance_pb2.Instance(id=INSTANCE, name="web"), operation=_operation()
    )
    creating.script("CreateInstance", AWAY, made)
    creating.script("WaitOperation", *_waited(_operation(State.STATE_SUCCEEDED)))
    assert _launch().code == 0
    first, second = creating.asked["CreateInstance"]
    assert first == second

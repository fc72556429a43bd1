"""`--watch` of lists and `event watch`: what changes is printed, until interrupted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.command_line import unkai
from tests.support.fake_api import FakeApi
from unkai.compute.v1 import flavor_pb2, flavor_service_pb2
from unkai.event.v1 import event_pb2, event_service_pb2
from unkai_wire.errors import FailedPrecondition, Internal, NotFound, Unavailable

AWAY = Unavailable("away")
END = Internal("the test ends here")


def _flavor(name: str) -> flavor_pb2.Flavor:
    return flavor_pb2.Flavor(id=f"flv-{name}", name=name, vcpus=1, memory_bytes=1 << 20)


def _event(name: str, revision: str) -> event_service_pb2.WatchEventsResponse:
    event = event_pb2.Event(
        resource_kind="flavor", resource_id=f"flv-{name}", resource_name=name, revision=revision
    )
    return event_service_pb2.WatchEventsResponse(event=event, revision=revision)


@pytest.fixture
def watched(fake: FakeApi) -> FakeApi:
    """A cloud of one flavor, and of two that come."""
    fake.script("ListEvents", event_service_pb2.ListEventsResponse(revision="1.5"))
    fake.script("ListFlavors", flavor_service_pb2.ListFlavorsResponse(flavors=[_flavor("old")]))
    fake.script(
        "GetFlavor",
        flavor_service_pb2.GetFlavorResponse(flavor=_flavor("new")),
        NotFound.of("flavor", "flv-gone"),
    )
    return fake


def _asked_after(fake: FakeApi) -> list[str]:
    return [request.after_revision for request in fake.asked["WatchEvents"]]


def test_a_watched_list_shows_the_list_then_each_thing_that_changed(watched: FakeApi) -> None:
    watched.script("WatchEvents", [_event("new", "1.6"), _event("gone", "1.7"), END])
    outcome = unkai("flavor", "list", "--watch")
    titles, *rows = outcome.out.splitlines()
    assert titles.startswith("NAME")
    assert [row.split()[0] for row in rows] == ["old", "new"]
    assert "gone is gone" in outcome.err
    assert watched.asked["WatchEvents"][0].resource_kinds == ["flavor"]


def test_a_watch_begins_at_the_history_as_it_was_before_the_list(watched: FakeApi) -> None:
    watched.script("WatchEvents", [END])
    unkai("flavor", "list", "--watch")
    assert _asked_after(watched) == ["1.5"]


def test_a_watch_goes_on_where_it_was_when_the_scheduler_was_away(watched: FakeApi) -> None:
    watched.script("WatchEvents", [_event("new", "1.6"), AWAY], [AWAY], [END])
    outcome = unkai("flavor", "list", "--watch")
    assert _asked_after(watched) == ["1.5", "1.6", "1.6"]
    assert outcome.code == 1


def test_a_watch_does_not_look_for_a_lost_scheduler_for_ever(watched: FakeApi) -> None:
    watched.script("WatchEvents", [AWAY])
    assert unkai("flavor", "list", "--watch").code == 6


def test_a_history_that_began_anew_lists_anew(watched: FakeApi) -> None:
    gone = FailedPrecondition("another epoch", reason="REVISION_GONE")
    watched.script("WatchEvents", [gone], [END])
    outcome = unkai("flavor", "list", "--watch")
    assert [line.split()[0] for line in outcome.out.splitlines()].count("old") == 2


def test_watched_json_is_one_object_a_line(watched: FakeApi) -> None:
    watched.script("WatchEvents", [_event("new", "1.6"), END])
    outcome = unkai("flavor", "list", "--watch", "-o", "json")
    records: list[dict[str, Any]] = [json.loads(line) for line in outcome.out.splitlines()]
    assert [record["name"] for record in records] == ["old", "new"]


def test_event_watch_prints_events_and_leaves_notes_of_progress_out(fake: FakeApi) -> None:
    silence = event_service_pb2.WatchEventsResponse(revision="1.9")
    fake.script("WatchEvents", [_event("new", "1.6"), silence, END])
    outcome = unkai("event", "watch", "--kind", "flavor", "--after", "1.5")
    assert len(outcome.out.splitlines()) == 1
    assert "new" in outcome.out
    assert _asked_after(fake) == ["1.5"]


def test_watched_operations_are_those_of_the_resource_and_activity_asked_for(
    fake: FakeApi,
) -> None:
    from unkai.operation.v1 import operation_pb2, operation_service_pb2

    kind = operation_pb2.Operation
    fake.script("ListEvents", event_service_pb2.ListEventsResponse(revision="1.5"))
    fake.script("ListOperations", operation_service_pb2.ListOperationsResponse())
    answers = [
        kind(id="opr-1", resource_id="ins-1", state=kind.STATE_RUNNING),
        kind(id="opr-2", resource_id="ins-2", state=kind.STATE_RUNNING),
        kind(id="opr-3", resource_id="ins-1", state=kind.STATE_SUCCEEDED),
    ]
    get = operation_service_pb2.GetOperationResponse
    told = [_event(each.id, "1.6") for each in answers]

    def watched(*words: str) -> list[str]:
        fake.script("GetOperation", *(get(operation=each) for each in answers))
        fake.script("WatchEvents", [*told, END])
        return unkai("operation", "list", "-A", "-w", "-o", "name", *words).out.split()

    assert watched() == ["opr-1", "opr-2", "opr-3"]
    assert watched("--resource", "ins-1") == ["opr-1", "opr-3"]
    assert watched("--resource", "ins-1", "--active") == ["opr-1"]


def test_a_changed_instance_that_no_longer_matches_is_not_shown(fake: FakeApi) -> None:
    from unkai.compute.v1 import instance_pb2, instance_service_pb2

    kind = instance_pb2.Instance
    fake.script("ListEvents", event_service_pb2.ListEventsResponse(revision="1.5"))
    fake.script("ListInstances", instance_service_pb2.ListInstancesResponse())
    answers = [
        kind(name="one", state=kind.STATE_RUNNING, labels={"app": "shop"}),
        kind(name="two", state=kind.STATE_STOPPED, labels={"app": "shop"}),
        kind(name="three", state=kind.STATE_RUNNING),
    ]
    get = instance_service_pb2.GetInstanceResponse
    fake.script("GetInstance", *(get(instance=each) for each in answers))
    fake.script("WatchEvents", [*(_event(each.name, "1.6") for each in answers), END])
    outcome = unkai("ls", "-A", "-w", "--state", "running", "-l", "app", "-o", "name")
    assert outcome.out == "one\n"

"""`--trace` names a trace and sends it with each call; `$TRACEPARENT` is passed on."""

from __future__ import annotations

import pytest

from tests.support.command_line import unkai
from tests.support.fake_api import FakeApi
from unkai.compute.v1 import flavor_service_pb2
from unkai_wire.tracing import KEY, is_traceparent

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
def listing(fake: FakeApi) -> FakeApi:
    fake.script("ListFlavors", flavor_service_pb2.ListFlavorsResponse())
    return fake


def test_a_traced_call_says_its_trace_and_carries_it(listing: FakeApi) -> None:
    done = unkai("--trace", "flavor", "list")
    assert done.code == 0
    (sent,) = [dict(metadata)[KEY] for metadata in listing.metadata["ListFlavors"]]
    assert is_traceparent(sent)
    assert f"trace {sent.split('-')[1]}" in done.err


def test_a_trace_of_the_environment_is_joined(
    listing: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    assert "trace" not in unkai("flavor", "list").err
    assert [dict(metadata)[KEY] for metadata in listing.metadata["ListFlavors"]] == [PARENT]


def test_without_either_nothing_is_sent(listing: FakeApi) -> None:
    assert unkai("flavor", "list").code == 0
    assert all(KEY not in dict(metadata) for metadata in listing.metadata["ListFlavors"])

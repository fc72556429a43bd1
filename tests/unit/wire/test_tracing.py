"""Traces cost nothing when they are off, begin with a call alone, and travel as W3C text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unkai_wire import tracing
from unkai_wire.errors import FailedPrecondition, NotFound
from unkai_wire.tls import TlsFiles

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def options(ratio: float = 1.0) -> tracing.Options:
    nowhere = TlsFiles(Path("ca"), Path("crt"), Path("key"))
    # Port 9 (discard): nobody listens, as with a collector that is dead.
    return tracing.Options("unkai-test", "t1", "0", "http://127.0.0.1:9", ratio, nowhere)


@pytest.fixture
def on() -> Iterator[None]:
    stop = tracing.start(options())
    yield
    stop()


def test_off_nothing_is_imported_and_nothing_is_sent() -> None:
    code = (
        "import sys, unkai_scheduler.main, unkai_agent.main\n"
        "from unkai_wire import tracing\n"
        "with tracing.continued('x'), tracing.span('s'): assert tracing.traceparent() == ''\n"
        "tracing.record('s', 'x', 1.0, {})\n"
        "assert not tracing.server_interceptors(begins=True) + tracing.client_interceptors()\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_outside_of_a_trace_no_span_is_made(on: None) -> None:
    with tracing.span("of a timer"):
        assert tracing.traceparent() == ""


def test_a_kept_trace_is_taken_up_again(on: None) -> None:
    with tracing.continued(PARENT):
        assert tracing.traceparent() == PARENT
        with tracing.span("step"):
            inside = tracing.traceparent()
    assert inside.split("-")[1] == PARENT.split("-")[1]
    assert inside != PARENT
    assert tracing.traceparent() == ""


@pytest.mark.parametrize("text", ["", "00-1-2-01", PARENT + "x", PARENT.replace("ab", "00")])
def test_what_is_no_trace_is_none(on: None, text: str) -> None:
    with tracing.continued(text):
        assert tracing.traceparent() == ""


def test_a_trace_that_is_not_sampled_is_not_kept(on: None) -> None:
    with tracing.continued(PARENT[:-2] + "00"), tracing.span("step"):
        assert tracing.traceparent() == ""


def test_what_fails_in_a_span_fails(on: None) -> None:
    with pytest.raises(NotFound), tracing.continued(PARENT), tracing.span("step"):
        raise NotFound.of("instance", "x")


def test_a_dead_collector_costs_two_seconds_at_the_end_and_a_bounded_queue() -> None:
    import time

    stop = tracing.start(options())
    began_s = time.monotonic()
    with tracing.continued(PARENT):
        for _ in range(3 * tracing.QUEUE_SPANS):
            with tracing.span("dropped, most of it"):
                pass
    assert time.monotonic() - began_s < 5
    began_s = time.monotonic()
    stop()
    assert time.monotonic() - began_s < tracing.STOP_S + 1


def test_without_opentelemetry_turning_it_on_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(FailedPrecondition, match=r"pip install|not installed") as refused:
        tracing.start(options())
    assert refused.value.reason == "TRACING_NOT_INSTALLED"
    assert "unkai[tracing]" in refused.value.fix


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("", True),
        ("https://collector:4317", True),
        ("http://127.0.0.1:4317", True),
        ("http://[::1]:4317", True),
        ("http://192.0.2.7:4317", False),
        ("https://collector", False),
        ("collector:4317", False),
    ],
)
def test_traces_leave_the_machine_encrypted_alone(text: str, fine: bool) -> None:
    if fine:
        assert tracing.check_endpoint(text) == text
    else:
        with pytest.raises(ValueError, match="https"):
            tracing.check_endpoint(text)

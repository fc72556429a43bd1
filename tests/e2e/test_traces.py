"""Story: one trace spans the API's call, the transaction, placement, the host's steps, libvirt."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.acceptance import Shows
from tests.support.collector import Collector, Span, collecting
from tests.support.daemons import LOCAL, Cloud, Daemon, cloud_of_daemons, until
from tests.support.images import built_tiny
from tests.support.libvirt import PrivateLibvirt, private_libvirt, unavailable_reason
from tests.support.user_commands import CommandLine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason() or "-"),
]
LAST_SPANS_S = 2.5
"""Spans are sent every second."""
SECRET = "correct-horse-battery-staple"
CREATE = "unkai.compute.v1.InstanceService/CreateInstance"
ENSURE = "unkai.agent.v1.MachineService/EnsureMachine"


def unkai(cloud: Cloud, scheduler: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return CommandLine(cloud, scheduler)(*words)


def traced_cloud(cloud: Cloud, libvirt: PrivateLibvirt, endpoint: str) -> tuple[Daemon, Daemon]:
    """Start a scheduler and a host that trace; return them once the host is UP."""
    tracing = {"endpoint": endpoint}
    scheduler = cloud.scheduler("s1", tracing=tracing)
    host = cloud.host(
        "h1",
        state_dir=libvirt.folder / "agent",
        tracing=tracing,
        libvirt={"uri": libvirt.uri},
        converge={"resync_s": 0.5},
    )
    for daemon in (scheduler, host):
        daemon.start()
    until(
        lambda: "UP" in unkai(cloud, scheduler, "host", "list").stdout,
        "the host is UP",
        within_s=90,
    )
    return scheduler, host


def named(spans: list[Span], *starts: str) -> list[Span]:
    return [span for span in spans if span.name.startswith(starts)]


def missing(spans: list[Span]) -> list[str]:
    """Tell what the trace of an instance's creation lacks."""
    wanted = {
        "API call": named(spans, CREATE),
        "transaction": named(spans, "database write"),
        "claims": named(spans, "transaction"),
        "placement": named(spans, "placement"),
        "order": named(spans, "order ensure"),
        "call of the agent": [s for s in named(spans, ENSURE) if s.service == "unkai-agent"],
        "steps": named(spans, "step "),
        "qemu-img": named(spans, "qemu-img create"),
        "libvirt": named(spans, "libvirt define", "libvirt start"),
        "libvirt's start": named(spans, "libvirt start"),
    }
    return [what for what, found in wanted.items() if not found]


def chain_of(spans: list[Span]) -> list[Span]:
    """Return libvirt's start, and what it hangs by, up to the last parent that has come."""
    by_id = {span.span_id: span for span in spans}
    chain = named(spans, "libvirt start")[:1]
    while chain and chain[-1].parent_id in by_id:
        chain.append(by_id[chain[-1].parent_id])
    return chain


def wait_whole(collector: Collector, trace_id: str) -> list[Span]:
    """Return the spans of the trace once all have come: parents end, and are sent, last."""

    def is_whole() -> bool:
        spans = collector.of_trace(trace_id)
        return not missing(spans) and chain_of(spans)[-1].name == CREATE

    with suppress(AssertionError):  # the story tells what is not there
        until(is_whole, "the trace is whole")
    return collector.of_trace(trace_id)


def stands_still(collector: Collector, trace_id: str) -> bool:
    """Tell whether no span of the trace comes for a while."""
    count = len(collector.of_trace(trace_id))
    time.sleep(2 * LAST_SPANS_S)
    return len(collector.of_trace(trace_id)) == count


def test_one_trace_spans_the_api_to_libvirt(tmp_path: Path, shows: Shows) -> None:
    tiny = built_tiny()
    user_data = tmp_path / "user-data"
    user_data.write_text(f"#cloud-config\nruncmd: [echo {SECRET}]\n")
    with (
        private_libvirt() as libvirt,
        cloud_of_daemons(tmp_path) as cloud,
        collecting() as collector,
    ):
        # 1. A cloud whose daemons trace, and an instance that asks to be traced.
        scheduler, host = traced_cloud(cloud, libvirt, collector.endpoint)
        unkai(cloud, scheduler, "image", "upload", "tiny", str(tiny))
        launch = ("launch", "tiny", "web", "--flavor", "nano", "--user-data", str(user_data))
        done = unkai(cloud, scheduler, "--trace", *launch, "--wait")
        trace_id = done.stderr.split("trace ")[1].split()[0]

        # 2. One trace has it all, from two processes.
        spans = wait_whole(collector, trace_id)
        assert missing(spans) == [], sorted({span.name for span in spans})
        assert {span.service for span in spans} == {"unkai-scheduler", "unkai-agent"}

        # 3. What libvirt did hangs by its parents from the call of the API.
        chain = chain_of(spans)
        assert chain[-1].name == CREATE, [span.name for span in chain]

        # 4. Nothing secret, and nothing a user wrote, leaves with a trace.
        assert SECRET.encode() not in collector.raw
        assert b"cloud-config" not in collector.raw
        assert b"PRIVATE KEY" not in collector.raw

        # 5. Once it runs, timers look at it and make no spans.
        until(lambda: stands_still(collector, trace_id), "no more spans come", 30)
        assert stands_still(collector, trace_id)
        # 6. The figures of a real guest, and of what it took to make it.
        figures = {
            sample.name: sample.value
            for family in text_string_to_metric_families(cloud.figures(host))
            for sample in family.samples
            if sample.labels.get("call", "start") == "start"
        }
        assert figures["unkai_instance_cpu_seconds_total"] > 0
        assert figures["unkai_instance_memory_resident_bytes"] > 0
        assert figures["unkai_agent_hypervisor_seconds_count"] >= 1
        assert figures["unkai_agent_qemu_img_seconds_count"] >= 1
        assert figures["unkai_agent_registered"] == 1
        shows(
            "solid 11 trace",
            f"{len(spans)} spans of one trace, {len(chain)} deep: "
            + " < ".join(span.name.rpartition("/")[2] for span in chain),
        )


def test_a_dead_collector_harms_nothing(tmp_path: Path) -> None:
    with cloud_of_daemons(tmp_path) as cloud:
        scheduler = cloud.scheduler("s1", tracing={"endpoint": f"http://{LOCAL}:9"})
        fleet = cloud.fleet("f1", 1, tracing={"endpoint": f"http://{LOCAL}:9"})
        scheduler.start()
        fleet.start()
        until(
            lambda: "UP" in unkai(cloud, scheduler, "host", "list").stdout,
            "the host is UP",
            within_s=90,
        )
        for _ in range(5):
            unkai(cloud, scheduler, "--trace", "flavor", "list")
        scheduler.stop()
        assert "scheduler_stopped" in scheduler.log.read_text()
        assert "opentelemetry" not in scheduler.log.read_text().lower()

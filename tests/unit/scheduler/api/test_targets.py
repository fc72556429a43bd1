"""Prometheus is told of every endpoint once, and of nothing that is none."""

from __future__ import annotations

from dataclasses import replace

from unkai_scheduler.api.targets import REMEMBERED_S, Targets
from unkai_scheduler.cluster.port import Membership
from unkai_scheduler.settings import Settings
from unkai_wire.cluster_records import HostRecord, SchedulerRecord

H1 = HostRecord(
    host_id="host-1",
    name="h1",
    address="192.0.2.1:7444",
    tls_name="host-1.host.unkai.internal",
    cpus=1,
    memory_bytes=1,
    disk_bytes=1,
    accelerator="kvm",
    accelerator_reason="",
    traits=(),
    boot_id="b",
    agent_version="1",
    metrics_address="192.0.2.1:9444",
)


def found(*hosts: HostRecord) -> list[tuple[str, str, str]]:
    scheduler = SchedulerRecord("s1", "192.0.2.9:7443", "1", "192.0.2.9:9443")
    return shown(Targets(), Membership({h.host_id: h for h in hosts}, {"s1": scheduler}, None))


def shown(targets: Targets, membership: Membership) -> list[tuple[str, str, str]]:
    page = targets.page(membership)
    return [(t["labels"]["job"], t["labels"]["instance"], *t["targets"]) for t in page]


def test_hosts_and_schedulers_are_targets_under_their_names() -> None:
    assert found(H1) == [
        ("unkai-agent", "h1", "192.0.2.1:9444"),
        ("unkai-scheduler", "s1", "192.0.2.9:9443"),
    ]


def test_hosts_behind_one_endpoint_are_one_target() -> None:
    twin = replace(H1, host_id="host-2", name="h2")
    assert [t[1] for t in found(H1, twin)] == ["192.0.2.1:9444", "s1"]


def test_an_address_that_a_host_invents_is_left_out() -> None:
    for invented in ("", "h1", ":9444", "h1:x", "evil/?:80", "h\n1:80", "h1:0"):
        assert [t[0] for t in found(replace(H1, metrics_address=invented))] == ["unkai-scheduler"]


def test_a_scheduler_that_listens_everywhere_is_known_by_where_it_is_reached() -> None:
    settings = Settings(advertise="192.0.2.9:7443")
    assert settings.advertise_metrics_address == "192.0.2.9:9443"
    settings = Settings(metrics_listen="[2001:db8::1]:1", advertise="192.0.2.9:7443")
    assert settings.advertise_metrics_address == "[2001:db8::1]:1"
    assert Settings(metrics_listen="").advertise_metrics_address == ""


def test_who_is_lost_is_shown_for_a_day_so_that_it_is_missed() -> None:
    now_s = 0.0
    targets, nobody = Targets(monotonic=lambda: now_s), Membership({}, {}, None)
    shown(targets, Membership({"host-1": H1}, {}, None))
    now_s = REMEMBERED_S - 1
    assert [t[1] for t in shown(targets, nobody)] == ["h1"]
    now_s = REMEMBERED_S
    assert shown(targets, nobody) == []

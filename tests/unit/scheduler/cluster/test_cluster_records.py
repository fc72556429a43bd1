"""From etcd's keys and values to the membership."""

from __future__ import annotations

import dataclasses

import pytest

from unkai_scheduler.cluster.port import Membership
from unkai_scheduler.cluster.records import membership_of
from unkai_wire.cluster_records import (
    LEADER_KEY,
    PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
    scheduler_key,
)
from unkai_wire.fleets import fleet_host_id
from unkai_wire.tls import SCHEDULER_TLS_NAME, fleet_tls_name, host_tls_name

SCHEDULER = SchedulerRecord("s1", "127.0.0.1:7443", "0.1.0")
TLS_NAME = host_tls_name("hst-1")
HOST = HostRecord("hst-1", "h1", "a:1", TLS_NAME, 2, 1, 1, "tcg", "", ("T",), "b", "0.1.0")
MEMBER = dataclasses.replace(HOST, host_id=fleet_host_id("lab", 1), tls_name=fleet_tls_name("lab"))


def entry(key: str, value: str) -> tuple[bytes, bytes]:
    return key.encode(), value.encode()


def test_hosts_schedulers_and_the_leader_are_sorted_out() -> None:
    entries = [
        entry(host_key("hst-1"), HOST.to_json()),
        entry(LEADER_KEY, SCHEDULER.to_json()),
        entry(scheduler_key("s1"), SCHEDULER.to_json()),
    ]

    assert membership_of(entries) == Membership({"hst-1": HOST}, {"s1": SCHEDULER}, SCHEDULER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (host_key("hst-2"), HOST.to_json()),
        (host_key("hst-2"), "{"),
        (host_key("hst-2"), "[]"),
        (scheduler_key("s2"), "{}"),
        (LEADER_KEY, '{"name":"s1"}'),
        (f"{PREFIX}/other", "anything"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_the_rest_stays(key: str, value: str) -> None:
    entries = [entry(key, value), entry(host_key("hst-1"), HOST.to_json())]

    assert membership_of(entries) == Membership({"hst-1": HOST}, {}, None)


def test_fields_of_a_newer_version_are_ignored() -> None:
    value = HOST.to_json()[:-1] + ',"colour":"blue"}'

    assert membership_of([entry(host_key("hst-1"), value)]).hosts == {"hst-1": HOST}


def test_a_fleet_s_host_is_believed_under_its_own_fleet_s_name() -> None:
    found = membership_of([entry(host_key(MEMBER.host_id), MEMBER.to_json())])

    assert found.hosts == {MEMBER.host_id: MEMBER}


@pytest.mark.parametrize(
    ("record", "tls_name"),
    [
        (HOST, host_tls_name("hst-2")),
        (HOST, fleet_tls_name("lab")),
        (HOST, SCHEDULER_TLS_NAME),
        (MEMBER, fleet_tls_name("other")),
    ],
)
def test_a_host_that_another_s_certificate_would_answer_for_is_left_out(
    record: HostRecord, tls_name: str
) -> None:
    forged = dataclasses.replace(record, tls_name=tls_name)

    assert membership_of([entry(host_key(record.host_id), forged.to_json())]).hosts == {}

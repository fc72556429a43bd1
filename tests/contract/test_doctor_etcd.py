"""What doctors of both roles see of a real etcd: well, hanging, away, open to all, refusing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_etcd_auth import H1, Guarded
from tests.support.etcd import EtcdServer, running_etcd
from unkai_agent.doctor import etcd_access as of_agent
from unkai_scheduler.cluster import etcd_access as of_scheduler
from unkai_wire.cluster_records import (
    LEADER_KEY,
    HostRecord,
    SchedulerRecord,
    host_key,
    scheduler_key,
)
from unkai_wire.doctor import etcd as members
from unkai_wire.tls import TlsFiles, host_tls_name

pytestmark = pytest.mark.real

HOST = HostRecord(
    H1, "h1", "192.0.2.11:7444", host_tls_name(H1), 8, 1 << 30, 1 << 40, "kvm", "", (), "b", "0.1.0"
)
S1 = SchedulerRecord("s1", "192.0.2.1:7443", "0.1.0")


@pytest.fixture
def parties(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


@pytest.fixture
def etcd(tmp_path: Path, parties: Guarded) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path, server=parties.server) as server:
        yield server


def test_a_member_that_is_well_says_so_and_agrees_about_the_time(
    etcd: EtcdServer, parties: Guarded
) -> None:
    for secured in (False, True):
        if secured:
            parties.secure(etcd)
        found = members.look(etcd.endpoint, parties.h1)
        assert (found.trouble, found.healthy, found.has_leader) == ("", True, True)
        assert 0 < found.used_bytes < found.quota_bytes
        assert abs(found.ahead_s) < members.CLOCK_S


def test_a_member_that_hangs_and_one_that_is_away_are_not_reached(
    etcd: EtcdServer, parties: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "ANSWER_S", 0.3)
    etcd.freeze()
    hung = members.look(etcd.endpoint, parties.h1)
    etcd.thaw()
    etcd.stop()
    away = members.look(etcd.endpoint, parties.h1)
    assert "timed out" in hung.trouble
    assert "refused" in away.trouble
    assert not hung.trust
    assert not away.trust


def test_a_stranger_s_certificate_is_a_matter_of_trust(
    etcd: EtcdServer, parties: Guarded, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    others = Guarded(tmp_path / "other")
    theirs = members.look(etcd.endpoint, others.h1)
    mixed = TlsFiles(parties.h1.ca, others.h1.certificate, others.h1.key)
    ours = members.look(etcd.endpoint, mixed)
    assert theirs.trust
    assert "self" in theirs.trouble or "certificate" in theirs.trouble
    assert ours.trust, ours


def test_files_that_are_gone_are_ours_to_mend(etcd: EtcdServer, parties: Guarded) -> None:
    os.unlink(parties.h1.key)
    found = members.look(etcd.endpoint, parties.h1)
    assert found.ours
    assert of_agent.look([etcd.endpoint], parties.h1, H1) == of_agent.Access()


def test_an_etcd_that_asks_nobody_is_seen_by_both(etcd: EtcdServer, parties: Guarded) -> None:
    assert of_agent.look([etcd.endpoint], parties.h1, H1).unguarded
    assert of_scheduler.look([etcd.endpoint], parties.scheduler).unguarded
    parties.secure(etcd)
    assert not of_agent.look([etcd.endpoint], parties.h1, H1).unguarded
    assert not of_scheduler.look([etcd.endpoint], parties.scheduler).unguarded


def test_each_sees_what_it_may_of_what_stands_there(etcd: EtcdServer, parties: Guarded) -> None:
    client = etcd.client(parties.scheduler)
    client.put(host_key(H1), HOST.to_json())
    client.put(host_key("hst-odd"), "{")
    client.put(scheduler_key("s1"), S1.to_json())
    client.put(LEADER_KEY, S1.to_json())
    client.close()
    parties.secure(etcd)
    agent = of_agent.look([etcd.endpoint], parties.h1, H1)
    scheduler = of_scheduler.look([etcd.endpoint], parties.scheduler)
    assert (agent.answered, agent.refused) == (True, False)
    assert (agent.record, agent.schedulers) == (HOST, (S1,))
    assert (scheduler.hosts, scheduler.schedulers, scheduler.leader) == ((HOST,), (S1,), S1)
    assert scheduler.unreadable == 1


def test_who_is_no_user_is_refused(etcd: EtcdServer, parties: Guarded) -> None:
    parties.secure(etcd)
    assert of_agent.look([etcd.endpoint], parties.person, H1).refused
    assert of_scheduler.look([etcd.endpoint], parties.person).refused


def test_the_next_member_is_asked_where_one_is_away(etcd: EtcdServer, parties: Guarded) -> None:
    both = ["127.0.0.1:1", etcd.endpoint]
    assert of_agent.look(both, parties.h1, H1).answered
    assert of_scheduler.look(both, parties.scheduler).answered
    assert not of_agent.look(both[:1], parties.h1, H1).answered

"""What is found of etcd's members, from what they say."""

from __future__ import annotations

from unkai_wire.doctor import etcd
from unkai_wire.doctor.etcd import Member
from unkai_wire.doctor.findings import Severity

SOUND = Member("a:2379", healthy=True, has_leader=True, used_bytes=1 << 20, quota_bytes=2 << 30)
AWAY = Member("b:2379", "connection refused")


def test_sound_members_have_nothing() -> None:
    for judge in (etcd.reachable, etcd.trusted, etcd.quorum, etcd.space, etcd.clock):
        assert not list(judge([SOUND, SOUND]))


def test_one_member_away_is_a_warning_all_are_a_failure() -> None:
    assert [f.severity for f in etcd.reachable([SOUND, AWAY])] == [Severity.WARN]
    assert [f.severity for f in etcd.reachable([AWAY, AWAY])] == [Severity.FAIL] * 2


def test_files_of_ours_that_cannot_be_used_are_left_to_other_checks() -> None:
    ours = Member("a:2379", "no such file", ours=True)
    assert not [*etcd.reachable([ours]), *etcd.trusted([ours])]


def test_a_nearly_full_member_is_a_warning_one_with_an_alarm_a_failure() -> None:
    nearly = Member("a", healthy=True, has_leader=True, used_bytes=1800, quota_bytes=2000)
    full = Member("a", healthy=False, has_leader=True, used_bytes=2000, quota_bytes=2000)
    assert [f.severity for f in etcd.space([nearly, full])] == [Severity.WARN, Severity.FAIL]


def test_a_clock_is_told_with_its_direction() -> None:
    ahead = Member("a", healthy=True, has_leader=True, ahead_s=600)
    behind = Member("a", healthy=True, has_leader=True, ahead_s=-10)
    first, second = etcd.clock([ahead, behind])
    assert (first.severity, "600 s ahead of" in first.what) == (Severity.FAIL, True)
    assert (second.severity, "10 s behind" in second.what) == (Severity.WARN, True)


def test_a_member_whose_certificate_we_do_not_take_is_a_matter_of_trust_alone() -> None:
    stranger = Member("192.0.2.1:2379", "self-signed certificate", trust=True)
    (told,) = etcd.trusted([SOUND, stranger])
    assert told.severity is Severity.FAIL
    assert "--address 192.0.2.1" in told.fix
    assert not [*etcd.reachable([SOUND, stranger]), *etcd.quorum([SOUND, stranger])]


def test_a_member_that_answers_without_a_leader_is_told() -> None:
    (told,) = etcd.quorum([SOUND, Member("a:2379", healthy=False, has_leader=False)])
    assert "has no leader" in told.what

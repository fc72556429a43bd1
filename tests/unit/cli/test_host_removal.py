"""A host that is gone for ever is removed by its name and a statement."""

from __future__ import annotations

from tests.support.command_line import unkai
from tests.support.served_api import ServedApi

WHY = ("--statement", "burnt; the disks were shredded")


def test_a_host_is_removed_by_name_and_its_key_is_not_forgotten(cloud: ServedApi) -> None:
    cloud.leader.gone_hosts.add(cloud.host.id)

    outcome = unkai("host", "remove", "h1", *WHY)

    assert outcome.code == 0, outcome.err
    assert "h1" in outcome.out
    assert f"unkai-scheduler etcd revoke {cloud.host.id}" in outcome.err
    assert unkai("host", "list", "-o", "name").out == ""


def test_a_host_that_is_there_stays_and_the_refusal_says_what_to_do(cloud: ServedApi) -> None:
    outcome = unkai("host", "remove", "h1", *WHY)

    assert outcome.code != 0
    assert "HOST_NOT_GONE" in outcome.err
    assert "switch the host off" in outcome.err
    assert unkai("host", "list", "-o", "name").out == "h1\n"


def test_nobody_is_removed_without_a_statement(cloud: ServedApi) -> None:
    cloud.leader.gone_hosts.add(cloud.host.id)
    assert unkai("host", "remove", "h1").code == 2
    assert unkai("host", "remove", "h1", "--statement", "").code != 0
    assert unkai("host", "list", "-o", "name").out == "h1\n"

"""What a scheduler's certificate may see in etcd, and all that stands there; for `diagnose`.

Unlike `etcd.py` it must tell a refusal from silence, and see whether etcd asks for permission at
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from unkai_wire.cluster_records import (
    HOSTS_PREFIX,
    LEADER_KEY,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
)
from unkai_wire.doctor import etcd_keys
from unkai_wire.tls import TlsFiles

_OTHERS = "/unkai-doctor"
"""A key outside all that is ours: readable only where etcd asks nobody for permission."""


@dataclass(frozen=True, slots=True)
class Access:
    """What was found. `answered`: some member did; all else is worth nothing without."""

    answered: bool = False
    refused: bool = False
    unguarded: bool = False
    leader: SchedulerRecord | None = None
    schedulers: tuple[SchedulerRecord, ...] = ()
    hosts: tuple[HostRecord, ...] = ()
    unreadable: int = 0
    """Records that make no sense."""


def look(endpoints: Sequence[str], tls: TlsFiles) -> Access:
    """Ask the members in turn until one answers."""
    try:
        return etcd_keys.ask(endpoints, tls, _look) or Access()
    except etcd_keys.Refused:
        return Access(answered=True, refused=True)


def _look(keys: etcd_keys.Keys) -> Access:
    schedulers, hosts, unreadable, leader = [], [], 0, None
    for value in keys.below(SCHEDULERS_PREFIX):
        with suppress(ValueError):
            schedulers.append(SchedulerRecord.from_json(value))
    for value in keys.below(HOSTS_PREFIX):
        try:
            hosts.append(HostRecord.from_json(value))
        except ValueError:
            unreadable += 1
    for value in keys.at(LEADER_KEY):
        with suppress(ValueError):
            leader = SchedulerRecord.from_json(value)
    return Access(
        answered=True,
        unguarded=keys.may_read(_OTHERS),
        leader=leader,
        schedulers=tuple(schedulers),
        hosts=tuple(hosts),
        unreadable=unreadable,
    )

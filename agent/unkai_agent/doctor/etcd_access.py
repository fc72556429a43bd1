"""What this host's certificate may see in etcd, and what stands there of the host.

For `diagnose`: unlike `registry.py` it must tell a refusal from silence, and see whether etcd asks
for permission at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from unkai_wire.cluster_records import (
    LEADER_KEY,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
)
from unkai_wire.doctor import etcd_keys
from unkai_wire.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Access:
    """What was found. `answered`: some member did; all else is worth nothing without."""

    answered: bool = False
    refused: bool = False
    unguarded: bool = False
    """What is not ours can be read: etcd asks nobody for permission."""
    record: HostRecord | None = None
    schedulers: tuple[SchedulerRecord, ...] = ()


def look(endpoints: Sequence[str], tls: TlsFiles, host_id: str) -> Access:
    """Ask the members in turn until one answers. `host_id`: empty where nobody knows it."""
    try:
        return etcd_keys.ask(endpoints, tls, partial(_look, host_id)) or Access()
    except etcd_keys.Refused:
        return Access(answered=True, refused=True)


def _look(host_id: str, keys: etcd_keys.Keys) -> Access:
    own = keys.at(host_key(host_id)) if host_id else []
    schedulers = []
    for value in keys.below(SCHEDULERS_PREFIX):
        with suppress(ValueError):  # a newer version's, perhaps
            schedulers.append(SchedulerRecord.from_json(value))
    record = None
    with suppress(ValueError):
        record = HostRecord.from_json(own[0]) if own else None
    return Access(
        answered=True,
        unguarded=keys.may_read(LEADER_KEY),
        record=record,
        schedulers=tuple(schedulers),
    )

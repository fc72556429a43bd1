"""From etcd's keys and values to the membership. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from unkai_scheduler.cluster.port import Membership
from unkai_wire.cluster_records import (
    HOSTS_PREFIX,
    LEADER_KEY,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
)
from unkai_wire.fleets import speaks_for

_LOG = structlog.get_logger(__name__)


def membership_of(entries: Iterable[tuple[bytes, bytes]]) -> Membership:
    """Sort keys and values into the membership; one that cannot be read is left out.

    A host may write under its own key only, so a record that names another host is left out too,
    and so is one whose server could be another host's.
    """
    hosts: dict[str, HostRecord] = {}
    schedulers: dict[str, SchedulerRecord] = {}
    leader: SchedulerRecord | None = None
    for raw_key, value in entries:
        key = raw_key.decode("utf-8", "replace")
        try:
            if key.startswith(HOSTS_PREFIX):
                host = HostRecord.from_json(value)
                if host.host_id != key.removeprefix(HOSTS_PREFIX):
                    raise ValueError(f"it names host {host.host_id[:64]}")
                if not speaks_for(host.tls_name, host.host_id):
                    raise ValueError(f"{host.tls_name[:80]} may not answer for it")
                hosts[host.host_id] = host
            elif key.startswith(SCHEDULERS_PREFIX):
                scheduler = SchedulerRecord.from_json(value)
                schedulers[key.removeprefix(SCHEDULERS_PREFIX)] = scheduler
            elif key == LEADER_KEY:
                leader = SchedulerRecord.from_json(value)
        except ValueError as error:
            _LOG.warning("cluster_record_unreadable", key=key, error=str(error))
    return Membership(hosts, schedulers, leader)

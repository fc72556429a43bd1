"""What Prometheus shall scrape, from the cluster's membership: the page `/targets`.

In the form of Prometheus's HTTP service discovery. Each target comes with the labels that the
dashboards and alert rules of this project ask for. Hosts write their records themselves: what is
no `HOST:PORT` is left out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from unkai_scheduler.cluster.port import Membership
from unkai_scheduler.settings import split_address

AGENT_JOB = "unkai-agent"
SCHEDULER_JOB = "unkai-scheduler"


def targets(membership: Membership) -> list[dict[str, Any]]:
    """Return one entry per metrics endpoint; simulated hosts share one."""
    hosts: defaultdict[str, list[str]] = defaultdict(list)
    for host in membership.hosts.values():
        hosts[host.metrics_address].append(host.name)
    found = [
        _target(AGENT_JOB, names[0] if len(names) == 1 else address, address)
        for address, names in sorted(hosts.items())
        if _is_address(address)
    ]
    found += [
        _target(SCHEDULER_JOB, scheduler.name, scheduler.metrics_address)
        for scheduler in sorted(membership.schedulers.values(), key=lambda s: s.name)
        if _is_address(scheduler.metrics_address)
    ]
    return found


def _target(job: str, instance: str, address: str) -> dict[str, Any]:
    return {"targets": [address], "labels": {"job": job, "instance": instance}}


def _is_address(text: str) -> bool:
    try:
        host, port = split_address(text)
    except ValueError:
        return False
    return (
        host != "0.0.0.0" and port > 0 and text.isascii() and text.isprintable() and "/" not in text
    )

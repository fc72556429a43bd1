"""What Prometheus shall scrape, from the cluster's membership: the page `/targets`.

In the form of Prometheus's HTTP service discovery. Each target comes with the labels that the
dashboards and alert rules of this project ask for. Hosts write their records themselves: what is
no `HOST:PORT` is left out.

The trap: who is lost is no member any more, and what is not scraped raises no alert. So a target
is shown for a day after it was last seen.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from unkai_scheduler.cluster.port import Membership
from unkai_wire.setting_values import split_address

AGENT_JOB = "unkai-agent"
SCHEDULER_JOB = "unkai-scheduler"
REMEMBERED_S = 86_400.0

Name = tuple[str, str]
"""Job and instance."""


class Targets:
    """The endpoints of all that are, or lately were, in the cluster."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[Name, tuple[str, float]] = {}

    def page(self, membership: Membership) -> list[dict[str, Any]]:
        """Return one entry per endpoint, those of this membership taken in."""
        now_s = self._monotonic()
        self._seen.update({name: (address, now_s) for name, address in _found(membership)})
        self._seen = {n: seen for n, seen in self._seen.items() if now_s - seen[1] < REMEMBERED_S}
        return [
            {"targets": [address], "labels": {"job": job, "instance": instance}}
            for (job, instance), (address, _) in sorted(self._seen.items())
        ]


def _found(membership: Membership) -> Iterator[tuple[Name, str]]:
    """Yield the endpoints of all members; simulated hosts share one."""
    hosts: defaultdict[str, list[str]] = defaultdict(list)
    for host in membership.hosts.values():
        hosts[host.metrics_address].append(host.name)
    for address, names in hosts.items():
        if _is_address(address):
            yield (AGENT_JOB, names[0] if len(names) == 1 else address), address
    for scheduler in membership.schedulers.values():
        if _is_address(scheduler.metrics_address):
            yield (SCHEDULER_JOB, scheduler.name), scheduler.metrics_address


def _is_address(text: str) -> bool:
    try:
        host, port = split_address(text)
    except ValueError:
        return False
    is_plain = text.isascii() and text.isprintable() and "/" not in text
    return host != "0.0.0.0" and port > 0 and is_plain

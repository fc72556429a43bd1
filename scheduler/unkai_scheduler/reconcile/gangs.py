"""Gangs: instances that get their hosts at one moment, or none does.

A gang is read whole, decided in one go and written in one transaction. Its members are rows like
any other: who is given up or removed before that moment is no member any more, and with its host
each has forgotten the gang.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.reconcile.actions import is_due
from unkai_scheduler.reconcile.changes import Seen


def place_in_line(row: Instance) -> tuple[int, datetime, str, str]:
    """Return what orders those who want hosts: priority, then age; a gang's stand together."""
    return -row.spec.priority, row.create_time, row.gang_id or row.id, row.id


def is_waiting(row: Instance) -> bool:
    """Tell whether one is still to get its host together with others."""
    is_unplaced = not row.host_id and row.state is InstanceState.PROVISIONING
    return bool(row.gang_id) and is_unplaced


def completed(
    rows: dict[str, Instance],
    waiting_of: Callable[[str], Collection[Instance]],
    *,
    now: datetime,
    urgent: Collection[str],
    room: int,
) -> tuple[set[str], set[str]]:
    """Complete the gangs of which some are to be looked at now; change `rows`, by id.

    Returns the ids of all their members, and of those that are left for later: more gangs than
    `room` instances are not decided at once, but one always is.
    """
    ripe = dict.fromkeys(
        row.gang_id
        for row in rows.values()
        if is_waiting(row) and (row.id in urgent or is_due(row, now))
    )
    together: set[str] = set()
    later: set[str] = set()
    for gang_id in ripe:
        members = {row.id: row for row in waiting_of(gang_id)}
        if together and len(together) + len(members) > room:
            later |= {row.id for row in rows.values() if row.gang_id == gang_id and is_waiting(row)}
            continue
        together |= members.keys()
        rows |= members
    for ident in later:
        del rows[ident]
    return together, later


def runs(queue: Sequence[Seen]) -> Iterator[list[Seen]]:
    """Split those in line into what is decided in one go: each gang by itself, the others as they
    come."""
    for _, run in groupby(queue, key=lambda seen: seen.instance.gang_id):
        yield list(run)


def refused(decisions: Sequence[Decision]) -> list[Decision]:
    """Return the decisions about a gang of which some have found no host: that none gets one."""
    fitted = sum(1 for decision in decisions if decision.host_id)
    why = next(decision for decision in decisions if not decision.host_id)
    summary = f"all or nothing, and {fitted} of {len(decisions)} would fit; for the next, "
    return [
        replace(why, instance_id=each.instance_id, summary=summary + why.summary)
        for each in decisions
    ]

"""Gangs: completed when read, apart from others when decided, refused whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.support.builders import NOON, an_instance
from unkai_scheduler.domain.decisions import Decision, FilterResult
from unkai_scheduler.domain.instances import Instance, InstanceState
from unkai_scheduler.reconcile import gangs
from unkai_scheduler.reconcile.changes import Seen


def a_gang(count: int, name: str = "g1", **changes: Any) -> list[Instance]:
    changes = {"due_time": NOON, "gang_id": name} | changes
    return [an_instance(**changes) for _ in range(count)]


def completed(
    read: list[Instance], stored: list[Instance], *, urgent: set[str] | None = None, room: int = 99
) -> tuple[list[str], set[str], set[str]]:
    rows = {row.id: row for row in read}

    def waiting_of(gang_id: str) -> list[Instance]:
        return [row for row in stored if row.gang_id == gang_id and gangs.is_waiting(row)]

    together, later = gangs.completed(rows, waiting_of, now=NOON, urgent=urgent or set(), room=room)
    return list(rows), together, later


def idents(some: list[Instance]) -> set[str]:
    return {row.id for row in some}


def test_one_that_is_due_brings_all_of_its_gang_that_wait() -> None:
    gang = a_gang(3, due_time=NOON + timedelta(seconds=9))
    gang[0] = an_instance(gang_id="g1", due_time=NOON)
    placed = an_instance(gang_id="g1", host_id="hst-1")
    failed = an_instance(gang_id="g1", state=InstanceState.FAILED)
    alone = an_instance(due_time=NOON)

    rows, together, later = completed([alone, gang[0]], [*gang, placed, failed])

    assert set(rows) == {alone.id} | idents(gang)
    assert together == idents(gang)
    assert later == set()


def test_one_that_is_not_due_brings_nobody_unless_it_is_urgent() -> None:
    gang = a_gang(3, due_time=NOON + timedelta(seconds=9))

    assert completed(gang[:1], gang) == ([gang[0].id], set(), set())
    assert completed(gang[:1], gang, urgent={gang[0].id})[1] == idents(gang)


def test_gangs_without_room_are_left_for_later_but_for_one() -> None:
    first, second, third = (a_gang(3, name) for name in ("g1", "g2", "g3"))
    read = [first[0], second[0], second[1], third[2]]

    rows, together, later = completed(read, [*first, *second, *third], room=2)
    assert together == set(rows) == idents(first)
    assert later == {second[0].id, second[1].id, third[2].id}

    _, together, later = completed(read, [*first, *second, *third], room=6)
    assert together == idents(first) | idents(second)
    assert later == {third[2].id}


def test_those_of_a_gang_stand_together_in_line_between_older_and_younger() -> None:
    later = NOON + timedelta(seconds=1)
    old, young = an_instance(), an_instance(create_time=later)
    first, second = a_gang(2, "ins-a"), a_gang(2, "ins-b")
    urgent = a_gang(2, "ins-c", priority=1, create_time=later)
    mixed = [young, second[0], first[1], urgent[1], old, first[0], second[1], urgent[0]]

    line = [Seen(row, None) for row in sorted(mixed, key=gangs.place_in_line)]
    runs = [{seen.instance.id for seen in run} for run in gangs.runs(line)]

    assert runs[0] == idents(urgent)
    assert runs[-1] == {young.id}
    assert idents(first) in runs
    assert idents(second) in runs


def a_decision(ident: str, host_id: str) -> Decision:
    lacks = FilterResult("memory", 1, ("h1",), "h1 lacks 1 GiB of memory")
    return Decision(
        instance_id=ident,
        decide_time=NOON,
        policy="pack",
        host_count=1,
        filters=(FilterResult("memory", 0) if host_id else lacks,),
        candidates=(),
        host_id=host_id,
        host_name=host_id,
        summary="h1: best" if host_id else "no host fits: 1 of 1 lacks memory",
    )


def test_a_gang_is_refused_for_what_the_first_without_a_host_lacked() -> None:
    told = gangs.refused([a_decision("a", "h1"), a_decision("b", "h1"), a_decision("c", "")])

    assert [each.instance_id for each in told] == ["a", "b", "c"]
    assert {each.host_id for each in told} == {""}
    assert {each.filters[0].rejected_count for each in told} == {1}
    assert {each.summary for each in told} == {
        "all or nothing, and 2 of 3 would fit; for the next, no host fits: 1 of 1 lacks memory"
    }

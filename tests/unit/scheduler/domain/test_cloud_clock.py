"""The cloud's clock: the database's time, whatever is done to this machine's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from tests.support.builders import NOON
from unkai_scheduler.domain.clock import CloudClock, Reading

HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass
class Machine:
    """One machine's clocks: a wall clock that somebody sets, and one that nobody can."""

    wall_ahead_s: float = 0.0
    up_s: float = 100.0

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.up_s + self.wall_ahead_s)

    def right(self) -> datetime:
        return NOON + timedelta(seconds=self.up_s)

    def clock(self) -> CloudClock:
        return CloudClock(wall=self.wall, monotonic=lambda: self.up_s)

    def reading(self, *, took_s: float = 0.0, ahead_s: float = 0.0) -> Reading:
        """Read the database's clock, which is so far ahead of the right time."""
        began_s = self.up_s
        told = self.right() + timedelta(seconds=ahead_s)
        self.up_s += took_s
        return Reading(began_s, told, self.up_s)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_step_of_this_machine_s_clock_moves_it_not(step_s: float) -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.reading())

    machine.wall_ahead_s = step_s
    machine.up_s += 7

    assert clock() == machine.right()
    assert clock.ahead_s() == step_s
    assert clock.follow(machine.reading()) == 0
    assert clock() == machine.right()


def test_schedulers_whose_machines_differ_by_hours_tell_the_same_time() -> None:
    machines = [Machine(wall_ahead_s=ahead_s) for ahead_s in (HOUR_S, 0.0, -HOUR_S)]
    clocks = [machine.clock() for machine in machines]
    for machine, clock in zip(machines, clocks, strict=True):
        clock.follow(machine.reading())

    assert {clock() for clock in clocks} == {machines[0].right()}


def test_before_the_first_reading_it_is_this_machine_s_time() -> None:
    machine = Machine(wall_ahead_s=5)
    assert machine.clock()() == machine.wall()


def test_an_answer_that_took_long_corrects_only_what_it_proves_wrong() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.reading())

    # The database's clock was read at the beginning of 4 s, and could have been read at their end.
    assert clock.follow(machine.reading(took_s=4)) == 0
    assert clock.follow(machine.reading(took_s=4, ahead_s=10)) == pytest.approx(6)
    assert clock.follow(machine.reading(ahead_s=10)) == pytest.approx(4)


def test_a_database_whose_clock_was_set_is_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.reading())

    assert clock.follow(machine.reading(ahead_s=-HOUR_S)) == pytest.approx(-HOUR_S)
    assert clock() == machine.right() - timedelta(hours=1)


def test_a_database_set_ahead_has_not_reached_that_time_until_it_has_stood_for_a_day() -> None:
    machine = Machine(wall_ahead_s=40 * DAY_S)
    clock = machine.clock()
    clock.follow(machine.reading())

    clock.follow(machine.reading(ahead_s=30 * DAY_S))
    machine.up_s += DAY_S - 1
    clock.follow(machine.reading(ahead_s=30 * DAY_S))
    before = clock.reached()
    machine.up_s += 1
    clock.follow(machine.reading(ahead_s=30 * DAY_S))

    assert before == machine.right() - timedelta(seconds=1)
    assert clock.reached() == clock() == machine.right() + timedelta(days=30)


def test_a_database_put_right_again_is_followed_at_once_and_small_steps_always() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.reading())
    for ahead_s in (DAY_S, 0.0, 1.5, 3.0, -HOUR_S):
        clock.follow(machine.reading(ahead_s=ahead_s))
        machine.up_s += 5

    assert clock.reached() == clock() == machine.right() - timedelta(hours=1)
    clock.follow(machine.reading(ahead_s=-HOUR_S + 1.5))
    assert clock.reached() == clock()


def test_no_time_is_reached_that_this_machine_has_not() -> None:
    machine = Machine()
    clock = machine.clock()

    clock.follow(machine.reading(ahead_s=DAY_S))

    assert clock() == machine.right() + timedelta(days=1)
    assert clock.reached() == machine.right()


def test_what_was_written_last_before_is_where_it_goes_on_from() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.reading())
    clock.doubt(machine.right() - timedelta(days=3))
    machine.up_s += HOUR_S
    clock.follow(machine.reading())
    before = clock.reached()
    machine.up_s += DAY_S
    clock.follow(machine.reading())

    assert before == NOON + timedelta(seconds=100 + HOUR_S) - timedelta(days=3)
    assert clock.reached() == machine.right()
    clock.doubt(machine.right() + timedelta(days=3))
    assert clock.reached() == machine.right(), "the future is no reason to go on"

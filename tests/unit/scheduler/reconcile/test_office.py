"""The office: what the rounds of its loops may fail with, and what ends the reign."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from unkai_scheduler.reconcile.hearsay import BELIEVED_TIMES, Hearsay
from unkai_scheduler.reconcile.office import Office, ReignEnded
from unkai_wire.errors import FailedPrecondition, Unavailable

PARTS = ("uow", "agents", "images", "live", "settings", "clock", "new_id")


@pytest.fixture
def office() -> Office:
    """Return an office of term 7 whose other parts nobody touches."""
    parts = cast("dict[str, Any]", dict.fromkeys(PARTS))
    return Office(name="s1", term=7, hearsay=Hearsay(lambda: 0.0), **parts)


def a_stale_term(highest: str) -> FailedPrecondition:
    return FailedPrecondition("over", reason="STALE_TERM", metadata={"highest_term": highest})


async def several(error: Exception) -> None:
    """Fail as a round does that asks several hosts at once."""

    async def fail() -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.sleep(0))


async def test_a_round_may_fail_and_the_reign_goes_on(office: Office) -> None:
    assert not await office.attempt("x", lambda: several(Unavailable("no")))
    assert not await office.attempt("x", lambda: several(ValueError("a bug")))
    assert await office.attempt("x", lambda: asyncio.sleep(0))


async def test_the_end_of_the_reign_passes_though_several_were_asked_at_once(
    office: Office,
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await office.attempt("x", lambda: several(ReignEnded("over", 9)))

    assert caught.group_contains(ReignEnded, match="over")


def test_a_host_that_knows_a_higher_term_ends_the_reign(office: Office) -> None:
    with pytest.raises(ReignEnded) as caught:
        office.check_still_leading("hst-a", a_stale_term("9"))

    assert caught.value.highest_term == 9


def test_a_host_that_says_so_again_and_again_does_not(office: Office) -> None:
    for _ in range(BELIEVED_TIMES):
        with pytest.raises(ReignEnded):
            office.check_still_leading("hst-a", a_stale_term("9"))

    office.check_still_leading("hst-a", a_stale_term("9"))


@pytest.mark.parametrize("highest", ["", "6", "7", "all"])
def test_a_refusal_that_names_no_higher_term_does_not(office: Office, highest: str) -> None:
    office.check_still_leading("hst-a", a_stale_term(highest))


def test_another_refusal_does_not(office: Office) -> None:
    office.check_still_leading("hst-a", FailedPrecondition("full", reason="DISK_FULL"))

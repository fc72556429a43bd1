"""What the fake can do wrong on demand."""

from __future__ import annotations

import pytest

from tests.support.ovn_units import port, switch
from unkai_scheduler.ovn.fake import FakeOvn
from unkai_scheduler.ovn.hearsay import MAX_UNITS, Hearsay
from unkai_scheduler.ovn.port import Changed
from unkai_scheduler.ovn.rows import Outcome

NET = switch("net-1")


@pytest.mark.parametrize("applied", [True, False])
async def test_an_answer_is_lost_whether_it_was_applied_or_not(applied: bool) -> None:
    ovn = FakeOvn()
    nb = ovn.member()
    nb.lose_answer(applied=applied)

    assert await nb.apply(1, [NET]) == {NET.key: Outcome.UNKNOWN}

    assert await nb.inventory() == ({NET.key: 1} if applied else {})
    assert await nb.apply(1, [NET]) == {NET.key: Outcome.DONE}


async def test_after_an_unknown_nothing_more_is_tried() -> None:
    ovn = FakeOvn()
    nb = ovn.member()
    nb.lose_answer(applied=True)

    found = await nb.apply(1, [NET, *(port(f"p{n}", "net-1") for n in range(450))])

    assert set(found.values()) == {Outcome.UNKNOWN}
    assert len(found) == 200


async def test_hearsay_is_coalesced_and_too_much_of_it_is_everything() -> None:
    heard = Hearsay()
    assert await heard.next() == Changed(everything=True)
    heard.units(["a", "b"])
    heard.units(["b"])
    assert await heard.next() == Changed(frozenset({"a", "b"}))
    heard.units(str(n) for n in range(MAX_UNITS + 1))
    assert await heard.next() == Changed(everything=True)

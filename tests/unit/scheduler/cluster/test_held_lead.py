"""The lead is renewed whatever the event loop does, for as long as that does not hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from unkai_scheduler.cluster import held_lead
from unkai_scheduler.cluster.held_lead import LEASE_MARGIN_S, LOOP_S, HeldLead
from unkai_wire.errors import Unavailable

TTL_S = 3.0


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_lead, "RENEW_S", 0.001)
    monkeypatch.setattr(held_lead, "RETRY_S", 0.001)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def kept(lead: HeldLead, renew: Callable[[float], float]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=lead.keep, args=(renew,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        lead.end()
        thread.join(5)
        assert not thread.is_alive()


def test_each_renewal_counts_from_when_it_was_asked_for() -> None:
    clock, asked, go_on = Clock(), threading.Event(), threading.Event()
    lead = HeldLead(clock() + 1.0, clock)

    def renew(left_s: float) -> float:
        clock.now_s += 0.5
        asked.set()
        go_on.wait(5)
        return TTL_S

    with kept(lead, renew):
        assert asked.wait(5)
        assert lead.left_s() == pytest.approx(0.5)
        lead.end()
        go_on.set()
    assert lead.left_s() == pytest.approx(TTL_S - LEASE_MARGIN_S - 0.5)


def test_a_lead_that_is_another_s_is_lost_at_once() -> None:
    lead = HeldLead(Clock()() + 10, Clock())
    with kept(lead, lambda left_s: 0.0) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert lead.is_lost
    assert lead.left_s() == 0.0


def test_while_etcd_does_not_answer_the_lead_is_believed_to_its_end() -> None:
    clock, tries = Clock(), 0
    lead = HeldLead(clock() + TTL_S, clock)

    def renew(left_s: float) -> float:
        nonlocal tries
        tries += 1
        clock.now_s += 1.0
        raise Unavailable("away", reason="ETCD_UNAVAILABLE")

    with kept(lead, renew) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert tries == TTL_S
    assert not lead.is_lost
    assert lead.left_s() <= 0


def test_a_loop_that_hangs_leads_nobody() -> None:
    clock, renewals = Clock(), 0
    lead = HeldLead(clock() + TTL_S, clock)

    def renew(left_s: float) -> float:
        nonlocal renewals
        renewals += 1
        clock.now_s += 1.0
        return TTL_S

    with kept(lead, renew) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert LOOP_S <= renewals <= LOOP_S + 2

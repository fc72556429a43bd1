"""The ledger: fences, tombstones, crashes and full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent import START, a_fence, a_spec, an_instance_id
from unkai_agent.domain import records
from unkai_agent.domain.machines import Fence, LedgerEntry, Power
from unkai_agent.ledger import Ledger
from unkai_agent.ledger_files import LedgerProblem
from unkai_wire.deadlines import TOMBSTONE_KEEP_S
from unkai_wire.errors import Conflict, FailedPrecondition, InvalidArgument, Unavailable, UnkaiError

ID = an_instance_id()


def a_ledger(root: Path) -> Ledger:
    return Ledger(root / "ledger")


def reason_of(caught: pytest.ExceptionInfo[UnkaiError]) -> str:
    return caught.value.reason


def test_what_was_accepted_is_there_again_after_a_restart(tmp_path: Path) -> None:
    spec = a_spec(instance=b"\x00\xffwhole", reboot_serial=3, power=Power.OFF)
    a_ledger(tmp_path).accept(a_fence(spec, term=7), spec)
    again = a_ledger(tmp_path)
    assert [e.spec for e in again.entries()] == [spec]
    assert again.highest_term == 7


def test_the_files_are_for_root_alone(tmp_path: Path) -> None:
    a_ledger(tmp_path).accept(a_fence(a_spec()), a_spec())
    modes = {p.stat().st_mode & 0o077 for p in (tmp_path / "ledger").rglob("*")}
    assert modes == {0}


def test_an_older_term_is_refused_and_told_the_highest(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.raise_term(5)
    for order in (
        lambda: ledger.raise_term(4),
        lambda: ledger.accept(a_fence(a_spec(), term=4), a_spec()),
        lambda: ledger.begin_removal(Fence(4, 1, 1), ID),
        lambda: ledger.acknowledge(Fence(4), [], START),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            order()
        assert reason_of(caught) == "STALE_TERM"
        assert caught.value.metadata["highest_term"] == "5"
    assert ledger.entries() == []


@pytest.mark.parametrize(
    ("generation", "run_epoch", "reason"),
    [(1, 2, "STALE_GENERATION"), (9, 1, "STALE_RUN_EPOCH"), (2, 2, "")],
)
def test_an_older_generation_or_run_epoch_is_refused(
    tmp_path: Path, generation: int, run_epoch: int, reason: str
) -> None:
    ledger = a_ledger(tmp_path)
    held = a_spec(generation=2, run_epoch=2)
    ledger.accept(a_fence(held), held)
    told = a_spec(generation=generation, run_epoch=run_epoch)
    for order in (
        lambda: ledger.accept(a_fence(told), told),
        lambda: ledger.begin_removal(a_fence(told), ID),
    ):
        if not reason:
            order()
            continue
        with pytest.raises(FailedPrecondition) as caught:
            order()
        assert reason_of(caught) == reason
        assert [e.spec for e in a_ledger(tmp_path).entries()] == [held]


@pytest.mark.parametrize("fence", [Fence(0, 1, 1), Fence(1, 0, 1), Fence(1, 1, 0)])
def test_a_fence_with_a_zero_is_no_fence(tmp_path: Path, fence: Fence) -> None:
    with pytest.raises(InvalidArgument):
        a_ledger(tmp_path).accept(fence, a_spec())


def test_a_removed_machine_is_not_made_again_by_a_late_order(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.bury(Fence(1, 5, 2), ID, START)
    for late in (a_spec(generation=5, run_epoch=2), a_spec(generation=6, run_epoch=1)):
        with pytest.raises(FailedPrecondition) as caught:
            a_ledger(tmp_path).accept(a_fence(late), late)
        assert reason_of(caught) == "TOMBSTONED"
    newer = a_spec(generation=6, run_epoch=2)
    ledger.accept(a_fence(newer), newer)
    assert a_ledger(tmp_path).tombstones() == []


def test_an_order_during_a_removal_is_refused(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.accept(a_fence(a_spec()), a_spec())
    ledger.begin_removal(Fence(1, 3, 1), ID)
    with pytest.raises(FailedPrecondition) as caught:
        ledger.accept(Fence(1, 3, 1), a_spec(generation=3))
    assert reason_of(caught) == "TOMBSTONED"
    with pytest.raises(Conflict):
        ledger.accept(Fence(1, 4, 1), a_spec(generation=4))
    entry = a_ledger(tmp_path).entry(ID)
    assert entry is not None
    assert entry.removal == Fence(1, 3, 1)


def test_what_once_had_to_exist_has_to_for_ever(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.accept(a_fence(a_spec()), a_spec(must_exist=True))
    entry = ledger.accept(Fence(1, 2, 1), a_spec(generation=2))
    assert entry.spec.disks[0].must_exist


def test_a_tombstone_is_forgotten_only_after_it_was_acknowledged_long_ago(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    stone = ledger.bury(Fence(1, 2, 1), ID, START)
    assert ledger.sweep(0) == []
    ledger.acknowledge(Fence(1), [replace(stone, generation=1)], START)
    assert ledger.sweep(10 * TOMBSTONE_KEEP_S) == []
    ledger.acknowledge(Fence(1), [stone], START)
    assert ledger.sweep(20 * TOMBSTONE_KEEP_S) == []
    assert ledger.sweep(20.9 * TOMBSTONE_KEEP_S) == []
    assert len(ledger.sweep(21 * TOMBSTONE_KEEP_S)) == 1
    assert a_ledger(tmp_path).tombstones() == []


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_tombstone_s_time_is_not_that_of_a_clock_which_is_set(
    tmp_path: Path, step: timedelta
) -> None:
    ledger = a_ledger(tmp_path)
    stone = ledger.bury(Fence(1, 2, 1), ID, START)
    ledger.acknowledge(Fence(1), [stone], START + step)
    # An agent that starts anew counts anew: how long it was away it cannot know.
    again = a_ledger(tmp_path)
    assert again.sweep(5) == []
    assert again.sweep(5 + TOMBSTONE_KEEP_S / 2) == []
    assert len(again.sweep(5 + TOMBSTONE_KEEP_S)) == 1


def test_a_tombstone_that_takes_another_s_place_has_a_time_of_its_own(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.acknowledge(Fence(1), [ledger.bury(Fence(1, 2, 1), ID, START)], START)
    assert ledger.sweep(0) == []
    ledger.accept(Fence(1, 3, 1), a_spec(generation=3))
    ledger.acknowledge(Fence(1), [ledger.bury(Fence(1, 4, 1), ID, START)], START)
    assert ledger.sweep(TOMBSTONE_KEEP_S) == []
    assert len(ledger.sweep(2 * TOMBSTONE_KEEP_S)) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"body": {}, "sha256": ""}'])
def test_a_damaged_file_is_kept_aside_and_reported_and_the_rest_goes_on(
    tmp_path: Path, damage: bytes
) -> None:
    ledger = a_ledger(tmp_path)
    for number in (1, 2):
        ledger.accept(a_fence(a_spec(number)), a_spec(number))
    victim = tmp_path / "ledger" / "machines" / f"{ID}.json"
    victim.write_bytes(damage)
    told: list[LedgerProblem] = []
    again = Ledger(tmp_path / "ledger", report=told.append)
    assert [e.spec.instance_id for e in again.entries()] == [an_instance_id(2)]
    assert [p.file for p in told] == [victim.name]
    assert told[0].kept_as.read_bytes() == damage
    assert again.problems == told


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    a_ledger(tmp_path).accept(a_fence(a_spec()), a_spec())
    path = tmp_path / "ledger" / "machines" / f"{ID}.json"
    path.write_text(path.read_text().replace('"vcpus": 1', '"vcpus": 9'))
    assert a_ledger(tmp_path).entries() == []


@pytest.mark.parametrize("suffix", [".bak", "~", "-old.json"])
def test_a_copy_beside_a_file_is_put_aside_not_taken_for_another_machine(
    tmp_path: Path, suffix: str
) -> None:
    ledger = a_ledger(tmp_path)
    ledger.accept(a_fence(a_spec()), a_spec())
    path = tmp_path / "ledger" / "machines" / f"{ID}.json"
    copy = path.with_name(path.name + suffix)
    copy.write_bytes(path.read_bytes())
    newer = a_spec(generation=2)
    ledger.accept(a_fence(newer), newer)
    again = a_ledger(tmp_path)
    assert [e.spec for e in again.entries()] == [newer]
    assert [p.file for p in again.problems] == [copy.name]


def test_what_cannot_even_be_read_is_put_aside(tmp_path: Path) -> None:
    a_ledger(tmp_path)
    (tmp_path / "ledger" / "machines" / f"{ID}.json").mkdir()
    assert [p.file for p in a_ledger(tmp_path).problems] == [f"{ID}.json"]


def test_a_newer_agents_ledger_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = a_ledger(tmp_path)
    to_record = records.entry_to_record
    monkeypatch.setattr(records, "entry_to_record", lambda e: to_record(e) | {"version": 2})
    ledger.accept(a_fence(a_spec()), a_spec())
    path = tmp_path / "ledger" / "machines" / f"{ID}.json"
    kept = path.read_bytes()
    with pytest.raises(FailedPrecondition) as caught:
        a_ledger(tmp_path)
    assert reason_of(caught) == "LEDGER_TOO_NEW"
    assert path.read_bytes() == kept


def test_a_disk_that_went_read_only_is_said_to_be_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = a_ledger(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for act in ("open", "unlink", "rename"):
        monkeypatch.setattr(Path, act, refuse)
    with pytest.raises(Unavailable) as caught:
        ledger.accept(a_fence(a_spec()), a_spec())
    assert reason_of(caught) == "LEDGER_UNWRITABLE"
    assert ledger.entries() == []


def test_an_older_agents_ledger_is_read_on_a_full_disk_and_its_reserve_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_ledger(tmp_path).accept(a_fence(a_spec()), a_spec())
    reserve = tmp_path / "ledger" / "reserve"
    shutil.rmtree(reserve)
    mkdir = Path.mkdir

    def full(path: Path, *args: Any, **options: Any) -> None:
        if path == reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    ledger = a_ledger(tmp_path)
    assert [e.spec for e in ledger.entries()] == [a_spec()]
    monkeypatch.undo()
    ledger.sweep(0)
    assert len(list(reserve.iterdir())) == 4


def test_losing_the_file_of_the_term_does_not_lose_the_term(tmp_path: Path) -> None:
    a_ledger(tmp_path).accept(a_fence(a_spec(), term=9), a_spec())
    (tmp_path / "ledger" / "host.json").write_bytes(b"x")
    assert a_ledger(tmp_path).highest_term == 9


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "LEDGER_FULL"), (errno.EDQUOT, "LEDGER_FULL"), (errno.EIO, "")],
)
def test_a_disk_that_takes_no_more_refuses_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    ledger = a_ledger(tmp_path)
    ledger.raise_term(1)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    kind = FailedPrecondition if reason else Unavailable
    for order in (
        lambda: ledger.accept(a_fence(a_spec()), a_spec()),
        lambda: ledger.bury(Fence(1, 1, 1), ID, START),
        lambda: ledger.raise_term(2),
    ):
        with pytest.raises(kind) as caught:
            order()
        assert reason_of(caught) == (reason or "LEDGER_UNWRITABLE")
    monkeypatch.undo()
    for found in (ledger, a_ledger(tmp_path)):
        assert found.entries() == []
        assert found.tombstones() == []
        assert found.highest_term == 1
    assert list((tmp_path / "ledger").rglob("*.tmp")) == []


def test_a_crash_between_the_tombstone_and_the_entrys_end_is_settled(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    ledger.accept(a_fence(a_spec()), a_spec())
    path = tmp_path / "ledger" / "machines" / f"{ID}.json"
    kept = path.read_bytes()
    ledger.bury(Fence(1, 2, 1), ID, START)
    path.write_bytes(kept)
    again = a_ledger(tmp_path)
    assert again.entries() == []
    assert len(again.tombstones()) == 1


@given(
    st.builds(
        LedgerEntry,
        spec=st.builds(
            a_spec,
            st.integers(1, 9),
            instance=st.binary(max_size=50),
            stop_grace_s=st.floats(0, 1e6),
        ),
        term=st.integers(1, 2**62),
        has_started=st.booleans(),
        running=st.booleans(),
        guest_shutdown=st.booleans(),
        stop_asked=st.booleans(),
        start_time=st.none() | st.just(START),
        boot_id=st.text(max_size=40),
        removal=st.none() | st.builds(Fence, *[st.integers(1, 2**62)] * 3),
    )
)
def test_an_entry_read_back_is_the_entry_written(entry: LedgerEntry) -> None:
    text = json.dumps(records.entry_to_record(entry))
    assert records.entry_from_record(json.loads(text)) == entry

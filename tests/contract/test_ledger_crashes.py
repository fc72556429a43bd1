"""What a killed agent leaves in its ledger: a process of its own writes, and is ended midway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import START, a_fence, a_spec, an_instance_id
from unkai_agent.domain.machines import Fence
from unkai_agent.ledger import Ledger
from unkai_wire.errors import FailedPrecondition

_CHILD = """
import sys
from pathlib import Path
from tests.support.agent import a_fence, a_spec
from unkai_agent.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for generation in range(1, 1_000_000):
    for number in (1, 2, 3):
        spec = a_spec(number, generation=generation)
        ledger.accept(a_fence(spec, term=generation), spec)
    print(generation, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.02, 0.07, 0.11])
def test_killed_in_the_midst_of_writing_it_keeps_all_that_was_answered(
    tmp_path: Path, delay_s: float
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "ledger")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline()
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        answered = int(([*child.stdout.read().split()] or ["1"])[-1])
    finally:
        child.kill()
        child.wait()
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.problems == []
    assert {e.spec.generation for e in ledger.entries()} <= {answered, answered + 1}
    assert len(ledger.entries()) == 3
    assert ledger.highest_term >= answered


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True, timeout=20)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=20)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_on_a_full_disk_nothing_is_accepted_and_all_can_be_removed(small_disk: Path) -> None:
    root = small_disk / "ledger"
    ledger = Ledger(root)
    held = a_spec(instance=bytes(60_000))
    ledger.accept(a_fence(held), held)
    filler = _fill(small_disk)

    with pytest.raises(FailedPrecondition) as caught:
        ledger.accept(a_fence(a_spec(2)), a_spec(2))
    assert caught.value.reason == "LEDGER_FULL"
    removal = Fence(7, 2, 1)
    ledger.begin_removal(removal, an_instance_id())
    again = Ledger(root)
    entry = again.entry(an_instance_id())
    assert entry is not None
    assert (entry.removal, again.highest_term) == (removal, 7)
    again.bury(removal, an_instance_id(), START)

    filler.unlink()
    last = Ledger(root)
    assert (last.entries(), last.problems) == ([], [])
    assert [s.instance_id for s in last.tombstones()] == [an_instance_id()]
    assert {p.stat().st_size for p in (root / "reserve").iterdir()} == {192 * 1024}
    assert len(list((root / "reserve").iterdir())) == 4

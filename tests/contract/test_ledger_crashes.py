"""What a killed agent leaves in its ledger: a process of its own writes, and is ended midway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unkai_agent.ledger import Ledger

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

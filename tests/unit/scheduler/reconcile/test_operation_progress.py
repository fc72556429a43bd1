"""How far an operation is: percent that moves with the host's bytes, words that people read."""

from __future__ import annotations

import pytest

from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.reconcile.operations import step_progress

MIB = 1 << 20


@pytest.mark.parametrize(
    ("done", "total", "said", "percent"),
    [
        (0, 0, "fetch image", 30),
        (0, 600 * MIB, "fetch image: 0 of 600 MiB", 30),
        (300 * MIB, 600 * MIB, "fetch image: 300 of 600 MiB", 39),
        (600 * MIB, 600 * MIB, "fetch image: 600 of 600 MiB", 49),
        (700 * MIB, 600 * MIB, "fetch image: 600 of 600 MiB", 49),
        (1, 1, "fetch image: 0 of 1 MiB", 49),
    ],
)
def test_a_fetch_is_shown_in_bytes_between_its_step_and_the_next(
    done: int, total: int, said: str, percent: int
) -> None:
    machine = Machine(
        instance_id="ins-1",
        host_id="hst-1",
        generation=1,
        observed_generation=0,
        run_epoch=1,
        state=MachineState.CONVERGING,
        step="fetch image",
        step_done_bytes=done,
        step_total_bytes=total,
    )
    assert step_progress(machine) == (said, percent)

"""A lane's only address is never barred by the clock of this machine."""

from __future__ import annotations

import time

import pytest

from unkai_scheduler.cluster.etcd_lanes import Lane


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
async def test_an_address_that_failed_is_tried_again_though_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    lane, real = Lane("test", ["http://127.0.0.1:1"], None), time.time

    def again(client: object) -> bool:
        endpoint = next(iter(client.endpoints.values()))  # type: ignore[attr-defined]
        endpoint.fail()
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        return not endpoint.is_failed()

    try:
        assert await lane.run(again)
    finally:
        monkeypatch.undo()
        lane.close()

"""Pauses inside transactions on a database server: what another does meanwhile shows itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.util.concurrency import await_

PAUSE_S = 0.03


def pause_after(
    monkeypatch: pytest.MonkeyPatch, module: Any, *names: str, pause_s: float = PAUSE_S
) -> None:
    """Let each call of these functions be followed by a pause inside its transaction."""

    def paused(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            await_(asyncio.sleep(pause_s))
            return result

        return call

    for name in names:
        monkeypatch.setattr(module, name, paused(getattr(module, name)))

"""Time as something passed in: logic never calls the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns now, aware, UTC."""


def system_clock() -> datetime:
    """Return the machine's time: for composition roots only."""
    return datetime.now(UTC)

"""Use cases lock rows in one order, whatever else their tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lock_order import watched


@pytest.fixture(autouse=True)
def _lock_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which rows were locked out of order."""
    with watched(monkeypatch) as order:
        yield
    assert not order.broken, "\n".join(order.broken)

"""What a server refuses a session with is no bug of ours: callers hear UNAVAILABLE."""

from __future__ import annotations

import pytest

from unkai_scheduler.store import mariadb, postgresql
from unkai_scheduler.store.failures import Failure


@pytest.mark.parametrize("code", [1040, 1041, 1045, 1129, 1130, 1135, 1203, 1226, 1862, 4151])
def test_mariadb_refuses_a_session(code: int) -> None:
    assert mariadb.classify(Exception(code, "refused")) is Failure.UNAVAILABLE


@pytest.mark.parametrize("state", ["28000", "28P01", "3D000", "53300", "55000", "57P04"])
def test_postgresql_refuses_a_session(state: str) -> None:
    error = Exception("refused")
    error.sqlstate = state  # type: ignore[attr-defined]
    assert postgresql.classify(error) is Failure.UNAVAILABLE

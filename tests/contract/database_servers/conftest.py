"""What PostgreSQL and MariaDB alone can get wrong: every test of this folder runs on both.

`UNKAI_TEST_DATABASE` picks one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import databases
from unkai_scheduler.store import rows, server_unit_of_work, terms
from unkai_scheduler.store.tables import leader_term

_CHOSEN = os.environ.get(databases.KIND_VARIABLE)


@pytest.fixture(params=[_CHOSEN] if _CHOSEN else databases.SERVERS, autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use one server; the value is its kind."""
    with databases.use(request.param):
        yield request.param


@pytest.fixture(params=[True, False], ids=["locked", "unlocked"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Take the locks away in every second run."""
    if not request.param:
        monkeypatch.setattr(rows, "lock", lambda *_: None)
        monkeypatch.setattr(rows, "hold", lambda *_: None)
        unlocked = terms.select(leader_term.c.term).where(leader_term.c.id == 1)
        monkeypatch.setattr(terms, "LOCK", unlocked)
    return bool(request.param)


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets a number for each transaction that is about to be tried again."""
    tries: list[int] = []

    def noted(number: int) -> float:
        tries.append(number)
        return pause_s(number)

    pause_s = server_unit_of_work.pause_s
    monkeypatch.setattr(server_unit_of_work, "pause_s", noted)
    return tries

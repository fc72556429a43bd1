"""What PostgreSQL and MariaDB alone can get wrong: every test of this folder runs on both.

`UNKAI_TEST_DATABASE` picks one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import databases

_CHOSEN = os.environ.get(databases.KIND_VARIABLE)


@pytest.fixture(params=[_CHOSEN] if _CHOSEN else databases.SERVERS, autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use one server; the value is its kind."""
    with databases.use(request.param):
        yield request.param

"""Fixtures of all suites."""

from __future__ import annotations

import pytest

from tests.support import acceptance


@pytest.fixture
def shows() -> acceptance.Shows:
    """Record what a line of the acceptance table showed."""
    return acceptance.show

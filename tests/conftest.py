"""Fixtures of all suites."""

from __future__ import annotations

import gc

import pytest

from tests.support import acceptance


@pytest.fixture
def shows() -> acceptance.Shows:
    """Record what a line of the acceptance table showed."""
    return acceptance.show


def pytest_collection_finish() -> None:
    """What was imported stays: let the collector not look at it anew in each test."""
    gc.collect()
    gc.freeze()

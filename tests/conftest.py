"""Fixtures of all suites."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import acceptance, databases

# How fast an example is drawn or run says how busy the machine is, nothing about what is claimed.
settings.register_profile(
    "unkai", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unkai")


@pytest.fixture
def shows() -> acceptance.Shows:
    """Record what a line of the acceptance table showed."""
    return acceptance.show


@pytest.fixture(autouse=True)
def _databases() -> Iterator[None]:
    """Give back the databases that a test has taken of a server."""
    yield
    databases.release_all()


def pytest_sessionfinish() -> None:
    """End the database servers of the session."""
    databases.stop_all()


def pytest_collection_finish() -> None:
    """What was imported stays: let the collector not look at it anew in each test."""
    gc.collect()
    gc.freeze()

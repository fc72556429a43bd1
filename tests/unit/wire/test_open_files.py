"""A daemon may open as many files as it is let."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from unkai_wire import open_files


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    open_files.raise_limit()
    most = open_files.MOST if hard == resource.RLIM_INFINITY else min(open_files.MOST, hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)


def test_a_limit_is_never_lowered(limits: tuple[int, int]) -> None:
    open_files.raise_limit()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before

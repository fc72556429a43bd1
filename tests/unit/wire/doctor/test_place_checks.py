"""What is found of folders: room and inodes, as the file system tells them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from unkai_wire.doctor import places
from unkai_wire.doctor.findings import Severity
from unkai_wire.doctor.places import Place

GIB = 1 << 30


def says(monkeypatch: pytest.MonkeyPatch, **figures: int) -> None:
    """Let every file system say these figures; blocks of 1 byte."""
    sound = {"f_frsize": 1, "f_blocks": 100 * GIB, "f_bavail": 50 * GIB}
    sound |= {"f_files": 1_000_000, "f_favail": 500_000}
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(**sound | figures))


@pytest.mark.parametrize(
    ("free", "severity"),
    [
        (50 * GIB, None),
        (5 * GIB, None),
        (5 * GIB - 1, Severity.WARN),
        (256 << 20, Severity.WARN),
        ((256 << 20) - 1, Severity.FAIL),
        (0, Severity.FAIL),
    ],
)
def test_room_is_told_before_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, severity: Severity | None
) -> None:
    says(monkeypatch, f_bavail=free)
    told = [found.severity for found in places.room([Place(tmp_path, "images")])]
    assert told == ([] if severity is None else [severity])


@pytest.mark.parametrize(("free", "is_told"), [(20_000, False), (19_999, True), (0, True)])
def test_few_inodes_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, is_told: bool
) -> None:
    says(monkeypatch, f_favail=free)
    assert bool(list(places.inodes([Place(tmp_path, "images")]))) is is_told


def test_a_file_system_that_counts_none_has_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says(monkeypatch, f_files=0, f_favail=0, f_blocks=0, f_bavail=0)
    place = Place(tmp_path, "images")
    assert not [*places.room([place]), *places.inodes([place])]


def test_one_file_system_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    says(monkeypatch, f_bavail=0)
    both = [Place(tmp_path, "the database"), Place(tmp_path / "images", "images")]
    assert len(list(places.room(both))) == 1

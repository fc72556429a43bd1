"""Checks of folders: room, inodes, and whether they can be written at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unkai_wire.doctor.findings import Finding, Severity, finding

LEAST_BYTES = 256 << 20
"""Less room than this stops the next write of an image or a disk."""
LEAST_RATIO = 0.05
FEW_INODES_RATIO = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that something must be written to. `purpose`: what lies there."""

    path: Path
    purpose: str
    ours: bool = True
    """We write there ourselves, and may try."""


def existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _file_systems(places: Iterable[Place]) -> Iterator[tuple[Place, Path, os.statvfs_result]]:
    """Yield each file system once: the first place on it, a folder there, and its figures."""
    seen: set[int] = set()
    for place in places:
        folder = existing(place.path)
        device = folder.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield place, folder, os.statvfs(folder)


def room(places: Iterable[Place]) -> Iterable[Finding]:
    """Judge: file systems that are full, or nearly."""
    for place, folder, found in _file_systems(places):
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        least = min(LEAST_BYTES, int(size * 0.1))
        if size and (free < least or free < size * LEAST_RATIO):
            yield finding(
                Severity.FAIL if free < least else Severity.WARN,
                f"{free >> 20} of {size >> 20} MiB are free for {place.purpose} in {place.path}",
                "writes there fail: creates and uploads end in an error, guests that write pause",
                f"free space there: du -xh --max-depth=2 {folder} | sort -h | tail",
            )


def inodes(places: Iterable[Place]) -> Iterable[Finding]:
    """Judge: file systems that have room but can take no more files."""
    for place, folder, found in _file_systems(places):
        if found.f_files and found.f_favail < max(16, found.f_files * FEW_INODES_RATIO):
            yield finding(
                Severity.FAIL,
                f"{found.f_favail} of {found.f_files} inodes are free for {place.purpose} "
                f"in {place.path}",
                "no new file can be made there, however much room there is",
                f"remove small files: du -x --inodes --max-depth=2 {folder} | sort -n | tail",
            )


def writable(places: Iterable[Place]) -> Iterable[Finding]:
    """Judge: folders that cannot be written to: read-only file systems, failing disks."""
    for place in places:
        if not place.ours or not place.path.exists():
            continue
        try:
            with tempfile.TemporaryFile(dir=place.path, prefix=".doctor"):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                continue  # another check's
            why = error.strerror or type(error).__name__
            yield finding(
                Severity.FAIL,
                f"{place.path}, for {place.purpose}, cannot be written: {why}",
                "nothing new can be kept there",
                f"see 'dmesg | tail' and 'findmnt -T {place.path}'; "
                f"then: mount -o remount,rw $(findmnt -no TARGET -T {place.path})",
            )

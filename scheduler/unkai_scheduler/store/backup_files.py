"""A backup's file: private, whole or not there at all, and never in place of another."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unkai_wire.errors import AlreadyExists, FailedPrecondition, Unavailable


class DumpFailed(Exception):
    """Why what makes a backup gave up, in its own words."""


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to; the file appears under its name once that has gone well.

    Raises `AlreadyExists` / FILE_EXISTS when it is there, and `Unavailable` / BACKUP_FAILED for a
    `DumpFailed`.
    """
    if file.exists():
        raise AlreadyExists(f"{file} exists", reason="FILE_EXISTS", metadata={"path": str(file)})
    # A name of its own and O_EXCL: nobody has it open, and it is no link to somewhere else.
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield part
        _sync(part)
        # A link, because a rename would write over what appeared meanwhile.
        os.link(part, file)
    except DumpFailed as error:
        raise _failed(file, str(error)) from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
    _sync(file.parent)


def _failed(file: Path, why: str) -> Unavailable:
    """Make the error for a backup that could not be written."""
    if any(text in why for text in _NO_ROOM):
        why = f"there is no room on its disk ({why})"
    return Unavailable(
        f"the backup to {file} failed: {why}",
        reason="BACKUP_FAILED",
        fix="check 'unkai-scheduler db check', and the room on the disk of the backup",
        metadata={"path": str(file)},
    )


_NO_ROOM = ("No space left", "errno 28", "disk is full")
"""What pg_dump, mariadb-dump and SQLite say."""


def tool_missing(program: str, package: str) -> FailedPrecondition:
    """Make the error for a server whose own program is not installed here."""
    return FailedPrecondition(
        f"{program} is not installed on this machine",
        reason="BACKUP_TOOL_MISSING",
        fix=f"install Debian's package {package}, of the server's version or later",
        metadata={"program": program},
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that are made once: each appears whole and is never overwritten; several, all or none.

A full disk in the midst of making a key and its certificate must not leave the half that makes the
next try say "it exists".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EIO}


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that it appears whole, with its mode from the first byte on.

    Raises `FileExistsError` where the name is taken, `OSError` when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, _NEW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        # link, not rename: it fails where the name is taken, so nothing is ever overwritten.
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_all_new(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """Write several files (path, content, mode), or none of them."""
    written: list[Path] = []
    try:
        for path, content, mode in files:
            write_new(path, content, mode)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def hint(error: OSError, otherwise: str) -> str:
    """Say what helps against a file system's refusal."""
    if error.errno in _FULL:
        return "free space on that disk (df -h, df -i); then repeat the command"
    if error.errno in _READ_ONLY:
        return "mount that disk for writing, or look at the kernel log why it is not"
    return otherwise

"""Read a console's log: its tail, and what is added, through rotations.

virtlogd writes `console.log`, renames it to `console.log.0` when it is full (older ones move to
`.1`, `.2`) and begins a new one. A follower that finds another file under the name first reads
what the old one still has. Reading blocks, so it happens in threads, a piece at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from io import FileIO
from pathlib import Path

PIECE_BYTES = 64 << 10
_POLL_S = 0.2


async def read_log(
    path: Path, *, tail_bytes: int, follow: bool, goes_on: Callable[[], bool] = lambda: True
) -> AsyncGenerator[bytes, None]:
    """Yield the last `tail_bytes` kept (0: all), then, if asked to follow, what is added.

    Following ends, all read, once `goes_on` says that no more can come.
    """
    files, skip = await asyncio.to_thread(_open_all, path, tail_bytes)
    current = files[-1] if files else None
    try:
        for file in files:
            if skip:
                skip -= await asyncio.to_thread(_skip, file, skip)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
        while follow:
            follow = goes_on()
            await asyncio.sleep(_POLL_S)
            if current is not None:
                while piece := await asyncio.to_thread(current.read, PIECE_BYTES):
                    yield piece
            newer = await asyncio.to_thread(_open_if_other, path, current)
            if newer is not None:
                if current is not None:
                    while piece := await asyncio.to_thread(current.read, PIECE_BYTES):
                        yield piece
                # Kept open, each would hold its room on the disk for as long as somebody follows.
                for file in files:
                    file.close()
                files = [newer]
                current = newer
    finally:
        for file in files:
            file.close()


def _open_all(path: Path, tail_bytes: int) -> tuple[list[FileIO], int]:
    """Open what is kept, oldest first, and say how many bytes of it to leave out."""
    number, names = 0, [path]
    while (older := path.with_name(f"{path.name}.{number}")).exists():
        names.insert(0, older)
        number += 1
    files: list[FileIO] = []
    for name in names:
        try:
            files.append(_open(name))
        except FileNotFoundError:
            continue
    total = sum(os.fstat(file.fileno()).st_size for file in files)
    return files, max(0, total - tail_bytes) if tail_bytes else 0


def _open(path: Path) -> FileIO:
    """Open for reading; never through a link that somebody put in the log's place."""
    return FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "r")


def _skip(file: FileIO, count: int) -> int:
    size = os.fstat(file.fileno()).st_size
    return file.seek(min(size, count))


def _open_if_other(path: Path, current: FileIO | None) -> FileIO | None:
    """Open the file under the name unless it is the one being read; go back if it was cut."""
    try:
        newer = _open(path)
    except FileNotFoundError:
        return None
    if current is None:
        return newer
    old, new = os.fstat(current.fileno()), os.fstat(newer.fileno())
    if (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino):
        return newer
    newer.close()
    if new.st_size < current.tell():
        current.seek(0)
    return None

"""How files of the store come to be: whole or not at all, and for the right eyes.

A file is written beside its place under a `.part` name, synced, given its owner and mode, and
renamed; a crash leaves a `.part` that the next start sweeps. Folders belong to the agent's user:
QEMU may search them and never change what is in them, so no name in them can be a trap. Even so
nothing here follows a symbolic link.

Everything blocks; `Threads` runs it.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from unkai_agent.storage.refusals import disk_full, storage_failed, storage_hangs
from unkai_wire.errors import InvalidArgument

T = TypeVar("T")
DEADLINE_S = 120.0
"""A piece of file work that takes longer is held up by a disk that hangs. To sync all that a large
machine has in memory for a slow disk takes less."""

PART_SUFFIX = ".part"
"""Ends the name of a file that is being made."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Translate the system's errors: no room is DISK_FULL, all else STORAGE_FAILED."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise disk_full(what) from error
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise storage_failed(what, cause) from error


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose files are: ours, lent to the user that QEMU runs as.

    `uid` and `gid` are None when nothing is to be given away: no such user was named, or we are
    not root and could not.
    """

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of_user(cls, user: str | None) -> Ownership:
        """Look the user up; raise `InvalidArgument` when there is none, or when it is root.

        The group is the one named like the user where it is a member of it, else its first:
        Debian's `libvirt-qemu` has `kvm` first, which people join too.
        """
        if user is None or os.geteuid() != 0:
            return cls()
        try:
            entry = pwd.getpwnam(user)
        except KeyError as error:
            raise InvalidArgument.field(
                "libvirt.qemu_user", f"there is no user {user!r} on this host", reason="NO_USER"
            ) from error
        if entry.pw_uid == 0:
            raise InvalidArgument.field(
                "libvirt.qemu_user", "QEMU must not run as root", reason="QEMU_AS_ROOT"
            )
        with suppress(KeyError):
            group = grp.getgrnam(user)
            if user in group.gr_mem or group.gr_gid == entry.pw_gid:
                return cls(entry.pw_uid, group.gr_gid)
        return cls(entry.pw_uid, entry.pw_gid)

    def lend_folder(self, path: Path) -> None:
        """Let QEMU search the folder, not change it."""
        self._give(path, None, 0o750)

    def lend_readable(self, path: Path) -> None:
        """Let QEMU read the file. It stays ours, so QEMU cannot make it writable."""
        self._give(path, None, 0o440)

    def give_writable(self, path: Path) -> None:
        """Give QEMU the file, for nobody else to read."""
        self._give(path, self.uid, 0o600)

    def _give(self, path: Path, uid: int | None, mode: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if self.gid is not None:
                os.fchown(fd, -1 if uid is None else uid, self.gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


@contextmanager
def folder_made(path: Path, ownership: Ownership) -> Iterator[None]:
    """Have the folder while something is put into it; undo it when that fails."""
    made = make_folder(path, ownership)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                path.rmdir()  # only an empty one goes
        raise


def make_folder(path: Path, ownership: Ownership) -> bool:
    """Have the folder, searchable by QEMU; tell whether it was made now."""
    made = False
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        made = True
    try:
        ownership.lend_folder(path)
    except OSError:
        if made:
            path.rmdir()
        raise
    if made:
        sync(path.parent)
    return made


def sync(path: Path) -> None:
    """Have what the file or folder holds on the disk itself."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def part_of(path: Path) -> Path:
    """Return the name under which a file is made."""
    return path.with_name(f".{path.name}{PART_SUFFIX}")


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name, for good: synced before and after."""
    sync(part)
    part.rename(path)
    sync(path.parent)


def write_whole(path: Path, content: bytes, lend: Callable[[Path], None]) -> None:
    """Write a file whole or not at all; `lend` gives it owner and mode."""
    part = part_of(path)
    remove_file(part)
    try:
        with os.fdopen(create(part), "wb") as file:
            file.write(content)
        lend(part)
        put_in_place(part, path)
    except BaseException:
        remove_file(part)
        raise


def create(path: Path) -> int:
    """Make a file that is not there yet, for us alone, and return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def available_bytes(folder: Path) -> int:
    """Return the bytes free to us where the folder is."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def read_head(path: Path, limit_bytes: int) -> bytes | None:
    """Return a file's first bytes, or None when there is no such file."""
    try:
        file = open_to_read(path)
    except FileNotFoundError:
        return None
    with file:
        return file.read(limit_bytes)


def open_to_read(path: Path) -> BinaryIO:
    """Open a file for reading; never through a link, never waiting for what is no file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags), "rb")


def remove_file(path: Path) -> None:
    """Remove a file that may be there."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that may be there, with all it holds; links are removed, not followed.

    What another removes or renames meanwhile, as virtlogd does with logs, ends nothing half-way.
    """
    if path.exists():
        shutil.rmtree(path, onerror=_unless_gone)
        sync(path.parent)


def _unless_gone(_act: object, _path: str, caught: tuple[object, BaseException, object]) -> None:
    """Go on when what was to be removed is gone; raise again what else went wrong."""
    if not isinstance(caught[1], FileNotFoundError):
        raise caught[1]


def sweep_parts(folder: Path) -> None:
    """Remove what a crash left half-made in a folder."""
    if folder.is_dir() and not folder.is_symlink():
        for part in folder.glob(f".*{PART_SUFFIX}"):
            part.unlink()


class Threads:
    """A few threads for blocking file work: a slow disk must not starve the event loop."""

    def __init__(self, size: int, deadline_s: float = DEADLINE_S) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="storage")
        self._deadline_s = deadline_s
        self._hung: set[asyncio.Future[object]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return what it returns.

        A caller that is cancelled still waits for it: what a lock of the caller's protects must
        not go on after the lock is let go. So `work` must be short; a disk that hangs is given
        `deadline_s`, then `Unavailable` / STORAGE_HANGS is raised while the thread waits on. What
        a caller protects from such work it protects by `ended`.
        """
        job = self._executor.submit(work)
        future = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait([future], timeout=self._deadline_s)
        except asyncio.CancelledError:
            try:
                await asyncio.wait([future], timeout=self._deadline_s)
            finally:  # a second cancellation lets go of it at once
                self._let_go(job, future)
            raise
        if not done:
            self._let_go(job, future)
            raise storage_hangs(self._deadline_s)
        return future.result()

    @property
    def hung(self) -> int:
        """How many pieces of work were given up and have not ended."""
        return len(self._hung)

    async def ended(self) -> None:
        """Wait until no work that was given up can act any more."""
        while self._hung:
            await asyncio.wait(set(self._hung), timeout=self._deadline_s)
            if self._hung:
                raise storage_hangs(self._deadline_s)

    def _let_go(self, job: Future[T], future: asyncio.Future[T]) -> None:
        if not future.done():
            if job.cancel():
                return  # it had not begun, and never will
            kept: asyncio.Future[object] = future  # type: ignore[assignment] # only awaited
            self._hung.add(kept)
            future.add_done_callback(self._came_back)
        elif not future.cancelled():
            future.exception()  # nobody else will look at it

    def _came_back(self, future: asyncio.Future[T]) -> None:
        self._hung.discard(future)
        if not future.cancelled():
            future.exception()

    def close(self) -> None:
        """Let the threads go once they are done."""
        self._executor.shutdown(wait=False)

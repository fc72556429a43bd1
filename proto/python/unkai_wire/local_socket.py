"""The file of a unix socket that a gRPC server of ours serves: for root on this machine alone.

It has mode 0600 from its first moment, and never replaces one that somebody else serves.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from unkai_wire.errors import FailedPrecondition

if TYPE_CHECKING:
    import grpc

LONGEST_BYTES = 107
"""What the kernel takes as a socket's path (unix(7): `sun_path`)."""

_NUMBERS = count()
"""With the process's id, a name that no other server has: gRPC removes what is at its address."""


class SocketFile:
    """A socket's file, which no server of the library removes.

    The trap: a server removes the file at its own address, some time after it says that it has
    stopped; by then it would be the next one's. So each listens at another name, and its file is
    moved to where callers look for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ours: os.stat_result | None = None

    def bind(self, server: grpc.aio.Server) -> None:
        """Have a server that has not started listen here.

        Raises `FailedPrecondition` / SOCKET_IN_USE, SOCKET_UNUSABLE. The folder is made.
        """
        if not self.is_ours():
            claim_socket(self._path)
        bound = self._path.with_name(f".{os.getpid():x}.{next(_NUMBERS)}")
        if len(os.fsencode(bound)) > LONGEST_BYTES:
            raise _unusable(self._path, "its folder's path is too long")
        try:
            with _narrow_umask():
                server.add_insecure_port(f"unix:{bound}")
            bound.chmod(0o600)
            self._ours = bound.lstat()
            bound.replace(self._path)
        except RuntimeError as error:  # gRPC says no more
            raise _unusable(self._path, "its folder takes no socket") from error
        except OSError as error:
            raise _unusable(self._path, error.strerror or "of its folder") from error

    def is_ours(self) -> bool:
        """Tell whether callers find us here: the file is there, and nobody has replaced it."""
        try:
            found = self._path.lstat()
        except OSError:
            return False
        ours = self._ours
        # A file that comes after ours may have its number; its time differs then.
        return (
            ours is not None
            and os.path.samestat(found, ours)
            and found.st_mtime_ns == ours.st_mtime_ns
        )

    def remove(self) -> None:
        """Remove the file, unless it is somebody else's by now."""
        if self.is_ours():
            with suppress(FileNotFoundError):
                self._path.unlink()


def claim_socket(path: Path) -> None:
    """Make the folder, and remove a socket that nobody serves.

    Raises `FailedPrecondition` / SOCKET_IN_USE when somebody does, SOCKET_UNUSABLE when none can
    be made there.
    """
    if len(os.fsencode(path)) > LONGEST_BYTES:
        raise _unusable(path, f"it has more than {LONGEST_BYTES} bytes")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not os.path.lexists(path):
            return
        if path.is_socket() and not _is_served(path):
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise _unusable(path, error.strerror or "its folder cannot be made") from error
    raise FailedPrecondition(
        f"{path} is in use: another program serves it, or it is no socket",
        reason="SOCKET_IN_USE",
        fix="stop the other program, or set another socket",
        metadata={"path": str(path)},
    )


def _is_served(path: Path) -> bool:
    """Tell whether a socket may have somebody behind it; one that is only slow has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _unusable(path: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot listen at {path}: {why}",
        reason="SOCKET_UNUSABLE",
        fix="mend its folder, or set another socket",
        metadata={"path": str(path)},
    )


@contextmanager
def _narrow_umask() -> Iterator[None]:
    """Make what is made in the block ours alone, from its first moment on. It is the whole
    process's: as tight is fit for a folder that another thread makes meanwhile."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)

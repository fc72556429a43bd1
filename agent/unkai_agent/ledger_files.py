"""The ledger's files: checked by a digest, replaced whole or not at all, and written when full.

Below `ledger.py`, which says what is in them. A file is written beside its name, fsynced, renamed,
and its folder fsynced: after a crash it is either the old one or the new one. What cannot be
believed is moved to `corrupt/` and reported, never dropped.

A removal must be noted before it is begun, also on a disk that guests have filled to the brim:
else nobody could ever make room. So some blocks are laid by in `reserve/`; a write that may draw
on them becomes one of these files, in place, and takes no new room. Where a file system never
writes in place (btrfs, ZFS) this helps only as far as its own reserve does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unkai_wire.errors import FailedPrecondition, Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_VERSION = 1
"""Of the records that this agent writes and reads."""
_RESERVE_FILES = 4
_RESERVE_BYTES = 192 * 1024
"""Room for the largest entry: 64 KiB of user-data, in base64, and what else it says."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LedgerProblem:
    """A file that could not be read, and where it was put."""

    file: str
    problem: str
    kept_as: Path


class LedgerFiles:
    """The folder of one ledger. Blocks; the ledger's lock guards it."""

    def __init__(
        self, root: Path, *, report: Callable[[LedgerProblem], None], durable: bool
    ) -> None:
        """Make the folders if need be. `durable=False`: no fsync, and nothing laid by."""
        self.root = root
        self.problems: list[LedgerProblem] = []
        self._durable = durable
        self._report = report
        for name in ("", "machines", "tombstones", "corrupt"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (root, root / "machines", root / "tombstones"):
            for left in folder.glob("*.tmp"):
                left.unlink()
        self.lay_by()

    def load(self, folder: str, parse: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        """Read all files of a folder, by the id that each bears in its name and within."""
        found: dict[str, T] = {}
        for path in sorted((self.root / folder).iterdir()):
            value = self.read(path, parse, named=True)
            if value is not None:
                found[path.stem] = value
        return found

    def read(
        self, path: Path, parse: Callable[[dict[str, Any]], T], *, named: bool = False
    ) -> T | None:
        """Read a file; None when it is not what was written there: then it is put aside.

        `named`: it must be `<instance id>.json`. A copy that somebody made beside the real file
        is valid in all else. Raises `FailedPrecondition` / LEDGER_TOO_NEW for a newer agent's.
        """
        try:
            document = json.loads(path.read_bytes())
            body = document["body"]
            if document["sha256"] != _digest(body):
                raise ValueError("its checksum does not match")
            if int(body.get("version", _VERSION)) > _VERSION:
                raise _too_new(path.name)
            if named and path.name != f"{_instance_id(body)}.json":
                raise ValueError("its name is not that of what it holds")
            return parse(body)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._put_aside(path, f"{type(error).__name__}: {error}")
            return None

    def write(self, path: Path, body: dict[str, Any], *, may_draw: bool = False) -> None:
        """Replace a file. `may_draw`: where there is no room, take what was laid by.

        Raises `FailedPrecondition` / LEDGER_FULL, `Unavailable` / LEDGER_UNWRITABLE; then the old
        file stands, but for a disk that fails at the very end: it may be either.
        """
        text = json.dumps({"body": body, "sha256": _digest(body)}, sort_keys=True).encode()
        try:
            try:
                self._write_anew(path, text)
            except OSError as error:
                laid_by = self._laid_by()
                if error.errno not in _FULL or not may_draw or not laid_by:
                    raise
                self._write_over(laid_by[0], path, text)
        except OSError as error:
            raise _write_error(error) from error

    def remove(self, path: Path) -> None:
        """Remove a file that may be there. Raises as `write`."""
        try:
            path.unlink(missing_ok=True)
            self._sync(path.parent)
        except OSError as error:
            raise _write_error(error) from error

    def lay_by(self) -> None:
        """Fill the reserve up, as far as there is room."""
        if not self._durable:
            return
        reserve = self.root / "reserve"
        with suppress(OSError):  # later, then
            reserve.mkdir(mode=0o700, exist_ok=True)
            kept = set(self._laid_by())
            for path in (reserve / str(number) for number in range(_RESERVE_FILES)):
                if path not in kept:
                    self._lay_by(path)

    def _lay_by(self, path: Path) -> None:
        try:
            self._fill(path, "wb", bytes(_RESERVE_BYTES))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _laid_by(self) -> list[Path]:
        found = sorted((self.root / "reserve").glob("*"))
        return [path for path in found if path.stat().st_size == _RESERVE_BYTES]

    def _write_anew(self, path: Path, text: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        try:
            self._fill(temporary, "wb", text)
            temporary.rename(path)
            self._sync(path.parent)
        except OSError:
            with suppress(OSError):  # a disk that went read-only refuses this, too
                temporary.unlink(missing_ok=True)
            raise

    def _write_over(self, spare: Path, path: Path, text: bytes) -> None:
        self._fill(spare, "r+b", text)
        spare.rename(path)
        self._sync(path.parent)

    def _fill(self, path: Path, mode: str, content: bytes) -> None:
        with path.open(mode) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.truncate()
            file.flush()
            if self._durable:
                os.fsync(file.fileno())

    def _put_aside(self, path: Path, problem: str) -> None:
        number, kept = 0, self.root / "corrupt" / path.name
        while kept.exists():
            number += 1
            kept = self.root / "corrupt" / f"{path.name}.{number}"
        path.rename(kept)
        found = LedgerProblem(file=path.name, problem=problem, kept_as=kept)
        self.problems.append(found)
        self._report(found)

    def _sync(self, folder: Path) -> None:
        if not self._durable:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def examine(root: Path) -> Iterator[tuple[Path, str, bool]]:
    """Yield each file of a ledger that cannot be used: why, and whether a newer agent wrote it.

    For looking alone: nothing is put aside. What was put aside earlier is told of, too.
    """
    for path in sorted(root.glob("machines/*.json")) + sorted(root.glob("tombstones/*.json")):
        try:
            body = json.loads(path.read_bytes())["body"]
            if int(body.get("version", _VERSION)) > _VERSION:
                yield path, "", True
            elif json.loads(path.read_bytes())["sha256"] != _digest(body):
                yield path, "its checksum does not match", False
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield path, f"cannot be read: {error}", False
    for path in sorted(root.glob("corrupt/*")):
        yield path, "could not be read at a start, and was put aside", False


def _instance_id(body: dict[str, Any]) -> str:
    """Return the id in a tombstone, or in the spec of an entry."""
    return str(body.get("spec", body)["instance_id"])


def _digest(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _too_new(file: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"file {file} of the ledger was written by a newer agent",
        reason="LEDGER_TOO_NEW",
        fix="install that version again; guests run on meanwhile",
        metadata={"file": file},
    )


def _write_error(error: OSError) -> FailedPrecondition | Unavailable:
    if error.errno in _FULL:
        return FailedPrecondition(
            "the host's disk has no room for its ledger; nothing was changed",
            reason="LEDGER_FULL",
            fix="free space on the file system of the agent's state folder",
        )
    return Unavailable(
        f"the host cannot write its ledger: {error.strerror}",
        reason="LEDGER_UNWRITABLE",
        fix="look at the host's disk and its kernel log",
        retry_after_s=5.0,
    )

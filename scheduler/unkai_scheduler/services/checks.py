"""Collects what is wrong with a request, so that its caller learns all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from unkai_scheduler.domain.instances import MIB
from unkai_wire import ids
from unkai_wire.errors import Conflict, InvalidArgument, NotFound

T = TypeVar("T")
MAX_VIOLATIONS = 16
"""Problems told in one error: an answer's size is bounded, and nobody reads more."""


class Violations:
    """The wrong fields of one request. Use as a context manager: leaving it raises them."""

    def __init__(self) -> None:
        self._errors: list[InvalidArgument] = []

    def __enter__(self) -> Violations:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.check()

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an `InvalidArgument` of the block instead of letting it out."""
        try:
            yield
        except InvalidArgument as error:
            self._errors.append(error)

    def require(self, ok: bool, field: str, problem: str, reason: str) -> None:
        """Note the problem unless `ok`."""
        if not ok:
            self._errors.append(InvalidArgument.field(field, problem, reason=reason))

    def check(self) -> None:
        """Raise what was noted: a single problem as it is, several as one error."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            violations = [v for error in self._errors for v in error.violations]
            count, violations = len(violations), violations[:MAX_VIOLATIONS]
            shown = "" if count <= MAX_VIOLATIONS else f" (the first {MAX_VIOLATIONS} are shown)"
            raise InvalidArgument(
                f"{count} fields are wrong{shown}: "
                + "; ".join(f"{field}: {problem}" for field, problem in violations),
                metadata={"fields": ",".join(dict.fromkeys(field for field, _ in violations))},
                violations=violations,
            )


@contextmanager
def renamed(path: str, *, of: str = "") -> Iterator[None]:
    """Let errors of fields name those of the field that they are in. `of`: their own beginning."""
    try:
        yield
    except InvalidArgument as error:
        violations = [
            (f"{path}.{name.removeprefix(of)}", problem) for name, problem in error.violations
        ]
        raise InvalidArgument(
            "; ".join(f"{name}: {problem}" for name, problem in violations),
            reason=error.reason,
            fix=error.fix,
            metadata=error.metadata | {"field": violations[0][0]},
            violations=violations,
        ) from error


def check_mask(paths: Sequence[str], changeable: Sequence[str]) -> frozenset[str]:
    """Return the fields an update mask names; refuse an empty mask and unknown fields."""
    with Violations() as wrong:
        wrong.require(
            bool(paths), "update_mask", "must name at least one field", "EMPTY_UPDATE_MASK"
        )
        for path in paths:
            wrong.require(
                path in changeable,
                "update_mask",
                f"{path[:64]!r} cannot be changed; these can: {', '.join(changeable)}",
                "FIELD_NOT_CHANGEABLE",
            )
    return frozenset(paths)


def check_size(
    wrong: Violations, field: str, size: int, least: int, most: int, *, may_be_0: bool = False
) -> None:
    """Note when a size in bytes is out of its range or no multiple of 1 MiB."""
    if may_be_0 and size == 0:
        return
    wrong.require(
        least <= size <= most and size % MIB == 0,
        field,
        f"is {size}; it must be {least} to {most} bytes and a multiple of {MIB}"
        + (", or 0" if may_be_0 else ""),
        "INVALID_SIZE",
    )


def check_etag(kind: str, ident: str, stored: str, expected: str) -> None:
    """Raise `Conflict` / ETAG_MISMATCH when a caller expects another version of the row."""
    if expected and expected != stored:
        raise Conflict(
            f"{kind.replace('_', ' ')} {ident} has changed since it was read",
            reason="ETAG_MISMATCH",
            fix="read it again and repeat the change",
            metadata={"resource_kind": kind, "resource": ident, "etag": stored},
        )


def found(kind: str, ident: str, row: T | None) -> T:
    """Return the row, or raise `NotFound`."""
    if row is None:
        raise NotFound.of(kind, ident)
    return row


def fetch(kind: str, ident: str, field: str, get: Callable[[str], T | None]) -> T:
    """Check that the text is an id of the kind and return its row, or raise."""
    return found(kind, ident, get(ids.check_id(kind, ident, field)))

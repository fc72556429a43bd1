"""All that is printed: tables, JSON, YAML, names, single values, errors, progress.

The only file that prints. Results go to standard output; progress and errors to standard error.
Tables are plain text, as wide as their content: quick for thousands of rows, and easy to pipe.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from unkai_wire.errors import InvalidArgument, UnkaiError

FORMATS = ("table", "wide", "json", "yaml", "name", "value=FIELD")

Record = Mapping[str, Any]
"""A resource as plain values, keys as in the contract."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_STATE = 4
EXIT_CAPACITY = 5
EXIT_UNAVAILABLE = 6
EXIT_PERMISSION = 7
EXIT_INTERRUPTED = 130
_EXIT_OF_CODE = {
    3: EXIT_USAGE,
    5: EXIT_NOT_FOUND,
    6: EXIT_STATE,
    9: EXIT_STATE,
    10: EXIT_STATE,
    8: EXIT_CAPACITY,
    4: EXIT_UNAVAILABLE,
    14: EXIT_UNAVAILABLE,
    7: EXIT_PERMISSION,
    16: EXIT_PERMISSION,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    text: Callable[[Record], str]
    wide: bool = False
    """Shown with `-o wide` only."""
    right: bool = False


class Printer:
    """Prints results in the format asked for."""

    def __init__(
        self, form: str = "table", *, headers: bool = True, out: TextIO | None = None
    ) -> None:
        self.form, _, self.field = form.partition("=")
        if self.form not in {f.partition("=")[0] for f in FORMATS} or (
            (self.form == "value") != bool(self.field)
        ):
            raise InvalidArgument(
                f"-o {form} is not a format",
                reason="INVALID_FORMAT",
                fix=f"use one of {', '.join(FORMATS)}",
                metadata={"format": form},
            )
        self.headers = headers
        self._out = out
        self._widths: list[int] = []

    @property
    def out(self) -> TextIO:
        """Where results go."""
        return self._out or sys.stdout

    def line(self, text: str = "") -> None:
        """Print one line."""
        print(text, file=self.out)

    def rows(self, records: Sequence[Record], columns: Sequence[Column]) -> None:
        """Print a list."""
        match self.form:
            case "json":
                self.line(json.dumps(list(records), indent=2, ensure_ascii=False))
            case "yaml":
                self.out.write(_yaml(list(records)))
            case "name":
                for record in records:
                    self.line(str(record.get("name") or record.get("id", "")))
            case "value":
                for record in records:
                    self.line(value_of(record, self.field))
            case _:
                self.table(records, columns)

    def table(self, records: Sequence[Record], columns: Sequence[Column]) -> None:
        """Print a plain table; an empty one says so on standard error."""
        shown = self._shown(columns)
        if not records:
            note("nothing found")
            return
        rows = [[c.title for c in shown]] if self.headers else []
        rows += (_cells(record, shown) for record in records)
        self._widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        for line in align(rows, [c.right for c in shown], self._widths):
            self.line(line)

    def change(self, record: Record, columns: Sequence[Column]) -> None:
        """Print one more row of a watch, at once: under its table, or a document of its own."""
        match self.form:
            case "json":
                self.line(json.dumps(record, ensure_ascii=False))
            case "yaml":
                self.out.write("---\n" + _yaml(record))
            case "name" | "value":
                self.rows([record], columns)
            case _:
                shown = self._shown(columns)
                cells = _cells(record, shown)
                widths = self._widths or [len(c.title) for c in shown]
                self._widths = [
                    max(width, _width(cell)) for width, cell in zip(widths, cells, strict=True)
                ]
                self.line(*align([cells], [c.right for c in shown], self._widths))
        self.out.flush()

    def _shown(self, columns: Sequence[Column]) -> list[Column]:
        return [c for c in columns if self.form == "wide" or not c.wide]

    def one(self, record: Record, columns: Sequence[Column]) -> None:
        """Print one resource: its fields below each other, or the format asked for."""
        match self.form:
            case "json":
                self.line(json.dumps(record, indent=2, ensure_ascii=False))
            case "yaml":
                self.out.write(_yaml(record))
            case "name" | "value":
                self.rows([record], columns)
            case _:
                pairs = [
                    [f"{c.title.capitalize()}:", cell]
                    for c, cell in zip(columns, _cells(record, columns), strict=True)
                ]
                for line in align(pairs, [False, False]):
                    self.line(line)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.out.flush()
        binary = getattr(self.out, "buffer", None)
        if binary is None:
            self.out.write(data.decode(errors="replace"))
            return
        binary.write(data)
        binary.flush()


def _cells(record: Record, columns: Sequence[Column]) -> list[str]:
    """Return a row's texts; what would move the cursor or change colours is shown as `?`."""
    texts = [c.text(record) or "-" for c in columns]
    return [t if t.isprintable() else _printable(t) for t in texts]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def align(
    lines: Sequence[Sequence[str]], right: Sequence[bool], widths: Sequence[int] = ()
) -> Iterable[str]:
    """Yield the lines with their cells padded to columns two spaces apart."""
    widths = widths or [max(_width(row[i]) for row in lines) for i in range(len(right))]
    for row in lines:
        cells = []
        for cell, width, to_right in zip(row, widths, right, strict=True):
            room = " " * (width - _width(cell))
            cells.append(room + cell if to_right else cell + room)
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def value_of(record: Record, path: str) -> str:
    """Return a field by dotted path as text: `host_name`, `labels.app`.

    A field that the record does not have is refused; a label that is not set is empty.
    """
    first, *rest = path.split(".")
    if first not in record:
        raise InvalidArgument(
            f"there is no field {first}",
            reason="UNKNOWN_FIELD",
            fix=f"use one of {', '.join(record)}",
            metadata={"field": first},
        )
    value: Any = record[first]
    for part in rest:
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def note(text: str) -> None:
    """Say something beside the result, on standard error."""
    _beside(f"{text}\n")


def _beside(text: str) -> None:
    """Write on standard error; where nobody can read that, the command goes on all the same."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


class Progress:
    """One live line on a terminal; elsewhere a line each time the text changes."""

    def __init__(self, quiet: bool = False) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._last = ""

    def show(self, text: str) -> None:
        """Show what is under way."""
        if self._quiet or text == self._last:
            return
        if self._live:
            # A line longer than the terminal would wrap, and could not be taken away.
            import shutil

            columns = shutil.get_terminal_size().columns
            _beside(f"\r\x1b[K{_printable(text)[: columns - 1]}")
        else:
            note(text)
        self._last = text

    def show_bytes(self, what: str, done: int, total: int) -> None:
        """Show how much is carried; off a terminal, a line for each tenth."""
        if self._live:
            self.show(f"{what}: {bytes_text(done)} of {bytes_text(total)}")
        elif total:
            self.show(f"{what}: {10 * (10 * done // total)}% of {bytes_text(total)}")

    def clear(self) -> None:
        """Take the live line away."""
        if self._live and self._last:
            _beside("\r\x1b[K")
        self._last = ""


def _bold(text: str) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else f"\x1b[1;31m{text}\x1b[0m"


def error(failure: UnkaiError) -> int:
    """Print an error in four parts (what, why, fix, request id); return the exit code.

    Where it cannot be printed, the code alone tells.
    """
    with suppress(OSError):
        for line in _told(failure):
            print(line, file=sys.stderr)
    return _EXIT_OF_CODE.get(failure.code, EXIT_FAILED)


def _told(failure: UnkaiError) -> Iterator[str]:
    yield f"{_bold('error:')} {_printable(failure.message)}"
    details = [f"{k}={v}" for k, v in sorted(failure.metadata.items()) if len(v) <= 80]
    why = failure.reason + (f" ({', '.join(details)})" if details else "")
    yield f"  why: {_printable(why)}"
    for path, problem in failure.details().get("violations", []):
        yield f"       {_printable(f'{path}: {problem}')}"
    reasons = failure.details().get("reasons", {})
    for reason, hosts in sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0])):
        count = f"{hosts} host{'s' if hosts != 1 else ''}"
        yield f"       {_printable(reason)}: {count}"
    fix = failure.fix or _FIX_OF_CODE.get(failure.code, _FIX)
    yield f"  fix: {_printable(fix)}"
    if failure.request_id:
        yield f"  request: {_printable(failure.request_id)}"


_FIX = "look at the scheduler's log for the time of the call"
_FIX_OF_CODE = {
    1: "start it again if it is still wanted",
    3: "correct the arguments; see --help",
    4: "look at what came of it before trying again",
    7: "ask an operator, or use another context",
    8: "ask for less, free something, or wait with --capacity-wait",
    9: "bring it into the right state first",
    10: "look again, then retry",
    14: "see that the scheduler runs, then retry: it is safe",
    16: "use a certificate made by 'unkai-scheduler cert client NAME'",
}


def bytes_text(value: Any) -> str:
    """Return bytes in binary units: `256MiB`, `1.5GiB`."""
    number = float(value or 0)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            return f"{number:.0f}{unit}" if number == int(number) else f"{number:.1f}{unit}"
        number /= 1024
    return ""


def _now() -> datetime:
    return datetime.now(UTC)


def age_text(timestamp: Any, now: datetime | None = None) -> str:
    """Return the age of an RFC 3339 time as people say it: `12s`, `5m`, `3h`, `9d`."""
    if not timestamp:
        return ""
    moment = datetime.fromisoformat(str(timestamp))
    seconds = max(0, int(((now or _now()) - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"

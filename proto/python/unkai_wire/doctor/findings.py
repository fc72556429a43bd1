"""Findings, and the checks that make them, run side by side under deadlines.

A check looks and says what is wrong; it changes nothing. What it asks may hang: a disk, libvirt,
etcd. So each runs in a thread of its own that nobody waits for longer than its deadline, and what
several checks want to know is asked once (`Probe`). A thread that hangs is left behind: the
process that runs checks is one of its own, and ends without it (`os._exit`).

Findings cross processes as JSON, `unkai-agent diagnose` to `unkai doctor`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
CHECK_S = 10.0
"""A check that has not ended after so long is itself the finding."""


class Severity(Enum):
    """How much a finding matters."""

    WARN = "WARN"
    """It works; it will not for long, or not as well as it should."""
    FAIL = "FAIL"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """Stable name of the check that found it."""
    severity: Severity
    what: str
    """What is wrong, with the thing it is wrong with."""
    why: str
    """What comes of it."""
    fix: str
    """What to type, or to do."""
    where: str = ""
    """The party that was looked at: `agent h1`, `scheduler s1`."""

    def to_record(self) -> dict[str, str]:
        """Return plain values, keys as the fields."""
        return asdict(self) | {"severity": self.severity.value}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Finding:
        """Read what `to_record` gave."""
        values = {name: str(record.get(name, "")) for name in cls.__slots__}
        return cls(**{**values, "severity": Severity(record["severity"])})  # type: ignore[arg-type]


def finding(severity: Severity, what: str, why: str, fix: str) -> Finding:
    """Return a finding as a check makes it: whose and where is added when it has run."""
    return Finding("", severity, what, why, fix)


@dataclass(frozen=True, slots=True)
class Report:
    """All that one party's checks found."""

    where: str
    version: str
    checks: int
    """How many were run."""
    findings: tuple[Finding, ...]

    def to_json(self) -> str:
        """Return the report as one line of JSON."""
        records = [finding.to_record() for finding in self.findings]
        return json.dumps(
            {"where": self.where, "version": self.version, "checks": self.checks}
            | {"findings": records}
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report; raise ValueError when it is none."""
        try:
            found = json.loads(text)
            findings = tuple(Finding.from_record(record) for record in found["findings"])
            return cls(str(found["where"]), str(found["version"]), int(found["checks"]), findings)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report: {error}") from error


S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One question about a scene: a role's settings and what is around it."""

    name: str
    asks: str
    """What it looks at; a line of the reference."""
    look: Callable[[S], Iterable[Finding]]


class Checks(Generic[S]):
    """A role's checks, in the order of their reports. Add with `@checks.add(name, asks)`."""

    def __init__(self) -> None:
        self.all: list[Check[S]] = []

    def add(
        self, name: str, asks: str
    ) -> Callable[[Callable[[S], Iterable[Finding]]], Callable[[S], Iterable[Finding]]]:
        """Take a function as a check."""

        def take(look: Callable[[S], Iterable[Finding]]) -> Callable[[S], Iterable[Finding]]:
            self.all.append(Check(name, asks, look))
            return look

        return take

    def run(
        self, scene: S, *, only: Sequence[str] = (), timeout_s: float = CHECK_S
    ) -> tuple[int, list[Finding]]:
        """Run the checks (those named) side by side; return how many, and what they found."""
        chosen = [check for check in self.all if not only or check.name in only]
        started = [_Running(check, scene) for check in chosen]
        end_s = time.monotonic() + timeout_s
        return len(chosen), [f for running in started for f in running.findings(end_s, timeout_s)]


class _Running(Generic[S]):
    def __init__(self, check: Check[S], scene: S) -> None:
        self._check = check
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._look, args=(scene,), daemon=True)
        self._thread.start()

    def _look(self, scene: S) -> None:
        try:
            found = list(self._check.look(scene))
        except Exception as error:  # noqa: BLE001 - a check that fails must not hide the others
            found = [
                Finding(
                    self._check.name,
                    Severity.FAIL,
                    f"this could not be looked at: {type(error).__name__}: {error}",
                    "something is so wrong that even the check of it fails",
                    "look at it by hand; if all is well there, report this",
                )
            ]
        self._found = [replace(finding, check=self._check.name) for finding in found]

    def findings(self, end_s: float, timeout_s: float) -> list[Finding]:
        self._thread.join(max(0.0, end_s - time.monotonic()))
        if not self._thread.is_alive():
            return self._found
        return [
            Finding(
                self._check.name,
                Severity.FAIL,
                f"no answer within {timeout_s:g} s: {self._check.asks}",
                "what it asked hangs: a disk, a daemon or the network",
                "see 'dmesg' for disks that hang; try again with --timeout 60",
            )
        ]


class Probe(Generic[T]):
    """What is asked once for several checks, under a deadline."""

    def __init__(self, ask: Callable[[], T], *, within_s: float, late: T) -> None:
        """`late`: the answer where none comes in time."""
        self._ask = ask
        self._within_s = within_s
        self._answer = late
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end_s = 0.0
        self._error: Exception | None = None

    def __call__(self) -> T:
        """Return the answer; raise what asking raised."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._end_s = time.monotonic() + self._within_s
                self._thread.start()
        self._thread.join(max(0.0, self._end_s - time.monotonic()))
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is wanted
            self._error = error

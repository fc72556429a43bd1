"""Faults that a story plants, each with the check that must name it and a word of its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.ward import Visit, Ward

Break = Callable[[Ward], AbstractContextManager[Visit]]
"""Break it, let a doctor look, mend it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is broken; the check that names it, and a word of its fix. `|`: one of several."""

    name: str
    check: str
    fix: str
    examine: Break


class Planted:
    """The faults of a story, and which of them were named with their fix in this run."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.seen: list[str] = []

    def fault(
        self, name: str, check: str, fix: str
    ) -> Callable[[Callable[[Ward], Iterator[Visit]]], None]:
        """Add a fault."""

        def take(function: Callable[[Ward], Iterator[Visit]]) -> None:
            self.faults.append(Fault(name, check, fix, contextmanager(function)))

        return take

    def is_named(self, broken: Fault, ward: Ward) -> None:
        """Fail unless a doctor names a fault with its fix."""
        with ExitStack() as mending:
            visit = mending.enter_context(broken.examine(ward))
        named = [f for f in visit.findings if f["check"] in broken.check.split("|")]
        assert named, visit.findings
        assert any(word in f["fix"] for f in named for word in broken.fix.split("|")), named
        assert visit.exit_code == (2 if any(f["severity"] == "FAIL" for f in visit.findings) else 1)
        self.seen.append(broken.name)


def is_healthy(visit: Visit) -> bool:
    """Tell whether a doctor has found nothing."""
    return (visit.findings, visit.exit_code) == ([], 0)

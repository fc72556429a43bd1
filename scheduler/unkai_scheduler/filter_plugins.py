"""Filters that other packages add to placement, found by their entry points.

docs/howto/write-a-filter.md says how one is written. All that are installed are in force. One that
cannot be loaded keeps the scheduler from starting: without it instances would go where they must
not.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from unkai_scheduler.placement.filters import Filter
from unkai_scheduler.placement.rulebook import RuleBook
from unkai_wire.errors import FailedPrecondition

GROUP = "unkai.placement.filters"


def load() -> RuleBook:
    """Return the rule book with the filters of all installed packages, by name.

    Raises `FailedPrecondition` for one that cannot be loaded.
    """
    added: list[Filter] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            rule = entry.load()
        except Exception as error:
            raise _unusable(entry.name, f"{type(error).__name__}: {error}") from error
        if not isinstance(rule, Filter):
            raise _unusable(entry.name, f"{entry.value} is no Filter")
        added.append(rule)
    try:
        return RuleBook(added)
    except ValueError as error:
        raise _unusable(", ".join(rule.name for rule in added), str(error)) from error


def _unusable(name: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the placement filter {name} cannot be used: {why}",
        reason="PLACEMENT_FILTER_UNUSABLE",
        fix="mend or uninstall the package that brings it",
        metadata={"filter": name, "why": why},
    )

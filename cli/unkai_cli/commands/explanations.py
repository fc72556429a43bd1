"""A placement decision as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unkai_cli.output import Printer, align, bytes_text

SCALE = 65535
"""Scores are fixed point: 65535 stands for 1."""
_GROUPS = {
    "": "live numbers used, of the newest sample:",
    "recent_": "as scored, of the last samples, machines just placed left out:",
    "expected_": "expected of machines just placed:",
}
"""Inputs by the beginning of their names, in the order shown."""


def show(printer: Printer, decision: Mapping[str, Any]) -> None:
    """Print what was decided, what each filter did, and how the candidates compare."""
    printer.line(decision["summary"] or f"host: {decision['host_name'] or 'none'}")
    count = decision["host_count"]
    printer.line(
        f"decided {decision['decide_time']} by policy {decision['policy']} "
        f"over {count} host{'s' * (count != 1)}"
    )
    printer.line()
    _filters(printer, decision["filters"], count)
    if decision["candidates"]:
        printer.line()
        _scores(printer, decision["candidates"])
        _inputs(printer, decision["candidates"])


def _filters(printer: Printer, filters: list[Mapping[str, Any]], host_count: int) -> None:
    silent, left = [], host_count
    for entry in filters:
        left -= entry["rejected_count"]
        if left and not entry["rejected_count"]:
            silent.append(entry["name"])
    if silent:
        printer.line(f"filters that kept no host out: {', '.join(silent)}")
    rows = [["FILTER", "REJECTED", "HOSTS", "NEAREST MISS"]]
    for entry in filters:
        if not entry["rejected_count"]:
            continue
        hosts = ",".join(entry["rejected_hosts"])
        more = entry["rejected_count"] - len(entry["rejected_hosts"])
        rows.append(
            [
                entry["name"],
                str(entry["rejected_count"]),
                (hosts + (f" and {more} more" if more > 0 else "")) or "-",
                entry["nearest_miss"] or "-",
            ]
        )
    if len(rows) > 1:
        for line in align(rows, [False, True, False, False]):
            printer.line(line)


def _scores(printer: Printer, candidates: list[Mapping[str, Any]]) -> None:
    terms = candidates[0]["terms"]
    printer.line("scores, 0 to 1, more is better; SCORE is their mean by weight:")
    rows = [["HOST", "SCORE", *(term["name"].upper() for term in terms)]]
    for entry in candidates:
        scores = {term["name"]: term["score"] for term in entry["terms"]}
        rows.append(
            [
                entry["host_name"],
                f"{entry['total_score'] / SCALE:.3f}",
                *(f"{scores.get(term['name'], 0) / SCALE:.3f}" for term in terms),
            ]
        )
    rows.append(["(weight)", "", *(str(term["weight"]) for term in terms)])
    for line in align(rows, [False] + [True] * (len(rows[0]) - 1)):
        printer.line("  " + line)


def _inputs(printer: Printer, candidates: list[Mapping[str, Any]]) -> None:
    names = {key for entry in candidates for key in entry["inputs"]}
    grouped = {
        prefix: sorted(name for name in names if _group(name) == prefix) for prefix in _GROUPS
    }
    rows = [["", *(entry["host_name"] for entry in candidates)]]
    rows += [
        [name, *(_figure(name, entry["inputs"].get(name)) for entry in candidates)]
        for group in grouped.values()
        for name in group
    ]
    figures = iter(align(rows, [False] + [True] * len(candidates)))
    header = next(figures)
    for prefix, title in _GROUPS.items():
        if not grouped[prefix]:
            continue
        printer.line()
        printer.line(title)
        printer.line("  " + header)
        for _ in grouped[prefix]:
            printer.line("  " + next(figures))


def _group(name: str) -> str:
    return next((prefix for prefix in _GROUPS if prefix and name.startswith(prefix)), "")


def _figure(name: str, value: Any) -> str:
    """Return a figure in the unit that ends its name."""
    if value is None:
        return "-"
    number = float(value)
    if name.endswith("_ratio"):
        return f"{number:.1%}"
    if name.endswith("_bytes"):
        return bytes_text(number)
    if name.endswith("_mib"):
        return bytes_text(number * (1 << 20))
    if name.endswith("_s"):
        return f"{number:.1f}s"
    return f"{number:.2f}"

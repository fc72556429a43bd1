"""A placement decision as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unkai_cli.output import Printer, align

SCALE = 65535
"""Scores are fixed point: 65535 stands for 1."""


def show(printer: Printer, decision: Mapping[str, Any]) -> None:
    """Print what was decided, what each filter did, and how the candidates compare."""
    printer.line(f"host: {decision['host_name'] or 'none'}; {decision['summary']}")
    printer.line(
        f"decided {decision['decide_time']} by policy {decision['policy']} "
        f"over {decision['host_count']} hosts"
    )
    printer.line()
    _filters(printer, decision["filters"])
    if decision["candidates"]:
        printer.line()
        _candidates(printer, decision["candidates"])


def _filters(printer: Printer, filters: list[Mapping[str, Any]]) -> None:
    rows = [["FILTER", "REJECTED", "HOSTS", "NEAREST MISS"]]
    for entry in filters:
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
    for line in align(rows, [False, True, False, False]):
        printer.line(line)


def _candidates(printer: Printer, candidates: list[Mapping[str, Any]]) -> None:
    terms = [term["name"] for term in candidates[0]["terms"]]
    rows = [["HOST", "SCORE", *(f"{name.upper()}" for name in terms)]]
    weights = ["weight", "", *(str(term["weight"]) for term in candidates[0]["terms"])]
    for entry in candidates:
        scores = {term["name"]: term["score"] for term in entry["terms"]}
        rows.append(
            [
                entry["host_name"],
                f"{entry['total_score'] / SCALE:.3f}",
                *(f"{scores.get(name, 0) / SCALE:.3f}" for name in terms),
            ]
        )
    rows.append(weights)
    for line in align(rows, [False] + [True] * (len(rows[0]) - 1)):
        printer.line(line)
    inputs = sorted({key for entry in candidates for key in entry["inputs"]})
    printer.line()
    printer.line("live numbers used:")
    table = [["HOST", *inputs]]
    table += [
        [entry["host_name"], *(_number(entry["inputs"].get(k)) for k in inputs)]
        for entry in candidates
    ]
    for line in align(
        [list(column) for column in zip(*table, strict=True)], [False] + [True] * len(candidates)
    ):
        printer.line("  " + line)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    number = float(value)
    return str(int(number)) if number == int(number) else f"{number:.4f}"

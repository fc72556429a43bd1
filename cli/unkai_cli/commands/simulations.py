"""A what-if as a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unkai_cli.output import Column, Printer, align, bytes_text

MOST = 1000
"""How many more would fit is counted up to so many."""
Found = Mapping[str, Any]


def _claim(name: str, text: Callable[[Any], str]) -> Callable[[Found], str]:
    """Return what of a host is claimed: before, after, and of how much."""

    def cell(change: Found) -> str:
        before, after = change["before"][name], change["after"][name]
        moved = text(after) if before == after else f"{text(before)} -> {text(after)}"
        return f"{moved}/{text(change['claimable'][name])}"

    return cell


CHANGES = (
    Column("HOST", lambda r: r["host_name"]),
    Column("CHANGE", lambda r: "added" if r["added"] else "lost" if r["lost"] else ""),
    Column("PLACED", lambda r: str(r["placed_count"]), right=True),
    Column("VCPUS", _claim("vcpus", str), right=True),
    Column("MEMORY", _claim("memory_bytes", bytes_text), right=True),
    Column("DISK", _claim("disk_bytes", bytes_text), right=True),
    Column("ID", lambda r: r["host_id"], wide=True),
)


def show(printer: Printer, found: Found, steps: Sequence[Any]) -> None:
    """Print what would come of each step, of all hosts, and of those that would change."""
    for step, outcome in zip(steps, found["outcomes"], strict=True):
        kind = step.WhichOneof("kind")
        if kind != "add_hosts":
            _outcome(printer, outcome, _subject(step, kind))
    printer.line()
    _capacity(printer, found["before"], found["after"])
    if found["changes"]:
        printer.line()
        printer.table(found["changes"], CHANGES)
    more = found["change_count"] - len(found["changes"])
    if more:
        printer.line(f"and {more} more")


def _subject(step: Any, kind: str) -> str:
    if kind == "place_instances":
        return ""
    count = len(step.lose_hosts.host_ids)
    return " of the lost host" if count == 1 else f" of the {count} lost hosts"


def _outcome(printer: Printer, outcome: Found, subject: str) -> None:
    asked, placed, hosts = (outcome[f"{name}_count"] for name in ("asked", "placed", "host"))
    if not asked:
        printer.line(f"no instances{subject}")
        return
    text = f"{placed} of {asked}{subject} placed"
    if placed:
        text += f" on {_count(hosts, 'host')}"
    if outcome["more_count"]:
        least = "at least " if outcome["more_count"] >= MOST else ""
        text += f"; {least}{outcome['more_count']} more would fit"
    elif not subject and placed == asked:
        text += "; not one more would fit"
    printer.line(text)
    told = 0
    for refusal in outcome["refusals"]:
        told += refusal["count"]
        printer.line(f"  {refusal['count']} not: {refusal['decision']['summary']}")
        ids = refusal["instance_ids"]
        if ids:
            more = refusal["count"] - len(ids)
            printer.line(f"    {', '.join(ids)}" + (f" and {more} more" if more else ""))
    if asked - placed > told:
        printer.line(f"  {asked - placed - told} more not")


def _capacity(printer: Printer, before: Found, after: Found) -> None:
    rows = [["", "BEFORE", "AFTER"]]
    rows.append(["hosts that take instances", *(_hosts(one) for one in (before, after))])
    for name, title, text in (
        ("vcpus", "vCPUs claimed", str),
        ("memory_bytes", "memory claimed", bytes_text),
        ("disk_bytes", "disk claimed", bytes_text),
    ):
        rows.append([title, *(_share(one, name, text) for one in (before, after))])
    for line in align(rows, [False, True, True]):
        printer.line(line)


def _hosts(capacity: Found) -> str:
    return f"{capacity['host_count']} ({capacity['empty_host_count']} empty)"


def _share(capacity: Found, name: str, text: Callable[[Any], str]) -> str:
    claimed, claimable = capacity["claimed"][name], capacity["claimable"][name]
    share = f" ({claimed / claimable:.0%})" if claimable else ""
    return f"{text(claimed)}/{text(claimable)}{share}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"

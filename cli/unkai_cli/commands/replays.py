"""A past decision beside the one that is made in its place, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unkai_cli.commands import explanations
from unkai_cli.output import Printer


def show(printer: Printer, found: Mapping[str, Any]) -> None:
    """Print whether the two are the same, in what they differ, and why it is as it is now."""
    logged, replayed = found["logged"], found["replayed"]
    if found["identical"]:
        printer.line("the same, bit for bit; this is how it was decided:")
    else:
        printer.line(f"as logged: {logged['host_name'] or logged['summary']}")
        printer.line(f"as made again: {replayed['host_name'] or replayed['summary']}")
        for difference in found["differences"]:
            printer.line(f"  {difference}")
    printer.line()
    explanations.show(printer, replayed)

"""What dashboards are made of: boards, rows, panels, queries. The boards' own files fill them.

Every scheduler shows the cloud's rows, so figures of the cloud are the `max` over schedulers; the
agent's figures are the host's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a panel shows its figures."""

    GRAPH = "graph"
    STAT = "stat"
    TABLE = "table"


@dataclass(frozen=True)
class Query:
    """One expression; `legend` names its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One question."""

    title: str
    description: str
    """What it means and what to do when it looks wrong."""
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.GRAPH
    width: int = 8
    height: int = 8
    thresholds: tuple[tuple[float | None, str], ...] = ()
    lowest: float | None = 0
    link: tuple[str, str] | None = None
    may_be_empty: bool = False
    """Without series in a cloud where nothing went wrong yet."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What the reader picks."""

    name: str
    label: str
    query: str
    hidden: bool = False


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    def panels(self) -> Iterator[Panel]:
        """Yield all panels."""
        for row in self.rows:
            yield from row.panels


AGENT, SCHEDULER = 'job="unkai-agent"', 'job="unkai-scheduler"'
RATE = "$__rate_interval"
GOOD_BELOW = ((None, "green"), (1.0, "red"))
"""Zero is well."""
TO_HOST = ("This host", "/d/unkai-host?var-host=${__field.labels.host}&${__url_time_range}")


def one(expr: str, legend: str = "") -> tuple[Query, ...]:
    """Make the queries of a panel that has one."""
    return (Query(expr, legend),)


def quantile(share: float, name: str, by: str, where: str = "") -> str:
    """Return the expression of a histogram's quantile."""
    inside = f"sum by ({by}, le) (rate({name}_bucket{{{where}}}[{RATE}]))"
    return f"histogram_quantile({share}, {inside})" if by else _alone(share, name, where)


def _alone(share: float, name: str, where: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({name}_bucket{{{where}}}[{RATE}])))"


def stat(
    title: str,
    description: str,
    expr: str,
    unit: str = "short",
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "blue"),),
) -> Panel:
    """Make a small panel with one number."""
    return Panel(title, description, unit, one(expr), Kind.STAT, 3, 4, thresholds)


def failures(title: str, description: str, name: str, by: str, where: str = "") -> Panel:
    """Make a panel of failures a minute, which a healthy cloud has none of."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    expr = f"60 * sum by ({by}) (rate({name}{{{where}}}[{RATE}])) > 0"
    return Panel(title, description, "short", one(expr, legend), may_be_empty=True)

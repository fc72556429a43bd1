"""The port to OVN's northbound database: units of rows go in, differences come out.

Implemented by `process.py` (a child process around `ovsdbapp`) and `fake.py`; both pass the same
contract suite. It knows rows and units, nothing of networks. Every write is fenced by the leader's
term, which the database itself keeps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from unkai_scheduler.ovn.rows import Outcome, Unit
from unkai_wire.errors import Conflict, Unavailable


@dataclass(frozen=True, slots=True)
class Changed:
    """Units whose rows somebody else touched."""

    units: frozenset[str] = frozenset()
    everything: bool = False
    """Nothing is known any more: the database was read anew, or a write's outcome is unknown."""


class Northbound(Protocol):
    """What the leader does to OVN."""

    async def apply(self, term: int, units: Sequence[Unit]) -> Mapping[str, Outcome]:
        """Make each unit's rows as they shall be; say what became of each.

        Units are written in few transactions of at most 200 rows, a unit in one where it fits; in
        an order in which parents come first, removals before all. A key that is absent from the
        answer was not tried, as OVN became unreachable on the way.

        Raises `Unavailable` / OVN_UNREACHABLE when nothing was sent, `Conflict` / NOT_LEADER when
        the database has seen a higher term.
        """

    async def inventory(self) -> Mapping[str, int]:
        """Return how many rows each unit has. Raises `Unavailable`."""

    async def compare(self, units: Sequence[Unit]) -> Sequence[str]:
        """Return the keys of units whose rows are not as they shall be. Raises `Unavailable`."""

    def changes(self) -> AsyncIterator[Changed]:
        """Yield what others did, coalesced; for one reader, without end. Begins with everything."""

    def why_refused(self, key: str) -> str:
        """Return what the database last said of a unit whose outcome was REFUSED, if it did."""

    async def close(self) -> None:
        """Stop; nothing is left running."""


def unreachable(why: str) -> Unavailable:
    """Make the error for a database that cannot be asked now."""
    return Unavailable(
        f"OVN's northbound database cannot be reached: {why}",
        reason="OVN_UNREACHABLE",
        fix="see that ovsdb-server of OVN_Northbound runs and that its remotes are in the settings",
        metadata={"why": why},
        retry_after_s=1.0,
    )


def term_refused(term: int, current: int) -> Conflict:
    """Make the error for a leader that the database knows to be deposed."""
    return Conflict(
        f"term {term} is over: the database is at term {current}",
        reason="NOT_LEADER",
        metadata={"term": str(term), "current_term": str(current), "database": "OVN_Northbound"},
    )

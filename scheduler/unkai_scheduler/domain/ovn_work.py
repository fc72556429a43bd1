"""What is still to be brought to OVN."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Work:
    """A unit of OVN that is not yet, or not surely, as the store says."""

    key: str
    """`kind:id`, such as `port:prt-…`."""
    number: int
    """Rises with each change of the unit: who brings it to OVN settles the number that was read."""
    due_time: datetime
    attempt: int = 0
    reason: str = ""
    """Why it is here: what changed, or what the last attempt failed with."""

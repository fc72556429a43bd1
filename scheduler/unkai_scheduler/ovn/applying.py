"""Applying units by one transaction after another, whoever writes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from unkai_scheduler.ovn.chunks import chunks, in_order
from unkai_scheduler.ovn.encoding import Piece
from unkai_scheduler.ovn.rows import Outcome, Unit

Write = Callable[[Sequence[Piece]], Awaitable[Mapping[str, Outcome] | None]]
"""Writes one transaction; None when nothing was sent."""
_WAITING = frozenset({Outcome.LACKS_PARENT, Outcome.IN_USE})


async def apply_all(units: Sequence[Unit], write: Write) -> dict[str, Outcome]:
    """Write all units; what is not in the answer was not tried."""
    outcomes: dict[str, Outcome] = {}
    left = in_order(units)
    while left:
        found = await _once(left, write)
        outcomes |= found
        if Outcome.UNKNOWN in found.values() or len(found) < len(left):
            break
        # What a unit waited for may be there now: again, as long as that gets any further.
        waiting = [unit for unit in left if found[unit.key] in _WAITING]
        left = waiting if len(waiting) < len(left) else []
    return outcomes


async def _once(units: Sequence[Unit], write: Write) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for chunk in chunks(units):
        found = await write(chunk)
        if found is None:
            break
        for unit, outcome in found.items():
            # A unit in parts is done when all of them are.
            if outcomes.get(unit, Outcome.DONE) is Outcome.DONE:
                outcomes[unit] = outcome
        if Outcome.UNKNOWN in found.values():
            break
    return outcomes

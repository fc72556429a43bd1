"""`--wait` for what has no operation: until OVN is as the resource says (`reconciling` is false).

The change itself is made when its call returns; waiting only tells when OVN has it. Its hosts
follow within some tenths of a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unkai_cli.commands.options import Seconds
from unkai_cli.output import Progress
from unkai_wire.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from unkai_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether to wait, and how long at most."""

    wait: bool
    timeout_s: float


def settling(function: F) -> F:
    """Add --wait/--no-wait and --timeout for changes that OVN follows."""
    function = click.option(
        "--timeout", type=Seconds(), default="1m", show_default=True, help="How long to wait."
    )(function)
    return click.option(
        "--wait/--no-wait",
        default=False,
        show_default=True,
        help="Wait until OVN has it; packets obey a moment later.",
    )(function)


def settled(session: Session, kind: str, changed: Any, waiting: Waiting) -> Any:
    """Return the message as it is once OVN has it; at once when nobody waits.

    Raise `DeadlineExceeded` / STILL_RECONCILING when the time is up: the change stands. A scheduler
    that is away meanwhile ends the waiting no sooner.
    """
    from unkai_cli.commands.resources import read

    if not waiting.wait:
        return changed
    end, pause_s = time.monotonic() + waiting.timeout_s, _FIRST_PAUSE_S
    words = kind.replace("_", " ")
    progress = Progress()
    try:
        while changed.reconciling:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise _still_reconciling(kind, changed, waiting.timeout_s)
            progress.show(f"{words} {changed.name or changed.id}: OVN follows")
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                changed = read(session, kind, changed.id)
            except (Unavailable, DeadlineExceeded) as away:
                progress.show(f"{away.message}; trying again")
    finally:
        progress.clear()
    return changed


def _still_reconciling(kind: str, changed: Any, waited_s: float) -> DeadlineExceeded:
    name = changed.name or changed.id
    return DeadlineExceeded(
        f"{kind.replace('_', ' ')} {name} is saved, but OVN has not followed "
        f"after {waited_s:.0f} s",
        reason="STILL_RECONCILING",
        fix="see with 'unkai doctor' whether OVN is there; the change needs no repeating",
        metadata={"resource_kind": kind, "resource": changed.id},
    )

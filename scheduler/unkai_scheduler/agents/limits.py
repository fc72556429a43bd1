"""How long calls to agents may take, and how long a stream may be silent."""

from __future__ import annotations

from dataclasses import dataclass

from unkai_wire import deadlines


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds; the defaults are what both ends agreed on."""

    describe_s: float = deadlines.DESCRIBE_S
    order_s: float = deadlines.ORDER_S
    diagnose_s: float = deadlines.DIAGNOSE_S
    silence_s: float = deadlines.STREAM_SILENCE_S

"""A tracer that says what it is told to: for tests of what is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unkai_scheduler.ovn.trace import Binding, Sight, Tracking, silent


@dataclass
class FakeTracer:
    """See `trace.Tracer`. What was asked is in `asked`."""

    outputs: dict[tuple[str, Tracking], str] = field(default_factory=dict)
    """What a question's output is."""
    bindings: dict[str, Binding] = field(default_factory=dict)
    monitors: Mapping[tuple[str, int], str] = field(default_factory=dict)
    reachable: bool = True
    asked: list[tuple[str, Tracking]] = field(default_factory=list)

    async def trace(self, flow: str, tracking: Tracking) -> str:
        """See the port."""
        self.asked.append((flow, tracking))
        if not self.reachable:
            raise silent("connection refused")
        output = self.outputs.get((flow, tracking), "")
        if not output.startswith("#"):
            raise silent("unknown port")
        return output

    async def look(self, ports: Sequence[str]) -> Sight:
        """See the port."""
        if not self.reachable:
            raise silent("connection refused")
        known = {name: self.bindings[name] for name in ports if name in self.bindings}
        return Sight(known, self.monitors)

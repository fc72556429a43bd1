"""The tally of a simulated step: requests placed one after the other, and what came of it. Pure.

Work comes as generators that yield after each request, as all of a simulation does.

The trap: who is refused once is taken as refused for all its like in the same step, since nothing
is given back meanwhile. Of a placement group that holds only until another member has its host.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.placement import explain
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.host_words import project_word
from unkai_scheduler.placement.pipeline import Engine, Verdict
from unkai_scheduler.placement.requests import PlacementRequest

MADE_UP = "simulated-"
"""How the id begins of a request that stands for no instance."""
MAX_REFUSALS = 20
"""Kinds of refused requests that are explained, the first met."""
MAX_REFUSED_IDS = 10
"""Instances named of each kind."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests that are alike and find no host."""

    count: int
    decision: Decision
    """Of the first of them."""
    instance_ids: tuple[str, ...]
    """The first of those that are instances already."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of one step; all 0 where hosts were added."""

    asked_count: int = 0
    placed_count: int = 0
    host_count: int = 0
    """Hosts that took some."""
    refusals: tuple[Refusal, ...] = ()
    more_count: int = 0
    """Where all of a `Place` found a host: how many more of it would, up to `MAX_MORE`."""


class Tally:
    """What has come of a step so far."""

    def __init__(self, fleet: Fleet, engine: Engine, now: datetime) -> None:
        """`engine`: of the fleet. `now` is written into the decisions."""
        self.placed: list[tuple[str, PlacementRequest]] = []
        """Host and request each."""
        self.refused: dict[PlacementRequest, Decision] = {}
        """By request without its id: the first decision."""
        self._fleet = fleet
        self._engine = engine
        self._now = now
        self._sure: set[PlacementRequest] = set()
        """Those of the refused that need not be asked about again."""
        self._ids: dict[PlacementRequest, list[str]] = {}
        """Of all that were refused, by kind."""

    def place(
        self, requests: Iterable[PlacementRequest], *, until_refused: bool = False
    ) -> Generator[None, None, None]:
        """Place requests one after the other, as `Engine.decide` does.

        `until_refused`: end before the first that finds no host, and count it nowhere.
        """
        for request in map(self._alike, requests):
            kind = replace(request, instance_id="")
            verdict = None if kind in self._sure else self._engine.judge(request)
            if verdict is not None and verdict.best:
                self._claim(request, verdict)
            elif until_refused:
                return
            else:
                if verdict is not None:
                    self._refuse(kind, verdict)
                self._ids.setdefault(kind, []).append(request.instance_id)
            yield

    def take_back(self) -> Generator[None, None, None]:
        """Withdraw what was placed, the last one first."""
        for host_id, request in reversed(self.placed):
            self._fleet.withdraw(
                host_id,
                request.vcpus,
                request.memory_bytes,
                request.disk_bytes,
                instance_id=request.instance_id,
            )
            yield

    def outcome(self) -> StepOutcome:
        """Sum up."""
        refusals = [
            Refusal(
                len(self._ids[kind]),
                decision,
                tuple(i for i in self._ids[kind] if not i.startswith(MADE_UP))[:MAX_REFUSED_IDS],
            )
            for kind, decision in self.refused.items()
        ]
        return StepOutcome(
            asked_count=len(self.placed) + sum(refusal.count for refusal in refusals),
            placed_count=len(self.placed),
            host_count=len({host_id for host_id, _ in self.placed}),
            refusals=tuple(refusals[:MAX_REFUSALS]),
        )

    def _alike(self, request: PlacementRequest) -> PlacementRequest:
        """Leave out the project of one to whose project no host is dedicated."""
        project_id = request.project_id
        if not project_id or project_word(project_id) in self._fleet.words:
            return request
        return replace(request, project_id="")

    def _claim(self, request: PlacementRequest, verdict: Verdict) -> None:
        self.placed.append((self._fleet.ids[verdict.best[0]], request))
        self._engine.claim(verdict, self._fleet.now_s)
        if group := request.group:
            self._sure = {kind for kind in self._sure if kind.group != group}

    def _refuse(self, kind: PlacementRequest, verdict: Verdict) -> None:
        self._sure.add(kind)
        if kind not in self.refused:
            self.refused[kind] = explain.decision(
                self._fleet, self._engine.book, verdict, self._now
            )

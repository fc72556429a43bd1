"""Placing: the batch of instances without a host, decided on the fleet that the leader keeps.

The instance loop owns the fleet: it is compared with the store whenever that may have moved, takes
over the rows that did, and is changed by claims between. Live figures are folded in by the host
watchers' tick.
"""

from __future__ import annotations

import copy
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import Host, HostMark, HostState, HostUsage
from unkai_scheduler.domain.instances import Claim, Instance, PlacementPolicy
from unkai_scheduler.domain.operations import Operation
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.explain import no_capacity_error
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.host_words import project_word
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.live_figures import RECENT_SAMPLES
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.requests import PlacementRequest, Weights, request_of
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.reconcile import gangs, metrics, operations
from unkai_scheduler.reconcile.actions import Action, Place, Rules, Wait, backoff
from unkai_scheduler.reconcile.changes import Change, Seen
from unkai_scheduler.reconcile.hosts import LEARNING_S
from unkai_scheduler.reconcile.instances import fail_create
from unkai_scheduler.reconcile.live import ReceivedSample
from unkai_scheduler.settings import Settings
from unkai_wire import tracing
from unkai_wire.errors import UnkaiError

_NO_MEMBERS: Mapping[str, Mapping[str, str]] = {}
_LEARNING_PAUSE = timedelta(seconds=0.3)
_STEP_S = 1 / 1024
"""Times of samples go in such steps: finer ones say nothing, and fill the decision log."""
_LONGEST_QUEUE_PAUSE_S = 5.0
"""Who waits for capacity looks at least this often, beside when capacity is freed."""


Spot = tuple[int, datetime, str, str]
"""As `gangs.place_in_line`."""


class CapacityQueue:
    """Who waits for capacity: the highest priority first, then the oldest request.

    Cost: O(log waiting) comparisons an act.
    """

    def __init__(self) -> None:
        self._places: dict[str, Spot] = {}
        self._order: list[Spot] = []

    def join(self, instance: Instance) -> int:
        """Let an instance wait, if it does not yet; return its place, from 1 on."""
        place = self._places.get(instance.id)
        if place is None:
            place = self._places[instance.id] = gangs.place_in_line(instance)
            insort(self._order, place)
        return bisect_left(self._order, place) + 1

    def leave(self, instance_id: str) -> None:
        """Forget one that waits no longer; it need not have waited."""
        place = self._places.pop(instance_id, None)
        if place is not None:
            del self._order[bisect_left(self._order, place)]

    def ids(self) -> list[str]:
        """Return who waits, in their order."""
        return [spot[-1] for spot in self._order]

    def in_order(self, idents: Sequence[str]) -> list[str]:
        """Return ids as they come, those that wait at the end in the queue's order."""
        waiting = sorted(self._places[ident] for ident in idents if ident in self._places)
        return [i for i in idents if i not in self._places] + [spot[-1] for spot in waiting]


class Placer:
    """The fleet, and the decisions made on it."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        now_s: Callable[[], float],
        book: RuleBook = OURS,
    ) -> None:
        self._now_s = now_s
        self._queue = CapacityQueue()
        self._held_s: dict[str, float] = {}
        """Since when one is put off because hosts are still to tell how they fare."""
        placement = settings.placement
        self._policy = PlacementPolicy(placement.policy)
        self._ratios = AllocationRatios(
            vcpus=placement.ratios.cpu, memory=placement.ratios.memory, disk=placement.ratios.disk
        )
        self._rules = rules
        self._fleet = Fleet(max_sample_age_s=placement.max_metric_age_s)
        self._weights = Weights(**placement.weights.model_dump())
        self._engine = Engine(self._fleet, self._weights, book)
        self._etags: dict[str, str] = {}
        """Of the rows that the fleet has, by host."""
        self._pending: dict[str, deque[ReceivedSample]] = {}

    def copy(self) -> Placer:
        """Return one whose fleet can be changed without changing this one's; it shares the queue,
        which is for decisions alone."""
        other = copy.copy(self)
        other._fleet = self._fleet.copy()
        other._engine = Engine(other._fleet, self._weights, self._engine.book)
        other._etags = dict(self._etags)
        other._pending = {host_id: received.copy() for host_id, received in self._pending.items()}
        return other

    def fleet_now(self) -> Fleet:
        """Return the fleet as a decision would find it now."""
        self.fold()
        self._fleet.advance(self._now_s())
        return self._fleet

    def keep_journal(self, term: int, segment_bytes: int) -> Journal:
        """Record all decisions from now on; return the journal, which somebody has to empty."""
        journal = Journal(
            self._fleet, self._weights, self._engine.book, term=term, segment_bytes=segment_bytes
        )
        self._fleet.journal = journal
        return journal

    def moved(self, marks: Mapping[str, HostMark]) -> list[str]:
        """Return the hosts whose rows or claims are not as the fleet has them."""
        return [host_id for host_id, mark in marks.items() if self._mark(host_id) != mark]

    def _mark(self, host_id: str) -> HostMark | None:
        etag = self._etags.get(host_id)
        return None if etag is None else HostMark(etag, *self._fleet.claimed_of(host_id))

    def refresh(
        self,
        moved: Sequence[Host],
        states: Mapping[str, HostState],
        members: Mapping[str, Mapping[str, str]] = _NO_MEMBERS,
    ) -> None:
        """Take over the rows that moved, claims included; `states`: of every host there is.

        `members`: by host, its instances of placement groups with their groups.
        """
        for host_id in [ident for ident in self._fleet.ids if ident not in states]:
            self._fleet.remove_host(host_id)
            self._etags.pop(host_id, None)
        for host in moved:
            self._fleet.upsert_host(host, self._ratios)
            self._fleet.members.put(host.id, members.get(host.id, {}))
            self._etags[host.id] = host.etag
        for host_id, state in states.items():
            self._fleet.set_state(host_id, state)

    def recall(self, claims: Iterable[Claim], now: datetime) -> None:
        """Let machines settle that an earlier reign placed; `claims`: those of the last minute.

        Asked once, before the first decision: from then on the fleet knows who settles.
        """
        now_s = self._now_s()
        for claim in sorted(claims, key=lambda claim: claim.create_time):
            # Who wrote it may have had another clock: the future counts as now.
            age_s = max(0.0, (now - claim.create_time).total_seconds())
            self._fleet.settle(
                claim.host_id,
                claim.vcpus,
                claim.memory_bytes,
                now_s - age_s,
                instance_id=claim.instance_id,
            )

    def receive(self, received: ReceivedSample) -> None:
        """Keep a sample for the next fold; samples that come together all count."""
        host_id = received.sample.host_id
        self._pending.setdefault(host_id, deque(maxlen=RECENT_SAMPLES)).append(received)

    def fold(self) -> None:
        """Take the samples received since the last fold into the fleet."""
        # A host that the fleet does not know yet keeps its samples until it does.
        pending = {ident: r for ident, r in self._pending.items() if ident in self._fleet}
        self._pending = {i: r for i, r in self._pending.items() if i not in pending}
        if not pending:
            return
        # One of each host at a time: the machines' figures belong to the same sample.
        while pending:
            batch = {host_id: received.popleft() for host_id, received in pending.items()}
            samples: list[tuple[str, HostUsage, float]] = [
                (host_id, r.sample.host, r.received_s // _STEP_S * _STEP_S)
                for host_id, r in batch.items()
            ]
            self._fleet.fold(samples, {h: r.sample.machines for h, r in batch.items()})
            pending = {host_id: received for host_id, received in pending.items() if received}

    def decide(
        self, places: Sequence[tuple[Seen, Place]], now: datetime, *, learning: bool
    ) -> list[Change]:
        """Decide for a batch, the highest priority first, then the oldest request; claims in the
        fleet as it goes.

        `learning`: some host has yet to tell us how it fares, so "no" may be said too early.
        """
        self.fold()
        queue = sorted((s for s, _ in places), key=lambda s: gangs.place_in_line(s.instance))
        started_s = time.perf_counter()
        decided = [(run, self._decided(run, now)) for run in gangs.runs(queue)]
        took_s = time.perf_counter() - started_s
        metrics.DECISION_SECONDS.observe(took_s)
        metrics.DECISION_BATCH.observe(len(queue))
        changes: list[Change] = []
        for run, decisions in decided:
            patient = self._patient(run, decisions) if learning else ()
            for seen, decision in zip(run, decisions, strict=True):
                _count(decision)
                if seen.operation is not None:
                    what = {"instance_id": seen.instance.id, "host": decision.host_name}
                    tracing.record("placement", seen.operation.traceparent, took_s, what)
                if decision.host_id:
                    self.leave_queue(seen.instance.id)
                    changes.append(self._placed(seen, decision, now))
                else:
                    is_held = seen.instance.id in patient
                    action = self._not_placed(seen, decision, now, is_held=is_held)
                    changes.append(Change(seen, action, decision=decision))
        return changes

    def _decided(self, run: Sequence[Seen], now: datetime) -> Sequence[Decision]:
        """Decide for a gang, or for those that are of none; of a gang all get hosts, or none."""
        requests = [self._request(seen) for seen in run]
        decisions = self._engine.decide(requests, now=now, now_s=self._now_s())
        if not run[0].instance.gang_id or all(decision.host_id for decision in decisions):
            return decisions
        for seen, decision in zip(run, decisions, strict=True):
            if decision.host_id:
                self._withdraw(seen.instance, decision.host_id)
        return gangs.refused(decisions)

    def waiting(self) -> list[str]:
        """Return who waits for capacity, in their order."""
        return self._queue.ids()

    def in_line(self, idents: Sequence[str]) -> list[str]:
        """Return ids as they come, those that wait for capacity at the end, in their order."""
        return self._queue.in_order(idents)

    def leave_queue(self, instance_id: str) -> None:
        """Forget one that waits no longer."""
        self._queue.leave(instance_id)
        self._held_s.pop(instance_id, None)

    def hold(self, seen: Seen, now: datetime) -> Wait:
        """Put a placement off until the hosts have told how they fare."""
        operation = seen.operation and replace(
            seen.operation, progress_message="waiting for hosts to report"
        )
        return Wait(replace(seen.instance, due_time=now + _LEARNING_PAUSE), operation)

    def _patient(self, run: Sequence[Seen], decisions: Sequence[Decision]) -> Collection[str]:
        """Return who of those without a host may still be put off: with a host that comes and
        goes, learning never ends. Of a gang all may, or none."""
        now_s = self._now_s()
        without = [d.instance_id for d in decisions if not d.host_id]
        patient = {i for i in without if now_s - self._held_s.setdefault(i, now_s) <= LEARNING_S}
        return () if run[0].instance.gang_id and len(patient) < len(without) else patient

    def release(self, instance: Instance, host_id: str) -> None:
        """Give back what an instance took of a host."""
        spec = instance.spec
        self._fleet.release(
            host_id, spec.vcpus, spec.memory_bytes, spec.disk_bytes, instance_id=instance.id
        )

    def withdraw(self, changes: Iterable[Change]) -> None:
        """Take back the claims of changes that were not written: they will be decided anew."""
        for change in changes:
            if change.claim is not None:
                self._withdraw(change.seen.instance, change.claim.host_id)

    def _withdraw(self, instance: Instance, host_id: str) -> None:
        spec = instance.spec
        self._fleet.withdraw(
            host_id, spec.vcpus, spec.memory_bytes, spec.disk_bytes, instance_id=instance.id
        )

    def _request(self, seen: Seen) -> PlacementRequest:
        project_id = seen.instance.project_id
        return request_of(
            seen.instance,
            self._policy,
            project_id=project_id if project_word(project_id) in self._fleet.words else "",
            failed_hosts=seen.failed_hosts,
            physical_networks=seen.physical_networks,
            group=seen.group,
        )

    def _placed(self, seen: Seen, decision: Decision, now: datetime) -> Change:
        spec = seen.instance.spec
        claim = Claim(
            instance_id=seen.instance.id,
            host_id=decision.host_id,
            vcpus=spec.vcpus,
            memory_bytes=spec.memory_bytes,
            disk_bytes=spec.disk_bytes,
            run_epoch=seen.instance.run_epoch,
            create_time=now,
        )
        # The order is sent right after the commit; should we die between, it is due again soon.
        row = replace(
            seen.instance,
            host_id=decision.host_id,
            host_name=decision.host_name,
            gang_id="",
            state_reason=None,
            attempt=1,
            due_time=now + backoff(self._rules, seen.instance.id, 1),
        )
        message = f"placed on host {decision.host_name}"
        operation = operations.progress(seen.operation, message, percent=10)
        return Change(seen, Place(row, operation), decision=decision, claim=claim)

    def _not_placed(
        self, seen: Seen, decision: Decision, now: datetime, *, is_held: bool
    ) -> Action:
        error = no_capacity_error(decision)
        operation: Operation | None = seen.operation
        if operation is not None and is_held:
            return self.hold(seen, now)
        if operation is None or not operations.may_wait_for_capacity(operation, now):
            self.leave_queue(seen.instance.id)
            last = seen.instance.state_reason if seen.failed_hosts else None
            why = UnkaiError.from_record(last) if last else error
            return fail_create(seen.instance, operation, why, now)
        position = self._queue.join(seen.instance)
        pause = min(_LONGEST_QUEUE_PAUSE_S, self._rules.backoff_cap_s)
        ident = seen.instance.gang_id or seen.instance.id  # a gang's are due at one moment
        wait = backoff(replace(self._rules, backoff_cap_s=pause), ident, seen.instance.attempt)
        due_time = min(now + wait, operation.capacity_deadline_time)
        row = replace(seen.instance, due_time=due_time, attempt=seen.instance.attempt + 1)
        return Wait(row, operations.waiting_for_capacity(operation, error, position))


def _count(decision: Decision) -> None:
    metrics.DECISIONS.labels("placed" if decision.host_id else "no_capacity").inc()
    for result in decision.filters:
        if result.rejected_count:
            metrics.REJECTIONS.labels(result.name).inc(result.rejected_count)

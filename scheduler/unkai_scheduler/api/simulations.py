"""Simulations, as host.v1 has them."""

from __future__ import annotations

from unkai.host.v1 import simulation_pb2
from unkai_scheduler.api.decisions import decision_message
from unkai_scheduler.api.instances import draft_of
from unkai_scheduler.placement.simulation import (
    Amounts,
    Capacity,
    HostChange,
    Loss,
    Simulated,
)
from unkai_scheduler.placement.tally import Refusal, StepOutcome
from unkai_scheduler.services.checks import renamed
from unkai_scheduler.services.simulation_drafts import (
    HostsDraft,
    InstancesDraft,
    LossDraft,
    StepDraft,
)
from unkai_wire.errors import InvalidArgument

_MOST = (1 << 63) - 1
"""What an int64 holds: hosts may say absurd figures of themselves."""


def step_of(message: simulation_pb2.SimulationStep, path: str) -> StepDraft:
    """Read a step; `path`: of the field that it is."""
    match message.WhichOneof("kind"):
        case "add_hosts":
            added = message.add_hosts
            return HostsDraft(
                count=added.count,
                like_host_id=added.like_host_id,
                cpus=added.cpus,
                memory_bytes=added.memory_bytes,
                disk_bytes=added.disk_bytes,
                zone=added.zone,
                traits=tuple(added.traits),
            )
        case "lose_hosts":
            return LossDraft(tuple(message.lose_hosts.host_ids))
        case "place_instances":
            placed = message.place_instances
            with renamed(f"{path}.place_instances"):
                return InstancesDraft(placed.count, draft_of(placed.instance))
        case _:
            raise InvalidArgument.field(
                path, "must say what happens: add, lose or place", reason="STEP_REQUIRED"
            )


def simulation_message(found: Simulated) -> simulation_pb2.Simulation:
    """Write what was found."""
    return simulation_pb2.Simulation(
        outcomes=map(_outcome, found.outcomes),
        before=_capacity(found.before),
        after=_capacity(found.after),
        changes=map(_change, found.changes),
        change_count=found.change_count,
    )


def loss_message(loss: Loss) -> simulation_pb2.HostLoss:
    """Write what would come of a loss."""
    return simulation_pb2.HostLoss(
        host_id=loss.host_id, host_name=loss.host_name, outcome=_outcome(loss.outcome)
    )


def _outcome(outcome: StepOutcome) -> simulation_pb2.Simulation.Outcome:
    return simulation_pb2.Simulation.Outcome(
        asked_count=outcome.asked_count,
        placed_count=outcome.placed_count,
        host_count=outcome.host_count,
        refusals=map(_refusal, outcome.refusals),
        more_count=outcome.more_count,
    )


def _refusal(refusal: Refusal) -> simulation_pb2.Simulation.Refusal:
    return simulation_pb2.Simulation.Refusal(
        count=refusal.count,
        decision=decision_message(refusal.decision),
        instance_ids=refusal.instance_ids,
    )


def _change(change: HostChange) -> simulation_pb2.Simulation.HostChange:
    return simulation_pb2.Simulation.HostChange(
        host_id="" if change.added else change.host_id,
        host_name=change.host_name,
        added=change.added,
        lost=change.lost,
        placed_count=change.placed_count,
        before=_amounts(change.before),
        after=_amounts(change.after),
        claimable=_amounts(change.claimable),
    )


def _capacity(capacity: Capacity) -> simulation_pb2.Simulation.Capacity:
    return simulation_pb2.Simulation.Capacity(
        host_count=capacity.host_count,
        empty_host_count=capacity.empty_host_count,
        claimed=_amounts(capacity.claimed),
        claimable=_amounts(capacity.claimable),
    )


def _amounts(amounts: Amounts) -> simulation_pb2.Simulation.Amounts:
    return simulation_pb2.Simulation.Amounts(
        vcpus=min(amounts.vcpus, _MOST),
        memory_bytes=min(amounts.memory_bytes, _MOST),
        disk_bytes=min(amounts.disk_bytes, _MOST),
    )

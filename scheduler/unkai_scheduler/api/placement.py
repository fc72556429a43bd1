"""host.v1.PlacementService."""

from __future__ import annotations

from typing import Any

from unkai.host.v1 import placement_service_pb2, placement_service_pb2_grpc
from unkai_scheduler.api.decisions import decision_message
from unkai_scheduler.api.fields import enum_of, moment
from unkai_scheduler.api.instances import POLICIES
from unkai_scheduler.api.simulations import loss_message, simulation_message, step_of
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.placement import PlacementService
from unkai_scheduler.services.replays import ReplaysService
from unkai_scheduler.services.simulations import SimulationsService

MAX_DIFFERENCES = 100


class PlacementServicer(placement_service_pb2_grpc.PlacementServiceServicer):
    """Placement over gRPC."""

    def __init__(
        self,
        placement: PlacementService,
        replays: ReplaysService,
        simulations: SimulationsService,
    ) -> None:
        self._placement = placement
        self._replays = replays
        self._simulations = simulations

    async def Explain(
        self, request: placement_service_pb2.ExplainRequest, context: Any
    ) -> placement_service_pb2.ExplainResponse:
        decision = await self._placement.explain(request.instance_id)
        return placement_service_pb2.ExplainResponse(decision=decision_message(decision))

    async def ReplayDecision(
        self, request: placement_service_pb2.ReplayDecisionRequest, context: Any
    ) -> placement_service_pb2.ReplayDecisionResponse:
        found = await self._replays.replay(
            request.instance_id,
            moment(request.decide_time, "decide_time") if request.HasField("decide_time") else None,
            policy=enum_of(POLICIES, request.policy, "policy"),
            weights=request.weights,
        )
        return placement_service_pb2.ReplayDecisionResponse(
            logged=decision_message(found.recorded),
            replayed=decision_message(found.replayed),
            identical=not found.differences,
            differences=found.differences[:MAX_DIFFERENCES],
        )

    async def Simulate(
        self, request: placement_service_pb2.SimulateRequest, context: Any
    ) -> placement_service_pb2.SimulateResponse:
        steps = [step_of(step, f"steps[{n}]") for n, step in enumerate(request.steps)]
        found = await self._simulations.simulate(request.project_id, steps)
        return placement_service_pb2.SimulateResponse(simulation=simulation_message(found))

    async def SimulateLosses(
        self, request: placement_service_pb2.SimulateLossesRequest, context: Any
    ) -> placement_service_pb2.SimulateLossesResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._simulations.losses(paging, request.host_id)
        return placement_service_pb2.SimulateLossesResponse(
            losses=map(loss_message, page.rows), next_page_token=page.next_token
        )

"""compute.v1.KeyPairService."""

from __future__ import annotations

from typing import Any

from unkai.compute.v1 import key_pair_pb2, key_pair_service_pb2, key_pair_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.resources import KeyPair
from unkai_scheduler.services.key_pairs import KeyPairDraft, KeyPairsService
from unkai_scheduler.services.listing import Paging


class KeyPairServicer(key_pair_service_pb2_grpc.KeyPairServiceServicer):
    """Key pairs over gRPC."""

    def __init__(self, key_pairs: KeyPairsService) -> None:
        self._key_pairs = key_pairs

    async def CreateKeyPair(
        self, request: key_pair_service_pb2.CreateKeyPairRequest, context: Any
    ) -> key_pair_service_pb2.CreateKeyPairResponse:
        message = request.key_pair
        draft = KeyPairDraft(message.name, message.public_key, dict(message.labels))
        key_pair = await self._key_pairs.create(call_of(request), request.project_id, draft)
        return key_pair_service_pb2.CreateKeyPairResponse(key_pair=key_pair_message(key_pair))

    async def GetKeyPair(
        self, request: key_pair_service_pb2.GetKeyPairRequest, context: Any
    ) -> key_pair_service_pb2.GetKeyPairResponse:
        key_pair = await self._key_pairs.get(request.key_pair_id)
        return key_pair_service_pb2.GetKeyPairResponse(key_pair=key_pair_message(key_pair))

    async def ListKeyPairs(
        self, request: key_pair_service_pb2.ListKeyPairsRequest, context: Any
    ) -> key_pair_service_pb2.ListKeyPairsResponse:
        page = await self._key_pairs.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
        )
        return key_pair_service_pb2.ListKeyPairsResponse(
            key_pairs=map(key_pair_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def DeleteKeyPair(
        self, request: key_pair_service_pb2.DeleteKeyPairRequest, context: Any
    ) -> key_pair_service_pb2.DeleteKeyPairResponse:
        await self._key_pairs.delete(call_of(request), request.key_pair_id, request.etag)
        return key_pair_service_pb2.DeleteKeyPairResponse()


def key_pair_message(key_pair: KeyPair) -> key_pair_pb2.KeyPair:
    """Write a key pair."""
    return key_pair_pb2.KeyPair(
        id=key_pair.id,
        project_id=key_pair.project_id,
        name=key_pair.name,
        public_key=key_pair.public_key,
        fingerprint=key_pair.fingerprint,
        labels=dict(key_pair.labels),
        etag=key_pair.etag,
        create_time=timestamp(key_pair.create_time),
    )

"""`agent.v1.StorageService`: the host's image cache."""

from __future__ import annotations

from typing import Any

import grpc

from unkai.agent.v1 import storage_service_pb2 as pb
from unkai.agent.v1 import storage_service_pb2_grpc
from unkai_agent.api import convert
from unkai_agent.api.directory import HostDirectory
from unkai_wire.errors import NotFound

Context = grpc.aio.ServicerContext[Any, Any]


class StorageServicer(storage_service_pb2_grpc.StorageServiceServicer):
    """Converts; the fence's term is checked before anything is done."""

    def __init__(self, directory: HostDirectory) -> None:
        self._directory = directory

    async def PrefetchImage(
        self, request: pb.PrefetchImageRequest, context: Context
    ) -> pb.PrefetchImageResponse:
        """Have the image in the cache."""
        host = self._directory.find(request.host_id)
        image = convert.image_ref(request.image, "image")
        await host.converger.announce_term(request.fence.term)
        await host.storage.ensure_image(image)
        for cached in await host.storage.list_images():
            if cached.sha256 == image.sha256:
                message = convert.cached_image_message(cached)
                return pb.PrefetchImageResponse(cached_image=message)
        raise NotFound.of("image", image.image_id)

    async def ListCachedImages(
        self, request: pb.ListCachedImagesRequest, context: Context
    ) -> pb.ListCachedImagesResponse:
        """Return the cache's entries."""
        host = self._directory.find_for_reading(request.host_id)
        images = await host.storage.list_images()
        return pb.ListCachedImagesResponse(
            cached_images=[convert.cached_image_message(image) for image in images]
        )

    async def EvictImage(
        self, request: pb.EvictImageRequest, context: Context
    ) -> pb.EvictImageResponse:
        """Drop an image from the cache."""
        host = self._directory.find(request.host_id)
        sha256 = convert.sha256(request.sha256, "sha256")
        await host.converger.announce_term(request.fence.term)
        await host.storage.evict_image(sha256)
        return pb.EvictImageResponse()

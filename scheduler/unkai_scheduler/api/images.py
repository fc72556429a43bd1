"""storage.v1.ImageService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from unkai.storage.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from unkai_scheduler.agents.convert import image_message
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.api.fields import enum_of
from unkai_scheduler.api.operations import operation_message
from unkai_scheduler.domain.images import ImageFormat, Visibility
from unkai_scheduler.services.images import ImageDraft, ImagesService
from unkai_scheduler.services.listing import Paging
from unkai_wire.errors import InvalidArgument

MAX_CHUNK_BYTES = 1 << 20
_VISIBILITIES = {
    int(image_pb2.Image.VISIBILITY_UNSPECIFIED): Visibility.PRIVATE,
    int(image_pb2.Image.VISIBILITY_PRIVATE): Visibility.PRIVATE,
    int(image_pb2.Image.VISIBILITY_PUBLIC): Visibility.PUBLIC,
}
_FORMATS = {
    int(image_pb2.Image.FORMAT_UNSPECIFIED): None,
    int(image_pb2.Image.FORMAT_QCOW2): ImageFormat.QCOW2,
    int(image_pb2.Image.FORMAT_RAW): ImageFormat.RAW,
}


class ImageServicer(image_service_pb2_grpc.ImageServiceServicer):
    """Images over gRPC."""

    def __init__(self, images: ImagesService) -> None:
        self._images = images

    async def CreateImage(
        self, request: image_service_pb2.CreateImageRequest, context: Any
    ) -> image_service_pb2.CreateImageResponse:
        image = await self._images.create(
            call_of(request), request.project_id, _draft(request.image)
        )
        return image_service_pb2.CreateImageResponse(image=image_message(image))

    async def UploadImage(
        self, request_iterator: AsyncIterator[image_service_pb2.UploadImageRequest], context: Any
    ) -> image_service_pb2.UploadImageResponse:
        first = await anext(request_iterator, image_service_pb2.UploadImageRequest())
        if first.WhichOneof("action") != "open":
            raise InvalidArgument.field("open", "must be the first message", reason="OPEN_EXPECTED")
        image = await self._images.upload(
            call_of(first),
            first.open.image_id,
            _chunks(request_iterator),
            sha256=first.open.sha256,
            size_bytes=first.open.size_bytes,
        )
        return image_service_pb2.UploadImageResponse(image=image_message(image))

    async def DownloadImage(
        self, request: image_service_pb2.DownloadImageRequest, context: Any
    ) -> AsyncIterator[image_service_pb2.DownloadImageResponse]:
        async for chunk in self._images.download(request.image_id, request.offset_bytes):
            yield image_service_pb2.DownloadImageResponse(chunk=chunk)

    async def GetImage(
        self, request: image_service_pb2.GetImageRequest, context: Any
    ) -> image_service_pb2.GetImageResponse:
        image = await self._images.get(request.image_id)
        return image_service_pb2.GetImageResponse(image=image_message(image))

    async def ListImages(
        self, request: image_service_pb2.ListImagesRequest, context: Any
    ) -> image_service_pb2.ListImagesResponse:
        page = await self._images.list(
            Paging(request.page_size, request.page_token),
            project_id=request.project_id,
            name=request.name,
        )
        return image_service_pb2.ListImagesResponse(
            images=map(image_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def DeleteImage(
        self, request: image_service_pb2.DeleteImageRequest, context: Any
    ) -> image_service_pb2.DeleteImageResponse:
        accepted = await self._images.delete(call_of(request), request.image_id, request.etag)
        return image_service_pb2.DeleteImageResponse(
            image=image_message(accepted.image), operation=operation_message(accepted.operation)
        )


def _draft(message: image_pb2.Image) -> ImageDraft:
    return ImageDraft(
        name=message.name,
        visibility=enum_of(_VISIBILITIES, message.visibility, "image.visibility"),
        format=enum_of(_FORMATS, message.format, "image.format"),
        labels=dict(message.labels),
    )


async def _chunks(
    requests: AsyncIterator[image_service_pb2.UploadImageRequest],
) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("action") != "chunk":
            raise InvalidArgument.field(
                "chunk", "must be in every message after the first", reason="CHUNK_EXPECTED"
            )
        if len(request.chunk) > MAX_CHUNK_BYTES:
            raise InvalidArgument.field(
                "chunk",
                f"has {len(request.chunk)} bytes; {MAX_CHUNK_BYTES} are allowed",
                reason="CHUNK_TOO_LARGE",
            )
        yield request.chunk

"""Images as a client sees them: bytes go in checked, come out whole, or leave nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.api import MAX_IMAGE_BYTES, MIB, Api, an_api, refused
from unkai.storage.v1 import image_pb2, image_service_pb2
from unkai_scheduler.domain.images import is_key_of
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.services.context import Call
from unkai_wire.errors import Conflict, FailedPrecondition, InvalidArgument
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import Principal, Role

pb = image_service_pb2
Image = image_pb2.Image
BACKED = b"QFI\xfb\0\0\0\3" + (512).to_bytes(8, "big") + (4).to_bytes(4, "big")
BACKED += (16).to_bytes(4, "big") + bytes(100)


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


async def an_image(api: Api, **fields: Any) -> str:
    image = Image(**{"name": "tiny", **fields})
    return (await api.images.CreateImage(pb.CreateImageRequest(image=image))).image.id


async def get(api: Api, ident: str) -> Image:
    return (await api.images.GetImage(pb.GetImageRequest(image_id=ident))).image


async def stored(api: Api) -> list[str]:
    return await open_image_store(api.settings.images.url).list()


async def download(api: Api, ident: str, offset: int = 0) -> bytes:
    request = pb.DownloadImageRequest(image_id=ident, offset_bytes=offset)
    return b"".join([r.chunk async for r in api.images.DownloadImage(request)])


async def test_uploaded_bytes_are_described_and_come_back(api: Api) -> None:
    content = bytes(range(256)) * (3 * 4096)
    digest = hashlib.sha256(content).hexdigest()
    ident = await an_image(api)

    image = await api.upload(ident, content, sha256=digest, size_bytes=len(content))

    assert (image.state, image.format) == (Image.STATE_READY, Image.FORMAT_RAW)
    assert (image.size_bytes, image.virtual_size_bytes) == (len(content), len(content))
    assert image.sha256 == digest
    assert await download(api, ident) == content
    assert await download(api, ident, 2 * MIB) == content[2 * MIB :]


@pytest.mark.parametrize(
    ("content", "opened", "fields", "reason"),
    [
        (b"", {}, {}, "IMAGE_EMPTY"),
        (BACKED, {}, {}, "IMAGE_HAS_BACKING_FILE"),
        (b"KDMV".ljust(4096, b"\0"), {}, {}, "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\1" * 4096, {}, {"format": Image.FORMAT_QCOW2}, "IMAGE_FORMAT_MISMATCH"),
        (b"\1" * 4096, {"sha256": "0" * 64}, {}, "IMAGE_SHA256_MISMATCH"),
        (b"\1" * 4096, {"size_bytes": 4097}, {}, "IMAGE_SIZE_MISMATCH"),
        (b"\1" * 4096, {"size_bytes": 4095}, {}, "IMAGE_SIZE_MISMATCH"),
        (b"\1" * (MAX_IMAGE_BYTES + 1), {}, {}, "IMAGE_TOO_LARGE"),
    ],
)
async def test_refused_bytes_fail_the_image_with_the_reason_and_are_not_kept(
    api: Api, content: bytes, opened: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    ident = await an_image(api, **fields)

    caught = await refused(api.upload(ident, content, **opened))

    assert (type(caught), caught.reason) == (InvalidArgument, reason)
    image = await get(api, ident)
    assert image.state == Image.STATE_FAILED
    assert image.state_reason.message == caught.message
    assert await stored(api) == []
    again = await refused(api.upload(ident, b"\1" * 512))
    assert again.reason == "IMAGE_NOT_UPLOADING"


async def test_a_broken_upload_leaves_the_image_uploading_and_no_bytes(api: Api) -> None:
    ident = await an_image(api)
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        yield pb.UploadImageRequest(open=pb.UploadImageRequest.Open(image_id=ident))
        yield pb.UploadImageRequest(chunk=b"\1" * MIB)
        sent.set()
        await asyncio.Event().wait()

    call = api.images.UploadImage(requests())
    await sent.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async def uploaded() -> Image:
        while True:  # the server learns of the cancelled call a moment later
            try:
                return await api.upload(ident, b"\2" * MIB)
            except grpc.RpcError as error:
                if from_rpc_error(error).reason != "UPLOAD_IN_PROGRESS":
                    raise

    assert (await get(api, ident)).state == Image.STATE_UPLOADING
    async with asyncio.timeout(10):
        assert (await uploaded()).sha256 == hashlib.sha256(b"\2" * MIB).hexdigest()
    [kept] = await stored(api)
    assert is_key_of(ident, kept)


async def test_an_upload_asked_again_because_its_answer_was_lost_gives_the_image(api: Api) -> None:
    content = b"\1" * (2 * MIB)
    digest = hashlib.sha256(content).hexdigest()
    ident = await an_image(api)
    image = await api.upload(ident, content, sha256=digest)

    assert await api.upload(ident, content, sha256=digest) == image
    other = await refused(api.upload(ident, content, sha256="0" * 64))
    unstated = await refused(api.upload(ident, content))
    assert other.reason == unstated.reason == "IMAGE_NOT_UPLOADING"


async def test_two_uploads_of_one_image_do_not_mix(api: Api) -> None:
    ident = await an_image(api)
    began, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        began.set()
        await go.wait()
        yield b"\1" * MIB

    call = Call(Principal(Role.LOCAL, "root"), "UploadImage")
    first = asyncio.ensure_future(api.services.images.upload(call, ident, slow()))
    async with asyncio.timeout(10):
        await began.wait()
        caught = await refused(api.upload(ident, b"\2" * MIB))
        go.set()
        image = await first
    assert (type(caught), caught.reason) == (Conflict, "UPLOAD_IN_PROGRESS")
    assert image.sha256 == hashlib.sha256(b"\1" * MIB).hexdigest()


async def test_an_image_deleted_while_its_bytes_arrive_keeps_none(api: Api) -> None:
    ident = await an_image(api)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"\1" * 512
        await api.images.DeleteImage(pb.DeleteImageRequest(image_id=ident))

    call = Call(Principal(Role.LOCAL, "root"), "UploadImage")
    with pytest.raises(FailedPrecondition) as caught:
        await api.services.images.upload(call, ident, chunks())
    assert caught.value.reason == "IMAGE_NOT_UPLOADING"
    assert await stored(api) == []


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "OPEN_EXPECTED"),
        ([pb.UploadImageRequest(chunk=b"x")], "OPEN_EXPECTED"),
        ([pb.UploadImageRequest(open=pb.UploadImageRequest.Open(image_id="x"))], "INVALID_ID"),
    ],
)
async def test_an_upload_begins_with_what_it_uploads(
    api: Api, requests: list[Any], reason: str
) -> None:
    async def sent() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    assert (await refused(api.images.UploadImage(sent()))).reason == reason


async def test_a_wrong_message_in_an_upload_does_not_fail_the_image(api: Api) -> None:
    ident = await an_image(api)

    async def sent() -> AsyncIterator[Any]:
        for _ in range(2):
            yield pb.UploadImageRequest(open=pb.UploadImageRequest.Open(image_id=ident))

    assert (await refused(api.images.UploadImage(sent()))).reason == "CHUNK_EXPECTED"
    assert (await get(api, ident)).state == Image.STATE_UPLOADING


async def test_bytes_are_given_out_only_when_they_are_all_there(api: Api) -> None:
    ident = await an_image(api)
    request = pb.DownloadImageRequest(image_id=ident)
    caught = await refused(api.images.DownloadImage(request).read())
    assert (type(caught), caught.reason) == (FailedPrecondition, "IMAGE_NOT_READY")

    await api.upload(ident, b"\1" * 512)
    beyond = pb.DownloadImageRequest(image_id=ident, offset_bytes=513)
    assert (await refused(api.images.DownloadImage(beyond).read())).reason == "INVALID_OFFSET"
    assert await download(api, ident, 512) == b""


async def test_a_host_gets_the_bytes_of_an_image_that_is_being_removed(api: Api) -> None:
    image = await api.a_ready_image()
    await api.create("web", image_id=image.id)  # accepted, and on no host yet
    await api.images.DeleteImage(pb.DeleteImageRequest(image_id=image.id))

    content = await download(api, image.id)

    assert hashlib.sha256(content).hexdigest() == image.sha256


async def test_a_deleted_image_is_deleting_until_the_leader_has_removed_its_bytes(
    api: Api,
) -> None:
    ident = (await api.a_ready_image()).id
    wakes = api.leading.wakes
    first = await api.images.DeleteImage(pb.DeleteImageRequest(image_id=ident))
    again = await api.images.DeleteImage(pb.DeleteImageRequest(image_id=ident))

    assert first.image.state == Image.STATE_DELETING
    assert again.operation.id == first.operation.id
    assert api.leading.wakes > wakes


async def test_an_image_that_instances_keep_gives_its_name_up_to_the_next(api: Api) -> None:
    name = "debian-12." + "x" * 53
    old = await api.a_ready_image(name)
    await api.create("web", image_id=old.id)

    removed = await api.images.DeleteImage(pb.DeleteImageRequest(image_id=old.id))
    again = await api.images.DeleteImage(pb.DeleteImageRequest(image_id=old.id))
    new = await api.a_ready_image(name)

    listed = (await api.images.ListImages(pb.ListImagesRequest())).images
    assert {i.id: i.name for i in listed} == {
        old.id: f"{name[:56]}.{old.id[-6:]}",
        new.id: name,
    }
    assert again == removed


async def test_names_may_have_dots_and_projects_see_public_images(api: Api) -> None:
    await an_image(api, name="debian-12.5", visibility=Image.VISIBILITY_PUBLIC)
    await an_image(api, name="mine")
    page = await api.images.ListImages(pb.ListImagesRequest())
    assert [i.name for i in page.images] == ["debian-12.5", "mine"]

"""`unkai image …`: what disks begin as."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.acting import attempted, awaited, raise_first, resolved
from unkai_cli.commands.options import common, complete_names, listing, named, waiting
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, Progress, age_text, bytes_text, note
from unkai_wire.errors import FailedPrecondition, UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("FORMAT", lambda r: "" if r["format"] == "UNSPECIFIED" else r["format"].lower()),
    Column("SIZE", lambda r: bytes_text(r["size_bytes"]), right=True),
    Column("DISK", lambda r: bytes_text(r["virtual_size_bytes"]), right=True),
    Column("VISIBILITY", lambda r: r["visibility"].lower()),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
    Column("SHA256", lambda r: r["sha256"], wide=True),
    Column("PROJECT", lambda r: r["project_id"], wide=True),
)
DETAILS = (
    *COLUMNS,
    Column("REASON", lambda r: (r["state_reason"] or {}).get("message", "")),
    Column("ETAG", lambda r: r["etag"]),
)
CHUNK_BYTES = 1 << 20
_VISIBILITIES = {"private": 1, "public": 2}
_FORMATS = {"qcow2": 1, "raw": 2}


@click.group(cls=Group)
def image() -> None:
    """Images: what disks begin as."""


@image.command("list")
@listing
@common
def list_images(session: Session, all_projects: bool, limit: int | None, watch: bool) -> None:
    """List images that the project may use."""
    session.all_projects = all_projects
    filters = {"project_id": session.client.list_project_id}
    Listing("image", COLUMNS, filters).show(session, limit=limit, watch=watch)


@image.command("show")
@named("image")
@common
def show(session: Session, image: str) -> None:
    """Show one image with all its fields."""
    from unkai_cli.records import record

    ident = session.client.resolve("image", image)
    found = session.client.call("ImageService", "GetImage", image_id=ident).image
    session.printer.one(record(found), DETAILS)


@image.command("upload")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--public", is_flag=True, help="Let every project use it.")
@click.option(
    "--format", "image_format", type=click.Choice(list(_FORMATS)), help="Refuse other formats."
)
@common
def upload(session: Session, name: str, file: Path, public: bool, image_format: str | None) -> None:
    """Make an image NAME from FILE (qcow2 or raw)."""
    from unkai.storage.v1 import image_pb2
    from unkai_cli.records import record

    client = session.client
    wanted = image_pb2.Image(
        name=name,
        visibility=_VISIBILITIES["public" if public else "private"],  # type: ignore[arg-type]
        format=_FORMATS.get(image_format or "", 0),  # type: ignore[arg-type]
    )
    made = client.call(
        "ImageService", "CreateImage", project_id=client.project_id, image=wanted
    ).image
    progress = Progress()
    try:
        sent = _chunks(client, made.id, file, progress)
        answer = client.upload("ImageService", "UploadImage", sent)
    except BaseException:
        # What was refused or broken off frees its name; why it failed matters more than whether
        # this works, so that trouble here is not told instead.
        with suppress(UnkaiError):
            client.call("ImageService", "DeleteImage", image_id=made.id)
        raise
    finally:
        progress.clear()
    session.printer.rows([record(answer.image)], COLUMNS)


def _chunks(client: Any, image_id: str, file: Path, progress: Progress) -> Iterator[Any]:
    request = client.messages("ImageService").UploadImageRequest
    size, sent = file.stat().st_size, 0
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
        stream.seek(0)
        yield request(
            open=request.Open(image_id=image_id, sha256=digest.hexdigest(), size_bytes=size)
        )
        while piece := stream.read(CHUNK_BYTES):
            yield request(chunk=piece)
            sent += len(piece)
            progress.show_bytes(f"upload {file.name}", sent, size)


@image.command("download")
@named("image")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common
def download(session: Session, image: str, file: Path) -> None:
    """Write an image's bytes to FILE, checked by their SHA-256."""
    client = session.client
    ident = client.resolve("image", image)
    wanted = client.call("ImageService", "GetImage", image_id=ident).image
    part = file.with_name(file.name + ".part")
    digest, progress, got = hashlib.sha256(), Progress(), 0
    try:
        with part.open("wb") as stream:
            for answer in client.stream("ImageService", "DownloadImage", image_id=ident):
                stream.write(answer.chunk)
                digest.update(answer.chunk)
                got += len(answer.chunk)
                progress.show_bytes(f"download {wanted.name}", got, wanted.size_bytes)
        if digest.hexdigest() != wanted.sha256:
            raise FailedPrecondition(
                f"the bytes of image {wanted.name} are not those recorded",
                reason="IMAGE_CORRUPT",
                fix="try again; if it stays so, upload the image anew",
                metadata={"image_id": ident},
            )
        os.replace(part, file)
    finally:
        progress.clear()
        part.unlink(missing_ok=True)
    note(f"{file}: {bytes_text(got)}, sha256 {wanted.sha256}")


@image.command("delete")
@click.argument("image", nargs=-1, required=True, shell_complete=complete_names("image"))
@waiting
@common
def delete(session: Session, image: tuple[str, ...], wait: bool, timeout: float) -> None:
    """Remove images: from now on no instance is made from them.

    Instances made before go on, and their hosts may need the bytes: these are kept until the
    last of those instances is gone. --no-wait does not wait for that.
    """
    client = session.client
    answers, refusals = attempted(
        resolved(session, "image", image),
        lambda ident: client.call("ImageService", "DeleteImage", image_id=ident),
    )
    good, failures = awaited(session, [a.operation for a in answers], wait=wait, timeout=timeout)
    for answer in answers:
        if answer.operation.id in good:
            note(f"image {answer.image.name} {'deleted' if wait else 'is being deleted'}")
    raise_first([*refusals, *failures])

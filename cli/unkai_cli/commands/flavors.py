"""`unkai flavor …`: named sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unkai_cli.commands.acting import attempted, raise_first, resolved
from unkai_cli.commands.options import Count, Size, common, complete_names, limited, named
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, age_text, bytes_text, note

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("VCPUS", lambda r: str(r["vcpus"]), right=True),
    Column("MEMORY", lambda r: bytes_text(r["memory_bytes"]), right=True),
    Column("DISK", lambda r: bytes_text(r["disk_bytes"]) if r["disk_bytes"] else "", right=True),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
)


@click.group(cls=Group)
def flavor() -> None:
    """Flavors: named sizes."""


@flavor.command("list")
@limited
@common
def list_flavors(session: Session, limit: int | None, watch: bool) -> None:
    """List flavors."""
    Listing("flavor", COLUMNS).show(session, limit=limit, watch=watch)


@flavor.command("show")
@named("flavor")
@common
def show(session: Session, flavor: str) -> None:
    """Show one flavor."""
    from unkai_cli.records import record

    ident = session.client.resolve("flavor", flavor)
    found = session.client.call("FlavorService", "GetFlavor", flavor_id=ident).flavor
    session.printer.one(record(found), COLUMNS)


@flavor.command("create")
@click.argument("name")
@click.option("-c", "--vcpus", type=Count(), required=True, help="Virtual CPUs.")
@click.option("-m", "--memory", type=Size(), required=True, help="Memory: 512M, 4GiB.")
@click.option("--disk", type=Size(), default=0, help="Root disk; the image's size unless given.")
@common
def create(session: Session, name: str, vcpus: int, memory: int, disk: int) -> None:
    """Make a flavor NAME."""
    from unkai.compute.v1 import flavor_pb2
    from unkai_cli.records import record

    wanted = flavor_pb2.Flavor(name=name, vcpus=vcpus, memory_bytes=memory, disk_bytes=disk)
    made = session.client.call("FlavorService", "CreateFlavor", flavor=wanted).flavor
    session.printer.rows([record(made)], COLUMNS)


@flavor.command("delete")
@click.argument("flavor", nargs=-1, required=True, shell_complete=complete_names("flavor"))
@common
def delete(session: Session, flavor: tuple[str, ...]) -> None:
    """Remove flavors that no instance names."""
    names = resolved(session, "flavor", flavor)

    def remove(ident: str) -> None:
        session.client.call("FlavorService", "DeleteFlavor", flavor_id=ident)
        note(f"flavor {names[ident]} deleted")

    raise_first(attempted(names, remove)[1])

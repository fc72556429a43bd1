"""`unkai project …`: what owns your things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unkai_cli.commands.acting import attempted, raise_first, resolved
from unkai_cli.commands.options import common, complete_names, limited, named
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, age_text, note

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("DESCRIPTION", lambda r: r["description"]),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
)


@click.group(cls=Group)
def project() -> None:
    """Projects: what owns your things."""


@project.command("list")
@limited
@common
def list_projects(session: Session, limit: int | None, watch: bool) -> None:
    """List projects."""
    Listing("project", COLUMNS).show(session, limit=limit, watch=watch)


@project.command("show")
@named("project")
@common
def show(session: Session, project: str) -> None:
    """Show one project."""
    from unkai_cli.records import record

    ident = session.client.resolve("project", project)
    found = session.client.call("ProjectService", "GetProject", project_id=ident).project
    session.printer.one(record(found), COLUMNS)


@project.command("create")
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@common
def create(session: Session, name: str, description: str) -> None:
    """Make a project NAME."""
    from unkai.identity.v1 import project_pb2
    from unkai_cli.records import record

    wanted = project_pb2.Project(name=name, description=description)
    made = session.client.call("ProjectService", "CreateProject", project=wanted).project
    session.printer.rows([record(made)], COLUMNS)


@project.command("delete")
@click.argument("project", nargs=-1, required=True, shell_complete=complete_names("project"))
@common
def delete(session: Session, project: tuple[str, ...]) -> None:
    """Remove projects that own nothing."""
    names = resolved(session, "project", project)

    def remove(ident: str) -> None:
        session.client.call("ProjectService", "DeleteProject", project_id=ident)
        note(f"project {names[ident]} deleted")

    raise_first(attempted(names, remove)[1])

"""`unkai key …`: public SSH keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unkai_cli.commands.acting import attempted, raise_first, resolved
from unkai_cli.commands.options import common, complete_names, listing, named
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, age_text, note

if TYPE_CHECKING:
    import io

    from unkai_cli.session import Session

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("FINGERPRINT", lambda r: r["fingerprint"]),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
)


@click.group(cls=Group)
def key() -> None:
    """Public SSH keys that guests get on first boot."""


@key.command("list")
@listing
@common
def list_keys(session: Session, all_projects: bool, limit: int | None, watch: bool) -> None:
    """List key pairs."""
    session.all_projects = all_projects
    filters = {"project_id": session.client.list_project_id}
    Listing("key_pair", COLUMNS, filters).show(session, limit=limit, watch=watch)


@key.command("show")
@named("key_pair", to="key")
@common
def show(session: Session, key: str) -> None:
    """Show one key pair."""
    from unkai_cli.records import record

    ident = session.client.resolve("key_pair", key)
    found = session.client.call("KeyPairService", "GetKeyPair", key_pair_id=ident).key_pair
    columns = (*COLUMNS, Column("KEY", lambda r: r["public_key"]))
    session.printer.one(record(found), columns)


@key.command("add")
@click.argument("name")
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"))
@common
def add(session: Session, name: str, file: io.TextIOBase) -> None:
    """Add the public key in FILE (- for standard input) under NAME."""
    from unkai.compute.v1 import key_pair_pb2
    from unkai_cli.records import record

    wanted = key_pair_pb2.KeyPair(name=name, public_key=file.read().strip())
    client = session.client
    made = client.call(
        "KeyPairService", "CreateKeyPair", project_id=client.project_id, key_pair=wanted
    ).key_pair
    session.printer.rows([record(made)], COLUMNS)


@key.command("delete")
@click.argument("key", nargs=-1, required=True, shell_complete=complete_names("key_pair"))
@common
def delete(session: Session, key: tuple[str, ...]) -> None:
    """Remove key pairs that no instance names."""
    names = resolved(session, "key_pair", key)

    def remove(ident: str) -> None:
        session.client.call("KeyPairService", "DeleteKeyPair", key_pair_id=ident)
        note(f"key {names[ident]} deleted")

    raise_first(attempted(names, remove)[1])

"""`unkai context …`: which cloud to talk to, and as whom."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unkai_cli import __version__, settings
from unkai_cli.commands.options import common, complete_contexts
from unkai_cli.groups import Group
from unkai_cli.output import Column, note
from unkai_wire.errors import NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("CURRENT", lambda r: "*" if r["current"] else " "),
    Column("NAME", lambda r: r["name"]),
    Column("SOCKET", lambda r: r["socket"]),
    Column("ADDRESS", lambda r: r["address"]),
    Column("PROJECT", lambda r: r["project"]),
    Column("CERTIFICATE", lambda r: r["certificate"], wide=True),
)


@click.group(cls=Group)
def context() -> None:
    """Which cloud to talk to, and as whom."""


@context.command("list")
@common
def list_contexts(session: Session) -> None:
    """List the contexts."""
    config = settings.load()
    rows = [
        asdict(entry) | {"current": name == config.current}
        for name, entry in sorted(config.contexts.items())
    ]
    session.printer.rows(rows, COLUMNS)


@context.command("show")
@common
def show(session: Session) -> None:
    """Show the context in use, the environment's included."""
    entry = settings.chosen(settings.load(), session.context_name)
    session.printer.one(asdict(entry) | {"current": True}, COLUMNS[1:])


@context.command("add")
@click.argument("name")
@click.option(
    "--socket", default="", metavar="PATH", help="Unix socket of a scheduler on this machine."
)
@click.option("--address", default="", metavar="IP:PORT[,...]", help="IP:PORT of each scheduler.")
@click.option("--ca", default="", type=click.Path(), help="The CA's certificate.")
@click.option("--certificate", default="", type=click.Path(), help="Your certificate.")
@click.option("--key", default="", type=click.Path(), help="Your private key.")
@click.option("--project", "in_project", default="", help="Project to work in.")
@click.pass_obj
def add(session: Session, /, name: str, in_project: str, **entry: str) -> None:
    """Add a context NAME, or change it, and use it."""
    paths = {k: v if k == "address" else _absolute(v) for k, v in entry.items()}
    made = settings.Context(name, project=in_project, **paths).check()
    config = settings.load()
    settings.save(settings.Config(name, {**config.contexts, name: made}))
    note(f"context {name} is in use now")


@context.command("use")
@click.argument("name", shell_complete=complete_contexts)
@click.pass_obj
def use(session: Session, name: str) -> None:
    """Use the context NAME from now on."""
    config = settings.load()
    if name not in config.contexts:
        raise NotFound.of("context", name)
    settings.save(settings.Config(name, config.contexts))
    note(f"context {name} is in use now")


@context.command("remove")
@click.argument("name", shell_complete=complete_contexts)
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Remove the context NAME."""
    config = settings.load()
    if name not in config.contexts:
        raise NotFound.of("context", name)
    kept = {k: v for k, v in config.contexts.items() if k != name}
    settings.save(settings.Config("" if config.current == name else config.current, kept))
    note(f"context {name} removed")


@click.command()
@common
def version(session: Session) -> None:
    """Print the version of this command."""
    if session.printer.form in ("table", "wide"):
        session.printer.line(f"unkai {__version__}")
    else:
        session.printer.one({"name": "unkai", "version": __version__}, ())


def _absolute(paths: str) -> str:
    """Return a path, or several separated by commas, as seen from anywhere."""
    return ",".join(str(Path(path.strip()).absolute()) for path in paths.split(",") if path.strip())

"""`unkai event …`: what happened, and what happens now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.options import common
from unkai_cli.groups import Group
from unkai_cli.output import Column

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("TIME", lambda r: (r["create_time"] or "")[:23].rstrip("Z")),
    Column("KIND", lambda r: r["resource_kind"]),
    Column("NAME", lambda r: r["resource_name"] or r["resource_id"]),
    Column("TYPE", lambda r: r["type"]),
    Column("STATE", lambda r: r["state"]),
    Column("ACTOR", lambda r: r["actor"]),
    Column("MESSAGE", lambda r: r["message"] or r["reason"]),
    Column("REVISION", lambda r: r["revision"], wide=True),
    Column("RESOURCE", lambda r: r["resource_id"], wide=True),
)
KINDS = (
    "instance",
    "image",
    "flavor",
    "key",
    "placement-group",
    "project",
    "host",
    "aggregate",
    "operation",
    "network",
    "subnet",
    "port",
    "router",
    "floating-ip",
    "security-group",
    "load-balancer",
)


@click.group(cls=Group)
def event() -> None:
    """What happened, and what happens now."""


def _filtering(function: Any) -> Any:
    """Add the options that choose events."""
    function = click.option(
        "--resource", default="", metavar="ID", help="Only of this resource, by its whole id."
    )(function)
    return click.option(
        "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Of this kind; repeatable."
    )(function)


def _filters(session: Session, kinds: tuple[str, ...], resource: str) -> dict[str, Any]:
    """Return a request's filters; events of all projects unless one was named for this command."""
    return {
        "resource_kinds": [
            "key_pair" if kind == "key" else kind.replace("-", "_") for kind in kinds
        ],
        "resource_id": resource,
        "project_id": session.client.project_id if session.project else "",
    }


@event.command("list")
@_filtering
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Show at most so many."
)
@common
def list_events(session: Session, kinds: tuple[str, ...], resource: str, limit: int) -> None:
    """List past events, newest last; of all projects unless -p names one."""
    show_past(session, limit=limit, **_filters(session, kinds, resource))


def show_past(session: Session, *, limit: int, **filters: Any) -> None:
    """Print the newest matching events, in order of time."""
    from unkai_cli.records import record

    found = list(session.client.pages("EventService", "ListEvents", limit=limit, **filters))
    session.printer.rows([record(m) for m in reversed(found)], COLUMNS)


@event.command("watch")
@_filtering
@click.option("--after", default="", metavar="REVISION", help="Begin after this revision.")
@common
def watch(session: Session, kinds: tuple[str, ...], resource: str, after: str) -> None:
    """Print each event as it happens, until interrupted; of all projects unless -p names one."""
    from unkai_cli.records import record

    printer = session.printer
    filters = _filters(session, kinds, resource)
    for event in session.client.watch(after_revision=after, **filters):
        printer.change(record(event), COLUMNS)

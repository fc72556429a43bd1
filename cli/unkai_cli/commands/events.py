"""`unkai event …`: what happened, and what happens now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.options import common
from unkai_cli.output import Column, Record

if TYPE_CHECKING:
    from unkai_cli.main import Session

COLUMNS = (
    Column("TIME", lambda r: r.get("create_time", "")[:23].rstrip("Z")),
    Column("KIND", lambda r: r["resource_kind"]),
    Column("NAME", lambda r: r["resource_name"] or r["resource_id"]),
    Column("TYPE", lambda r: r["type"]),
    Column("STATE", lambda r: r["state"]),
    Column("ACTOR", lambda r: r["actor"]),
    Column("MESSAGE", lambda r: r["message"] or r["reason"]),
    Column("REVISION", lambda r: r["revision"], wide=True),
    Column("RESOURCE", lambda r: r["resource_id"], wide=True),
)


@click.group()
def event() -> None:
    """What happened, and what happens now."""


@event.command("list")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; repeatable.")
@click.option("--resource", default="", help="Only of this resource, by id.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Show at most so many.")
@common
def list_events(session: Session, kinds: tuple[str, ...], resource: str, limit: int) -> None:
    """List past events, newest last."""
    show_past(session, limit=limit, resource_kinds=list(kinds), resource_id=resource)


def show_past(session: Session, *, limit: int, **filters: Any) -> None:
    """Print the newest matching events, in order of time."""
    from unkai_cli.client import record

    found = list(session.client.pages("EventService", "ListEvents", limit=limit, **filters))
    session.printer.rows([record(m) for m in reversed(found)], COLUMNS)


@event.command("watch")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; repeatable.")
@click.option("--resource", default="", help="Only of this resource, by id.")
@click.option("--after", default="", help="Begin after this revision.")
@common
def watch(session: Session, kinds: tuple[str, ...], resource: str, after: str) -> None:
    """Print each event as it happens, until interrupted."""
    from unkai_cli.client import record

    answers = session.client.stream(
        "EventService",
        "WatchEvents",
        resource_kinds=list(kinds),
        resource_id=resource,
        after_revision=after,
    )
    for answer in answers:
        if answer.HasField("event"):
            _line(session, record(answer.event))


def _line(session: Session, entry: Record) -> None:
    if session.printer.form not in ("table", "wide"):
        session.printer.change(entry)
        return
    session.printer.line("  ".join(c.text(entry) or "-" for c in COLUMNS if not c.wide))
    session.printer.out.flush()

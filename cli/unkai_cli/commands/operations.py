"""`unkai operation …`: long-running work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.acting import confirmed
from unkai_cli.commands.options import Seconds, common, listing, named
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record, age_text

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    Column("ID", lambda r: r["id"]),
    Column("VERB", lambda r: r["verb"].lower()),
    Column("STATE", lambda r: r["state"]),
    Column("RESOURCE", lambda r: r["resource_id"]),
    Column("DONE", lambda r: f"{r['progress_percent']}%", right=True),
    Column("PROGRESS", lambda r: r["progress_message"]),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ERROR", lambda r: (r["error"] or {}).get("message", ""), wide=True),
)
DETAILS = (
    *COLUMNS,
    Column("QUEUE", lambda r: str(r["queue_position"] or "")),
    Column("REQUEST", lambda r: r["request_id"]),
    Column("DEADLINE", lambda r: r["deadline_time"]),
    Column("ENDED", lambda r: r["end_time"]),
)
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


@click.group(cls=Group)
def operation() -> None:
    """Long-running work: list, wait, cancel."""


@operation.command("list")
@click.option("--resource", default="", metavar="ID", help="Only on this resource, by whole id.")
@click.option("--active", is_flag=True, help="Only those that have not ended.")
@listing
@common
def list_operations(
    session: Session,
    *,
    resource: str,
    active: bool,
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List operations, newest first; the last 50 unless --limit says otherwise."""
    session.all_projects = all_projects
    filters = {
        "project_id": session.client.list_project_id,
        "resource_id": resource,
        "active_only": active,
    }

    def matches(row: Record) -> bool:
        return (not resource or row["resource_id"] == resource) and (
            not active or row["state"] not in _ENDED
        )

    Listing("operation", COLUMNS, filters, matches).show(session, limit=limit or 50, watch=watch)


@operation.command("show")
@named("operation")
@common
def show(session: Session, operation: str) -> None:
    """Show one operation."""
    from unkai_cli.records import record

    session.printer.one(record(_get(session, operation)), DETAILS)


def _get(session: Session, text: str) -> Any:
    client = session.client
    ident = client.resolve("operation", text)
    return client.call("OperationService", "GetOperation", operation_id=ident).operation


@operation.command("wait")
@named("operation")
@click.option("--timeout", type=Seconds(), default="10m", show_default=True, help="How long.")
@common
def wait(session: Session, operation: str, timeout: float) -> None:
    """Wait for an operation to end; fails as it fails."""
    from unkai_cli.records import record

    now = _get(session, operation)
    confirmed(session, now, wait=True, timeout=timeout)
    session.printer.rows([record(_get(session, now.id))], COLUMNS)


@operation.command("cancel")
@named("operation")
@common
def cancel(session: Session, operation: str) -> None:
    """Ask for an operation to be given up; what it did is undone."""
    from unkai_cli.records import record

    ident = session.client.resolve("operation", operation)
    done = session.client.call("OperationService", "CancelOperation", operation_id=ident).operation
    session.printer.rows([record(done)], COLUMNS)

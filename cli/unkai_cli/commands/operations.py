"""`unkai operation …`: long-running work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unkai_cli.commands.options import Seconds, common, listing
from unkai_cli.output import Column, Progress, age_text

if TYPE_CHECKING:
    from unkai_cli.main import Session

COLUMNS = (
    Column("ID", lambda r: r["id"]),
    Column("VERB", lambda r: r["verb"].lower()),
    Column("STATE", lambda r: r["state"]),
    Column("RESOURCE", lambda r: r["resource_id"]),
    Column("DONE", lambda r: f"{r['progress_percent']}%", right=True),
    Column("PROGRESS", lambda r: r["progress_message"]),
    Column("AGE", lambda r: age_text(r.get("create_time")), right=True),
    Column("ERROR", lambda r: (r.get("error") or {}).get("message", ""), wide=True),
)
DETAILS = (
    *COLUMNS,
    Column("QUEUE", lambda r: str(r["queue_position"] or "")),
    Column("REQUEST", lambda r: r["request_id"]),
    Column("DEADLINE", lambda r: r.get("deadline_time", "")),
    Column("ENDED", lambda r: r.get("end_time", "")),
)


@click.group()
def operation() -> None:
    """Long-running work: list, wait, cancel."""


@operation.command("list")
@click.option("--resource", default="", help="Only on this resource, by id.")
@click.option("--active", is_flag=True, help="Only those that have not ended.")
@listing
@common
def list_operations(
    session: Session, resource: str, active: bool, all_projects: bool, limit: int | None
) -> None:
    """List operations, newest first."""
    from unkai_cli.client import record

    session.all_projects = all_projects
    client = session.client
    found = client.pages(
        "OperationService",
        "ListOperations",
        limit=limit or 50,
        project_id=client.list_project_id,
        resource_id=resource,
        active_only=active,
    )
    session.printer.rows([record(m) for m in found], COLUMNS)


@operation.command("show")
@click.argument("operation")
@common
def show(session: Session, operation: str) -> None:
    """Show one operation."""
    from unkai_cli.client import record

    ident = session.client.resolve("operation", operation)
    found = session.client.call("OperationService", "GetOperation", operation_id=ident).operation
    session.printer.one(record(found), DETAILS)


@operation.command("wait")
@click.argument("operation")
@click.option("--timeout", type=Seconds(), default=600.0, help="How long to wait (10m).")
@common
def wait(session: Session, operation: str, timeout: float) -> None:
    """Wait for an operation to end; fails as it fails."""
    from unkai_cli.client import record

    client = session.client
    ident = client.resolve("operation", operation)
    now = client.call("OperationService", "GetOperation", operation_id=ident).operation
    progress = Progress()
    try:
        ended = client.wait_operation(now, timeout_s=timeout, progress=progress.show)
    finally:
        progress.clear()
    session.printer.rows([record(ended)], COLUMNS)


@operation.command("cancel")
@click.argument("operation")
@common
def cancel(session: Session, operation: str) -> None:
    """Ask for an operation to be given up; what it did is undone."""
    from unkai_cli.client import record

    ident = session.client.resolve("operation", operation)
    done = session.client.call("OperationService", "CancelOperation", operation_id=ident).operation
    session.printer.rows([record(done)], COLUMNS)

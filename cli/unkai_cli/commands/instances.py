"""`unkai instance …`: virtual machines. How they are made: `launches.py`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands import launches
from unkai_cli.commands.acting import attempted, awaited, raise_first, resolved
from unkai_cli.commands.audits import complete_orphans, on_host
from unkai_cli.commands.instance_rows import COLUMNS, DETAILS, read
from unkai_cli.commands.options import (
    ControlKey,
    Count,
    Label,
    Seconds,
    Size,
    common,
    complete_names,
    listing,
    named,
    waiting,
)
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Record, note
from unkai_cli.terminals import DEFAULT_ESCAPE

if TYPE_CHECKING:
    from unkai_cli.session import Session

STATES = (
    "PROVISIONING",
    "RUNNING",
    "STARTING",
    "STOPPING",
    "STOPPED",
    "REBOOTING",
    "DELETING",
    "FAILED",
    "UNKNOWN",
    "LOST",
    "AWAITING_PERMIT",
    "DELETED_ON_HOST",
)


@click.group(cls=Group)
def instance() -> None:
    """Instances: your virtual machines."""


@instance.command("create")
@launches.described
@waiting
@common
def create(session: Session, wait: bool, timeout: float, **asked: Any) -> int:
    """Make an instance NAME from IMAGE, or several (as 'unkai launch')."""
    if asked["count"]:
        return launches.show_batch(session, wait=wait, timeout=timeout, **asked)
    session.printer.rows([launches.made(session, wait=wait, timeout=timeout, **asked)], COLUMNS)
    return 0


@instance.command("list")
@click.option("--host", help="Only those on this host.", shell_complete=complete_names("host"))
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES, case_sensitive=False),
    metavar="STATE",
    multiple=True,
    help="Only those in this state; repeatable.",
)
@click.option("-l", "--label", "labels", multiple=True, help="Only those with key=value, or key.")
@listing
@common
def list_instances(
    session: Session,
    *,
    host: str | None,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List instances."""
    from unkai.compute.v1 import instance_pb2

    session.all_projects = all_projects
    host_id = session.client.resolve("host", host) if host else ""
    wanted = {text.partition("=")[0]: text.partition("=")[2] for text in labels}
    filters = {
        "project_id": session.client.list_project_id,
        "host_id": host_id,
        "states": [instance_pb2.Instance.State.Value(f"STATE_{state}") for state in states],
        "label_selector": wanted,
    }

    def matches(row: Record) -> bool:
        has = row["labels"]
        return (
            (not host_id or row["host_id"] == host_id)
            and (not states or row["state"] in states)
            and all(key in has and value in ("", has[key]) for key, value in wanted.items())
        )

    Listing("instance", COLUMNS, filters, matches).show(session, limit=limit, watch=watch)


@instance.command("show")
@named("instance")
@common
def show(session: Session, instance: str) -> None:
    """Show one instance with all its fields."""
    from unkai_cli.records import record

    found = read(session, session.client.resolve("instance", instance))
    session.printer.one(record(found), DETAILS)


def _act(
    session: Session,
    method: str,
    names: tuple[str, ...],
    *,
    wait: bool,
    timeout: float,
    **more: Any,
) -> None:
    from unkai_cli.records import record

    client = session.client
    answers, refusals = attempted(
        resolved(session, "instance", names),
        lambda ident: client.call(
            "InstanceService", f"{method}Instance", instance_id=ident, **more
        ),
    )
    good, failures = awaited(session, [a.operation for a in answers], wait=wait, timeout=timeout)
    done = [a.instance for a in answers if a.operation.id in good]
    if method == "Delete":
        for instance in done:
            note(f"{instance.name} {'deleted' if wait else 'is being deleted'}")
    elif done:
        shown = [record(read(session, each.id) if wait else each) for each in done]
        session.printer.rows(shown, COLUMNS)
    raise_first([*refusals, *failures])


@instance.command("delete")
@named("instance", nargs=-1, required=True)
@waiting
@common
def delete(session: Session, instance: tuple[str, ...], wait: bool, timeout: float) -> None:
    """Remove instances and their disks."""
    _act(session, "Delete", instance, wait=wait, timeout=timeout)


@instance.command("start")
@named("instance", nargs=-1, required=True)
@waiting
@common
def start(session: Session, instance: tuple[str, ...], wait: bool, timeout: float) -> None:
    """Power instances on."""
    _act(session, "Start", instance, wait=wait, timeout=timeout)


@instance.command("stop")
@named("instance", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Cut the power without asking the guest.")
@click.option("--grace", type=Seconds(), help="How long the guest may take (60s).")
@waiting
@common
def stop(
    session: Session,
    *,
    instance: tuple[str, ...],
    force: bool,
    grace: float | None,
    wait: bool,
    timeout: float,
) -> None:
    """Power instances off, asking the guest first."""
    from google.protobuf import duration_pb2

    more: dict[str, Any] = {"force": force}
    if grace is not None:
        more["grace"] = duration_pb2.Duration()
        more["grace"].FromMilliseconds(int(grace * 1000))
    _act(session, "Stop", instance, wait=wait, timeout=timeout, **more)


@instance.command("reboot")
@named("instance", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Reset without asking the guest.")
@waiting
@common
def reboot(
    session: Session, instance: tuple[str, ...], force: bool, wait: bool, timeout: float
) -> None:
    """Restart instances."""
    _act(session, "Reboot", instance, wait=wait, timeout=timeout, force=force)


@instance.command("update")
@named("instance")
@click.option("--name", "new_name", help="New name.")
@click.option("-l", "--label", "labels", type=Label(), multiple=True, help="Set key=value.")
@click.option("--remove-label", "removed", multiple=True, help="Remove a label.")
@common
def update(
    session: Session,
    instance: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
) -> None:
    """Change an instance's name or labels."""
    from google.protobuf import field_mask_pb2

    from unkai.compute.v1 import instance_pb2
    from unkai_cli.records import record

    paths = (["name"] if new_name else []) + (["labels"] if labels or removed else [])
    if not paths:
        raise click.UsageError("say --name, --label or --remove-label")
    client = session.client
    now = read(session, client.resolve("instance", instance))
    kept = {k: v for k, v in now.labels.items() if k not in removed} | dict(labels)
    answer = client.call(
        "InstanceService",
        "UpdateInstance",
        instance=instance_pb2.Instance(
            id=now.id, etag=now.etag, name=new_name or now.name, labels=kept
        ),
        update_mask=field_mask_pb2.FieldMask(paths=paths),
    )
    session.printer.rows([record(answer.instance)], COLUMNS)


@instance.command("adopt")
@click.argument("orphans", metavar="[ID...]", nargs=-1, shell_complete=complete_orphans())
@click.option("--all", "every", is_flag=True, help="All orphans; taken names get a new end.")
@on_host
@click.option("--name", "new_name", default="", help="Name it shall have.")
@click.option("--rename", is_flag=True, help="Where its name is taken, put its id's end behind it.")
@common
def adopt(
    session: Session,
    *,
    orphans: tuple[str, ...],
    every: bool,
    host: str | None,
    new_name: str,
    rename: bool,
) -> int:
    """Take machines that the database does not know into it, as their hosts remember them.

    For what 'unkai audit orphans' lists, as after a database was restored from a backup. Guests
    notice nothing. They come into the project that they were of, or into that of -p.

    With --all, exit code 6 says that all was adopted but what some silent hosts may hold: they are
    named; repeat it once they are back.

    \b
    unkai instance adopt --all
    unkai instance adopt ins-01m4k2 --name web
    """
    from unkai_cli.commands import adoptions

    return adoptions.adopt(
        session,
        orphans,
        COLUMNS,
        every=every,
        host=host,
        new_name=new_name,
        rename=rename,
    )


@instance.command("logs")
@named("instance")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=Size(), default=0, help="Begin with the last so many bytes.")
@click.option("--on-host", is_flag=True, help="Ask the agent on this host, with no scheduler.")
@common
def logs(session: Session, instance: str, follow: bool, tail: int, on_host: bool) -> None:
    """Print what an instance wrote to its serial console."""
    from unkai_cli.commands import consoles

    pieces = consoles.log_on_host if on_host else partial(consoles.log_by_scheduler, session)
    for piece in pieces(instance, tail_bytes=tail, follow=follow):
        session.printer.raw(piece)


@instance.command("console")
@named("instance")
@click.option("--force", is_flag=True, help="Take the console over from whoever holds it.")
@click.option("--log", type=Count(), help="Show so many last lines of the log first.")
@click.option(
    "--reconnect",
    is_flag=True,
    help="Join it again when the connection or the guest comes back.",
)
@click.option(
    "-e",
    "--escape",
    type=ControlKey(),
    default=DEFAULT_ESCAPE,
    envvar="UNKAI_CONSOLE_ESCAPE",
    show_default=True,
    show_envvar=True,
    help="Key that leaves: ^], ctrl-a or none.",
)
@click.option("--on-host", is_flag=True, help="Ask the agent on this host, with no scheduler.")
@common
def console(
    session: Session,
    instance: str,
    *,
    force: bool,
    log: int | None,
    reconnect: bool,
    escape: int | None,
    on_host: bool,
) -> None:
    """Connect to an instance's serial console; Ctrl-] leaves it.

    Every other key is the guest's, Ctrl-C too. A serial line knows nothing of a window's size: run
    'resize' in the guest after it has changed.
    """
    from unkai_cli.commands import consoles

    wishes = consoles.Wishes(force, escape, reconnect, log or 0)
    if on_host:
        consoles.on_host(instance, wishes)
    else:
        consoles.by_scheduler(session, instance, wishes)


@instance.command("explain")
@named("instance")
@common
def explain(session: Session, instance: str) -> None:
    """Say why an instance is where it is, with the numbers used."""
    from unkai_cli.commands import explanations
    from unkai_cli.records import record

    answer = session.client.call(
        "PlacementService",
        "Explain",
        instance_id=session.client.resolve("instance", instance),
    )
    if session.printer.form in ("table", "wide"):
        explanations.show(session.printer, record(answer.decision))
    else:
        session.printer.one(record(answer.decision), ())


@instance.command("events")
@named("instance")
@click.option("--limit", type=click.IntRange(1), default=50, help="Show at most so many.")
@common
def events(session: Session, instance: str, limit: int) -> None:
    """List what happened to an instance, newest last."""
    from unkai_cli.commands import events as shown

    ident = session.client.resolve("instance", instance)
    shown.show_past(session, limit=limit, resource_id=ident)

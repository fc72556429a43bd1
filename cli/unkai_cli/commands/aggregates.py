"""`unkai aggregate …`: sets of hosts, and what the operator says of them.

What an aggregate says in lists is edited by reading it, changing the list and writing it back; its
etag refuses the write when somebody else was quicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.acting import resolved
from unkai_cli.commands.options import common, complete_names, limited, named
from unkai_cli.commands.resources import (
    AGE,
    ID,
    LABELS,
    NAME,
    Columns,
    Names,
    found,
    labelled,
    removed_all,
    renamed,
    renaming,
    show_one,
    show_rows,
    updated,
)
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record

if TYPE_CHECKING:
    from unkai_cli.session import Session

_RATIOS = ("cpu", "memory", "disk")


def _ratios(row: Record) -> str:
    said = ((name, row[f"{name}_ratio"]) for name in _RATIOS)
    return ",".join(f"{name}={ratio:g}" for name, ratio in said if ratio)


COLUMNS = (
    NAME,
    Column("HOSTS", lambda r: str(len(r["host_ids"])), right=True),
    Column("PROJECTS", lambda r: str(len(r["project_ids"])) if r["project_ids"] else "all"),
    Column("TRAITS", lambda r: ",".join(r["traits"])),
    Column("RATIOS", _ratios),
    AGE,
    ID,
    LABELS,
    Column("DESCRIPTION", lambda r: r["description"], wide=True),
)


def _details(names: Names) -> Columns:
    """Return the columns of one alone, its hosts and projects by their names."""

    def of(kind: str) -> Any:
        return lambda r: ", ".join(sorted(names.of(kind, ident) for ident in r[f"{kind}_ids"]))

    return (
        NAME,
        Column("DESCRIPTION", lambda r: r["description"]),
        Column("HOSTS", of("host")),
        Column("PROJECTS", lambda r: of("project")(r) or "all"),
        *COLUMNS[3:-1],
        Column("CREATED", lambda r: r["create_time"]),
        Column("ETAG", lambda r: r["etag"]),
    )


@click.group(cls=Group)
def aggregate() -> None:
    """Aggregates: hosts that you say the same of."""


@aggregate.command("list")
@limited
@common
def list_aggregates(session: Session, limit: int | None, watch: bool) -> None:
    """List aggregates."""
    Listing("aggregate", COLUMNS).show(session, limit=limit, watch=watch)


@aggregate.command("show")
@named("aggregate")
@common
def show(session: Session, aggregate: str) -> None:
    """Show one aggregate with its hosts."""
    show_one(session, _details(Names(session)), found(session, "aggregate", aggregate))


def _saying(function: Any) -> Any:
    """Add the options of what an aggregate says."""
    ratio_of = {"cpu": "Virtual CPUs claimable for each CPU", "memory": "Bytes for each byte"}
    options = [
        click.option("--description", default=None, help="What it is for."),
        click.option("--trait", "traits", multiple=True, help="Trait its hosts have; repeatable."),
        click.option(
            "--dedicate",
            "projects",
            multiple=True,
            metavar="PROJECT",
            help="Only this project's instances go to its hosts; repeatable.",
            shell_complete=complete_names("project"),
        ),
        *(
            click.option(
                f"--{name}-ratio",
                type=float,
                default=None,
                help=f"{ratio_of.get(name, 'The same of disk')}; 0: as the settings say.",
            )
            for name in _RATIOS
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@aggregate.command("create")
@click.argument("name")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Host in it; repeatable.",
    shell_complete=complete_names("host"),
)
@_saying
@labelled
@common
def create(
    session: Session,
    *,
    name: str,
    hosts: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    **said: Any,
) -> None:
    """Make an aggregate NAME.

    \b
    unkai aggregate create fast --host h1 --host h2 --trait SSD
    unkai aggregate create lab --host h3 --dedicate lab --cpu-ratio 1
    """
    from unkai.host.v1 import aggregate_pb2

    ratios: dict[str, Any] = {f"{one}_ratio": said[f"{one}_ratio"] or 0.0 for one in _RATIOS}
    wanted = aggregate_pb2.Aggregate(
        name=name,
        description=said["description"] or "",
        host_ids=list(resolved(session, "host", hosts)),
        project_ids=list(resolved(session, "project", said["projects"])),
        traits=list(dict.fromkeys(said["traits"])),
        labels=dict(labels),
        **ratios,
    )
    made = session.client.call("AggregateService", "CreateAggregate", aggregate=wanted)
    show_rows(session, COLUMNS, made.aggregate)


@aggregate.command("update")
@named("aggregate")
@_saying
@click.option("--remove-trait", "gone_traits", multiple=True, help="Remove a trait.")
@click.option(
    "--undedicate",
    "gone_projects",
    multiple=True,
    metavar="PROJECT",
    help="Dedicated to this project no more; to none at all, any project's may come.",
    shell_complete=complete_names("project"),
)
@renaming
@common
def update(
    session: Session,
    *,
    aggregate: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    **said: Any,
) -> None:
    """Change what an aggregate says; instances that are placed stay where they are.

    \b
    unkai aggregate update fast --trait GENERATION_3 --remove-trait GENERATION_2
    unkai aggregate update lab --dedicate shop --cpu-ratio 0
    """
    now = found(session, "aggregate", aggregate)
    fields = renamed(now, new_name, labels, removed)
    if said["description"] is not None:
        fields["description"] = said["description"]
    if said["traits"] or said["gone_traits"]:
        fields["traits"] = _edited(now.traits, said["traits"], said["gone_traits"])
    if said["projects"] or said["gone_projects"]:
        came = list(resolved(session, "project", said["projects"]))
        gone = list(resolved(session, "project", said["gone_projects"]))
        fields["project_ids"] = _edited(now.project_ids, came, gone)
    for name in (f"{ratio}_ratio" for ratio in _RATIOS):
        if said[name] is not None:
            fields[name] = said[name]
    show_rows(session, COLUMNS, updated(session, "aggregate", now, **fields))


def _edited(there: Sequence[str], came: Sequence[str], gone: Sequence[str]) -> list[str]:
    return [one for one in dict.fromkeys((*there, *came)) if one not in gone]


def _change_hosts(session: Session, method: str, aggregate: str, hosts: Sequence[str]) -> None:
    answer = session.client.call(
        "AggregateService",
        method,
        aggregate_id=session.client.resolve("aggregate", aggregate),
        host_ids=list(resolved(session, "host", hosts)),
    )
    show_rows(session, COLUMNS, answer.aggregate)


@aggregate.command("add-host")
@named("aggregate")
@named("host", nargs=-1, required=True)
@common
def add_host(session: Session, aggregate: str, host: tuple[str, ...]) -> None:
    """Put hosts into an aggregate."""
    _change_hosts(session, "AddAggregateHosts", aggregate, host)


@aggregate.command("remove-host")
@named("aggregate")
@named("host", nargs=-1, required=True)
@common
def remove_host(session: Session, aggregate: str, host: tuple[str, ...]) -> None:
    """Take hosts out of an aggregate."""
    _change_hosts(session, "RemoveAggregateHosts", aggregate, host)


@aggregate.command("delete")
@named("aggregate", nargs=-1, required=True)
@common
def delete(session: Session, aggregate: tuple[str, ...]) -> None:
    """Remove aggregates that no instance asks for; their hosts stay."""
    removed_all(session, "aggregate", aggregate)

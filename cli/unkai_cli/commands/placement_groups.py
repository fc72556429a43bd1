"""`unkai placement-group …`: instances near each other, or apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unkai_cli.commands.options import common, complete_names, listing, named
from unkai_cli.commands.resources import (
    AGE,
    ALONE,
    ID,
    LABELS,
    NAME,
    choosing,
    found,
    labelled,
    listed,
    removed_all,
    renamed,
    renaming,
    updated,
)
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record

if TYPE_CHECKING:
    from unkai_cli.session import Session

KIND = "placement_group"
_POLICIES = {"affinity": 1, "anti-affinity": 2}
_SCOPES = {"host": 1, "zone": 2}
_HARD, _SOFT = 1, 2
MAX_PER_PLACE = 1000


def _rule(row: Record) -> str:
    """Say what a group asks for, as people would."""
    place = row["scope"].lower()
    if row["policy"] == "AFFINITY":
        return f"all in one {place}" if place == "zone" else "all on one host"
    if not row["max_per_place"]:
        return f"evenly over {place}s"
    return f"at most {row['max_per_place']} a {place}"


COLUMNS = (
    NAME,
    Column("POLICY", lambda r: r["policy"].lower().replace("_", "-")),
    Column("RULE", _rule),
    Column("STRICTNESS", lambda r: r["strictness"].lower()),
    Column("INSTANCES", lambda r: str(len(r["instance_ids"])), right=True),
    AGE,
    ID,
    LABELS,
)
DETAILS = (*COLUMNS, *ALONE, Column("MEMBERS", lambda r: ", ".join(r["instance_ids"])))


@click.group(cls=Group)
def placement_group() -> None:
    """Placement groups: instances near each other, or apart."""


@placement_group.command("list")
@choosing
@listing
@common
def list_groups(
    session: Session, *, labels: tuple[str, ...], all_projects: bool, limit: int | None, watch: bool
) -> None:
    """List placement groups."""
    session.all_projects = all_projects
    listed(session, KIND, COLUMNS, labels=labels, limit=limit, watch=watch)


@placement_group.command("show")
@named(KIND)
@common
def show(session: Session, placement_group: str) -> None:
    """Show one placement group with the instances that name it."""
    from unkai_cli.records import record

    session.printer.one(record(found(session, KIND, placement_group)), DETAILS)


@placement_group.command("create")
@click.argument("name")
@click.option(
    "--policy",
    type=click.Choice(list(_POLICIES)),
    required=True,
    help="Near each other, or apart.",
)
@click.option("--soft", is_flag=True, help="Place instances against it rather than not at all.")
@click.option(
    "--scope",
    type=click.Choice(list(_SCOPES)),
    default="host",
    show_default=True,
    help="What they share, or not.",
)
@click.option(
    "--max",
    "most",
    type=click.IntRange(1, MAX_PER_PLACE),
    help="With anti-affinity, as many on one host (1 unless given), or in one zone (as in others).",
)
@labelled
@common
def create(
    session: Session,
    *,
    name: str,
    policy: str,
    soft: bool,
    scope: str,
    most: int | None,
    labels: tuple[tuple[str, str], ...],
) -> None:
    """Make a placement group NAME; 'launch --group NAME' makes instances in it.

    \b
    unkai placement-group create web --policy anti-affinity
    unkai placement-group create db --policy anti-affinity --scope zone
    unkai placement-group create cache --policy affinity --soft
    """
    from unkai.compute.v1 import placement_group_pb2
    from unkai_cli.records import record

    wanted = placement_group_pb2.PlacementGroup(
        name=name,
        policy=_POLICIES[policy],  # type: ignore[arg-type]
        strictness=_SOFT if soft else _HARD,  # type: ignore[arg-type]
        scope=_SCOPES[scope],  # type: ignore[arg-type]
        max_per_place=most or 0,
        labels=dict(labels),
    )
    client = session.client
    answer = client.call(
        "PlacementGroupService",
        "CreatePlacementGroup",
        project_id=client.project_id,
        placement_group=wanted,
    )
    session.printer.rows([record(answer.placement_group)], COLUMNS)


@placement_group.command("update")
@named(KIND)
@renaming
@common
def update(
    session: Session,
    placement_group: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
) -> None:
    """Change a placement group's name or labels; its policy stays."""
    from unkai_cli.records import record

    now = found(session, KIND, placement_group)
    changed = updated(session, KIND, now, **renamed(now, new_name, labels, removed))
    session.printer.rows([record(changed)], COLUMNS)


@placement_group.command("delete")
@click.argument("placement_group", nargs=-1, required=True, shell_complete=complete_names(KIND))
@common
def delete(session: Session, placement_group: tuple[str, ...]) -> None:
    """Remove placement groups that no instance names."""
    removed_all(session, KIND, placement_group)

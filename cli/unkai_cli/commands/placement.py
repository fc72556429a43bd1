"""`unkai placement …`: where instances would go, and where they went."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands import suppositions
from unkai_cli.commands.demands import POLICIES
from unkai_cli.commands.options import common, complete_names, named
from unkai_cli.groups import Group
from unkai_cli.output import EXIT_CAPACITY, EXIT_FAILED, Column, Record, note

if TYPE_CHECKING:
    from unkai_cli.session import Session

_PAGE = 500
"""Hosts asked for at once: about as many as are looked at before a page ends."""


@click.group(cls=Group)
def placement() -> None:
    """Where instances would go: what-ifs. Where they went: decisions made again."""


@placement.command("simulate")
@suppositions.supposed
@common
def simulate(session: Session, **said: Any) -> int:
    """Say what would come of more hosts, lost hosts and more instances, in this order.

    The leader decides on a copy of its hosts as they are now, load included; nothing is changed.

    \b
    unkai placement simulate --place 200 --flavor small --policy pack
    unkai placement simulate --lose h3 --lose h4
    unkai placement simulate --add 4 --like h1 --lose h1 --place 50 -c 2 -m 4G --disk 20G

    Exit codes: 0 all instances would find a host; 5 some would not.
    """
    from unkai_cli.commands import simulations
    from unkai_cli.records import record

    steps = suppositions.steps(session, said)
    if not steps:
        raise click.UsageError("say what is supposed: --place N, --lose HOST, --add N")
    client = session.client
    answer = client.call("PlacementService", "Simulate", steps=steps, project_id=client.project_id)
    found = record(answer.simulation)
    if session.printer.form in ("table", "wide"):
        simulations.show(session.printer, found, steps)
    elif session.printer.form == "name":
        session.printer.rows([{"name": c["host_name"]} for c in found["changes"]], ())
    else:
        session.printer.one(found, ())
    left = [outcome for outcome in found["outcomes"] if left_of(outcome)]
    return EXIT_CAPACITY if left else 0


def left_of(outcome: Record) -> int:
    """Return how many would be without a host."""
    return int(outcome["asked_count"]) - int(outcome["placed_count"])


LOSSES = (
    Column("HOST", lambda r: r["host_name"]),
    Column("INSTANCES", lambda r: str(r["outcome"]["asked_count"]), right=True),
    Column("PLACED", lambda r: str(r["outcome"]["placed_count"]), right=True),
    Column("LEFT", lambda r: str(left_of(r["outcome"])), right=True),
    Column("WHY", lambda r: next((f["decision"]["summary"] for f in r["outcome"]["refusals"]), "")),
    Column("ID", lambda r: r["host_id"], wide=True),
)


@placement.command("losses")
@click.argument("host", required=False, shell_complete=complete_names("host"))
@common
def losses(session: Session, host: str | None) -> int:
    """Say of each host, or of one, whether the others could take what is on it, were it lost.

    Whether disks would be there is not looked at: what lies on the lost host alone is lost with it.

    Exit codes: 0 each loss alone could be absorbed; 5 some could not.
    """
    from unkai_cli.records import record

    client = session.client
    host_id = client.resolve("host", host) if host else ""
    rows, token = [], ""
    while True:
        answer = client.call(
            "PlacementService",
            "SimulateLosses",
            host_id=host_id,
            page_size=_PAGE,
            page_token=token,
        )
        rows += [record(loss) for loss in answer.losses]
        token = answer.next_page_token
        if not token:
            break
    if session.printer.form == "name":
        session.printer.rows([{"name": row["host_name"]} for row in rows], ())
    else:
        session.printer.rows(rows, LOSSES)
    grave = [row["host_name"] for row in rows if left_of(row["outcome"])]
    if grave:
        more = ", ..." if len(grave) > 5 else ""
        note(f"{len(grave)} of {len(rows)} cannot be lost: {', '.join(grave[:5])}{more}")
    return EXIT_CAPACITY if grave else 0


class Moment(click.ParamType[datetime]):
    """A time as decisions show it: `2026-11-28T12:00:00.123456Z`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.fail(f"{value!r} is not a time; write 2026-11-28T12:00:00.123456Z", param, ctx)
        return moment


class Weight(click.ParamType[tuple[str, int]]):
    """`TERM=N`."""

    name = "term=n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        term, _, number = str(value).partition("=")
        if not term or not number.isdecimal() or int(number) > 255:
            self.fail(f"{value!r} is not a weight; write TERM=N, N from 0 to 255", param, ctx)
        return term, int(number)


@placement.command("replay")
@named("instance")
@click.option("--policy", type=click.Choice(list(POLICIES)), help="Decide under this policy.")
@click.option(
    "--weight",
    "weights",
    type=Weight(),
    multiple=True,
    metavar="TERM=N",
    help="Weigh a term so, 0 to 255; repeatable.",
)
@click.option(
    "--time",
    "moment",
    type=Moment(),
    metavar="TIME",
    help="Of several decisions the one of this time; the last one unless given.",
)
@common
def replay(
    session: Session,
    instance: str,
    policy: str | None,
    weights: tuple[tuple[str, int], ...],
    moment: datetime | None,
) -> int:
    """Make the decision for an instance again, on the hosts as they were then.

    By the same policy and weights it is the same, bit for bit. With --time an instance need not
    exist any more: give its id.

    \b
    unkai placement replay web
    unkai placement replay web --policy pack
    unkai placement replay web --weight policy=200 -o json

    Exit codes: 0 the same, or another policy or weight was asked for; 1 it is not the same.
    """
    from unkai_cli.commands import replays
    from unkai_cli.records import record
    from unkai_wire.ids import is_id

    gone = moment is not None and is_id("instance", instance)
    found = record(
        session.client.call(
            "PlacementService",
            "ReplayDecision",
            instance_id=instance if gone else session.client.resolve("instance", instance),
            decide_time=moment,
            policy=POLICIES.get(policy or "", 0),
            weights=dict(weights),
        )
    )
    if session.printer.form in ("table", "wide"):
        replays.show(session.printer, found)
    elif session.printer.form == "name":
        session.printer.rows([{"name": found["replayed"]["host_name"]}], ())
    else:
        session.printer.one(found, ())
    return 0 if found["identical"] or policy or weights else EXIT_FAILED

"""`unkai launch`, and what `unkai instance create` has in common with it: making an instance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands import demands, plugging
from unkai_cli.commands.acting import awaited, confirmed, raise_first
from unkai_cli.commands.instance_rows import COLUMNS, read
from unkai_cli.commands.options import (
    Count,
    Label,
    Seconds,
    Size,
    common,
    complete_names,
    complete_zones,
    waiting,
)
from unkai_cli.output import note

if TYPE_CHECKING:
    from unkai_cli.session import Session

MAX_PRIORITY = 1000


def described(function: Any) -> Any:
    """Add the arguments and options that describe a new instance."""
    for option in reversed(
        (
            click.argument("image", shell_complete=complete_names("image")),
            click.argument("name"),
            click.option(
                "--flavor", help="Take its figures.", shell_complete=complete_names("flavor")
            ),
            click.option("-c", "--vcpus", type=Count(), help="Virtual CPUs."),
            click.option("-m", "--memory", type=Size(), help="Memory: 512M, 4GiB (binary units)."),
            click.option("--disk", type=Size(), help="Root disk; the image's size unless given."),
            click.option(
                "--key",
                "keys",
                multiple=True,
                help="Key pair for the guest; repeatable.",
                shell_complete=complete_names("key_pair"),
            ),
            click.option("--user-data", type=click.File("rb"), help="File for the first boot."),
            click.option("-l", "--label", "labels", type=Label(), multiple=True, help="key=value."),
            click.option(
                "--policy", type=click.Choice(list(demands.POLICIES)), help="How to choose a host."
            ),
            click.option("--zone", help="Zone of the host.", shell_complete=complete_zones),
            click.option(
                "--aggregate",
                help="Aggregate of the host.",
                shell_complete=complete_names("aggregate"),
            ),
            click.option("--trait", "traits", multiple=True, help="Trait the host must have."),
            click.option(
                "--prefer-trait", "preferred", multiple=True, help="Trait it should have."
            ),
            click.option(
                "--forbid-trait", "forbidden", multiple=True, help="Trait it must not have."
            ),
            click.option(
                "--capacity-wait", type=Seconds(), default=0.0, help="Wait so long for capacity."
            ),
            click.option(
                "--group",
                help="Placement group it comes into.",
                shell_complete=complete_names("placement_group"),
            ),
            click.option(
                "--priority",
                type=click.IntRange(0, MAX_PRIORITY),
                default=0,
                help="Who waits for a host goes first, highest first; 0 to 1000.",
            ),
            click.option("--count", type=Count(), help="Make so many: NAME-1, NAME-2, ..."),
            click.option(
                "--all-or-nothing", is_flag=True, help="With --count: hosts for all, or for none."
            ),
            plugging.plugged,
        )
    ):
        function = option(function)
    return function


@click.command()
@described
@waiting
@common
def launch(session: Session, wait: bool, timeout: float, **asked: Any) -> int:
    """Make an instance NAME from IMAGE and wait until it runs; with --count several: NAME-1, ...

    \b
    unkai launch tiny web --flavor nano
    unkai launch debian-12 db -c 2 -m 2G --disk 20G --key laptop --user-data setup.sh
    unkai launch tiny shop --flavor nano --network front --ip 10.1.0.20 --floating-ip new
    unkai launch tiny worker --flavor nano --count 20 --all-or-nothing
    """
    begun = time.monotonic()
    if asked["count"]:
        return show_batch(session, wait=wait, timeout=timeout, **asked)
    instance = made(session, wait=wait, timeout=timeout, **asked)
    session.printer.rows([instance], COLUMNS)
    if wait and session.printer.form in ("table", "wide"):
        name = instance["name"]
        note(
            f"{name} runs on {instance['host_name']} after {time.monotonic() - begun:.1f} s; next: "
            f"'unkai instance logs {name}', 'unkai instance console {name}', "
            f"'unkai instance explain {name}'"
        )
    return 0


def made(session: Session, *, wait: bool, timeout: float, **asked: Any) -> dict[str, Any]:
    """Make what `described` asks for; return the record, of the running instance with `wait`.

    `timeout`: seconds to wait, on top of those for capacity.
    """
    from unkai_cli.records import record

    wanted = _wanted(session, asked)
    floating = plugging.floating_ip(session, asked)
    with plugging.given_back(session, asked, floating):
        answer = session.client.call(
            "InstanceService",
            "CreateInstance",
            project_id=session.client.project_id,
            instance=wanted,
            capacity_wait=_capacity_wait(asked),
        )
        plugging.lead(session, floating, answer.instance)
    confirmed(session, answer.operation, wait=wait, timeout=timeout + asked["capacity_wait"])
    if not wait:
        return record(answer.instance)
    return record(read(session, answer.instance.id))


def show_batch(session: Session, *, wait: bool, timeout: float, **asked: Any) -> int:
    """Make several instances and show them all; return the exit code.

    Raises what the first of those failed with that did; different failures of others are told.
    """
    from unkai_cli.records import record

    if asked["floating_ip"]:
        raise click.UsageError("--floating-ip leads to one instance: leave out --count")
    answer = session.client.call(
        "InstanceService",
        "BatchCreateInstances",
        project_id=session.client.project_id,
        instance=_wanted(session, asked),
        count=asked["count"],
        capacity_wait=_capacity_wait(asked),
        all_or_nothing=asked["all_or_nothing"],
    )
    count = len(answer.operations)
    if not wait:
        session.printer.rows([record(each) for each in answer.instances], COLUMNS)
        note(f"{count} operations accepted; 'unkai operation list' shows them")
        return 0
    end = timeout + asked["capacity_wait"]
    _, failures = awaited(session, answer.operations, wait=True, timeout=end, counted="running")
    shown = [record(read(session, each.id)) for each in answer.instances]
    session.printer.rows(shown, COLUMNS)
    if failures:
        note(f"{len(failures)} of {count} instances do not run")
    raise_first(list({(each.reason, each.message): each for each in reversed(failures)}.values()))
    return 0


def _wanted(session: Session, asked: dict[str, Any]) -> Any:
    """Return the message of the instance that `described` asks for."""
    from unkai.compute.v1 import instance_pb2

    client = session.client
    demands.check_size(asked)
    if asked["flavor"] and (asked["vcpus"] or asked["memory"]):
        raise click.UsageError("say --flavor F, or -c and -m, not both")
    if asked["all_or_nothing"] and not asked["count"]:
        raise click.UsageError("--all-or-nothing says how several are made: say --count N too")
    interfaces = plugging.fields(session, asked)
    return instance_pb2.Instance(
        name=asked["name"],
        image_id=client.resolve("image", asked["image"]),
        **demands.fields(client, asked),
        key_pair_ids=[client.resolve("key_pair", key) for key in asked["keys"]],
        user_data=asked["user_data"].read() if asked["user_data"] else b"",
        labels=dict(asked["labels"]),
        priority=asked["priority"],
        **interfaces,
    )


def _capacity_wait(asked: dict[str, Any]) -> Any:
    from google.protobuf import duration_pb2

    pause = duration_pb2.Duration()
    pause.FromMilliseconds(int(asked["capacity_wait"] * 1000))
    return pause

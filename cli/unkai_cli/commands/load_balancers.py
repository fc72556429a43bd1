"""`unkai load-balancer …`: one address for several instances.

Listeners and members are edited by reading the load balancer, changing the list and writing it
back; its etag refuses the write when somebody else was quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.addresses import ADDRESS, LISTENER, NAMED_PORT
from unkai_cli.commands.load_balancer_rows import columns, member_columns, member_rows
from unkai_cli.commands.options import common, complete_names, listing, named
from unkai_cli.commands.resources import (
    ALONE,
    Names,
    changed,
    choosing,
    found,
    labelled,
    listed,
    made,
    removed_all,
    renamed,
    renaming,
    show_one,
    show_rows,
)
from unkai_cli.commands.settling import Waiting, settling
from unkai_cli.commands.targets import chosen, port_of
from unkai_cli.groups import Group
from unkai_wire.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

_PROTOCOLS = {"tcp": 1, "udp": 2}
_MEMBERS = ("instance", "port")


@click.group(cls=Group)
def load_balancer() -> None:
    """Load balancers: one address for several instances."""


@load_balancer.command("list")
@click.option("--subnet", help="Only of this subnet.", shell_complete=complete_names("subnet"))
@choosing
@listing
@common
def list_load_balancers(
    session: Session,
    *,
    subnet: str | None,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List load balancers."""
    session.all_projects = all_projects
    subnet_id = session.client.resolve("subnet", subnet) if subnet else ""
    listed(
        session,
        "load_balancer",
        columns(Names(session, many=True)),
        labels=labels,
        limit=limit,
        watch=watch,
        filters={"subnet_id": subnet_id},
        matches=lambda row: subnet_id in ("", row["subnet_id"]),
    )


@load_balancer.command("show")
@named("load_balancer")
@common
def show(session: Session, load_balancer: str) -> None:
    """Show one load balancer, its members and their health."""
    from unkai_cli.records import record

    now = found(session, "load_balancer", load_balancer)
    names = Names(session)
    show_one(session, (*columns(names), *ALONE), now)
    members = member_rows(record(now))
    if members and session.printer.form in ("table", "wide"):
        session.printer.line()
        session.printer.table(members, member_columns(names))


def _checking(function: Any) -> Any:
    """Add the options of a new listener's members and health check."""
    for option in (
        click.option("--check", is_flag=True, help="Connect to members; leave out who is dead."),
        click.option(
            "-m",
            "--member",
            "members",
            type=NAMED_PORT,
            multiple=True,
            help="Instance or port, NAME or NAME:8080; repeatable.",
            shell_complete=complete_names("instance", "port"),
        ),
    ):
        function = option(function)
    return function


def _member(session: Session, name: str, number: int) -> Any:
    from unkai.network.v1 import load_balancer_pb2

    port_id = port_of(session, *chosen(session, name, _MEMBERS)).id
    return load_balancer_pb2.LoadBalancer.Member(port_id=port_id, port_number=number)


def _listener(
    session: Session, where: tuple[str, int], members: Sequence[tuple[str, int]], check: bool
) -> Any:
    from unkai.network.v1 import load_balancer_pb2

    kind = load_balancer_pb2.LoadBalancer
    return kind.Listener(
        protocol=_PROTOCOLS[where[0]],  # type: ignore[arg-type]
        port_number=where[1],
        members=[_member(session, name, number) for name, number in members],
        health_check=kind.HealthCheck() if check else None,
    )


@load_balancer.command("create")
@click.argument("name")
@click.option(
    "--subnet",
    required=True,
    help="Subnet its address is of.",
    shell_complete=complete_names("subnet"),
)
@click.option("--address", type=ADDRESS, default=None, help="This very address.")
@click.option(
    "--listener",
    "listeners",
    type=LISTENER,
    multiple=True,
    metavar="PORT[/udp]",
    help="Listen there: 80, 53/udp; repeatable.",
)
@_checking
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    subnet: str,
    address: str | None,
    listeners: tuple[tuple[str, int], ...],
    members: tuple[tuple[str, int], ...],
    check: bool,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Make a load balancer NAME.

    The members given are of all listeners given.

    \b
    unkai load-balancer create shop --subnet back --listener 80 -m web-1:8080 -m web-2:8080 --check
    """
    from unkai.network.v1 import load_balancer_pb2

    if (members or check) and not listeners:
        raise click.UsageError("say --listener with --member and --check")
    wanted = load_balancer_pb2.LoadBalancer(
        name=name,
        subnet_id=session.client.resolve("subnet", subnet),
        address=address or "",
        listeners=[_listener(session, where, members, check) for where in listeners],
        labels=dict(labels),
    )
    new = made(session, "load_balancer", wanted, Waiting(wait, timeout))
    show_rows(session, columns(Names(session)), new)


@load_balancer.command("update")
@named("load_balancer")
@renaming
@settling
@common
def update(
    session: Session,
    *,
    load_balancer: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    wait: bool,
    timeout: float,
) -> None:
    """Change a load balancer's name or labels."""
    now = found(session, "load_balancer", load_balancer)
    fields = renamed(now, new_name, labels, removed)
    new = changed(session, "load_balancer", now, Waiting(wait, timeout), **fields)
    show_rows(session, columns(Names(session)), new)


def _edit(
    session: Session, name: str, waiting: Waiting, edit: Callable[[Any, list[Any]], None]
) -> None:
    """Read the load balancer, have its listeners edited in place, write them back, print it."""
    now = found(session, "load_balancer", name)
    listeners = list(now.listeners)
    edit(now, listeners)
    new = changed(session, "load_balancer", now, waiting, listeners=listeners)
    show_rows(session, columns(Names(session)), new)


def _at(now: Any, listeners: Sequence[Any], where: tuple[str, int]) -> Any:
    """Return the listener of this protocol and port number."""
    for listener in listeners:
        if (listener.protocol, listener.port_number) == (_PROTOCOLS[where[0]], where[1]):
            return listener
    raise NotFound(
        f"load balancer {now.name} has no listener {where[1]}/{where[0]}",
        reason="LISTENER_NOT_FOUND",
        fix=f"see its listeners with 'unkai load-balancer show {now.name}'",
        metadata={"load_balancer_id": now.id, "listener": f"{where[1]}/{where[0]}"},
    )


_WHERE = click.argument("listener", metavar="PORT[/udp]", type=LISTENER)


@load_balancer.command("add-listener")
@named("load_balancer")
@_WHERE
@_checking
@settling
@common
def add_listener(
    session: Session,
    *,
    load_balancer: str,
    listener: tuple[str, int],
    members: tuple[tuple[str, int], ...],
    check: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Let a load balancer listen at one more port.

    \b
    unkai load-balancer add-listener shop 443 -m web-1 -m web-2 --check
    """

    def edit(now: Any, listeners: list[Any]) -> None:
        for known in listeners:
            if (known.protocol, known.port_number) == (_PROTOCOLS[listener[0]], listener[1]):
                raise AlreadyExists(
                    f"load balancer {now.name} listens at {listener[1]}/{listener[0]} already",
                    reason="LISTENER_EXISTS",
                    fix="add members to it with 'unkai load-balancer add-member'",
                    metadata={"load_balancer_id": now.id},
                )
        listeners.append(_listener(session, listener, members, check))

    _edit(session, load_balancer, Waiting(wait, timeout), edit)


@load_balancer.command("remove-listener")
@named("load_balancer")
@_WHERE
@settling
@common
def remove_listener(
    session: Session, load_balancer: str, listener: tuple[str, int], wait: bool, timeout: float
) -> None:
    """Let a load balancer listen at a port no more."""

    def edit(now: Any, listeners: list[Any]) -> None:
        listeners.remove(_at(now, listeners, listener))

    _edit(session, load_balancer, Waiting(wait, timeout), edit)


_NAMED = click.argument(
    "members",
    metavar="MEMBER[:PORT]...",
    type=NAMED_PORT,
    nargs=-1,
    required=True,
    shell_complete=complete_names("instance", "port"),
)


@load_balancer.command("add-member")
@named("load_balancer")
@_WHERE
@_NAMED
@settling
@common
def add_member(
    session: Session,
    *,
    load_balancer: str,
    listener: tuple[str, int],
    members: tuple[tuple[str, int], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Give members a share of a listener's connections.

    \b
    unkai load-balancer add-member shop 80 web-3:8080
    """

    def edit(now: Any, listeners: list[Any]) -> None:
        there = _at(now, listeners, listener)
        new = [_member(session, name, number) for name, number in members]
        theirs = {(each.port_id, each.port_number) for each in new}
        kept = [each for each in there.members if (each.port_id, each.port_number) not in theirs]
        del there.members[:]
        there.members.extend([*kept, *new])

    _edit(session, load_balancer, Waiting(wait, timeout), edit)


@load_balancer.command("remove-member")
@named("load_balancer")
@_WHERE
@_NAMED
@settling
@common
def remove_member(
    session: Session,
    *,
    load_balancer: str,
    listener: tuple[str, int],
    members: tuple[tuple[str, int], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Take members off a listener: new connections go to others."""

    def edit(now: Any, listeners: list[Any]) -> None:
        there = _at(now, listeners, listener)
        for name, number in members:
            port_id = port_of(session, *chosen(session, name, _MEMBERS)).id
            gone = [each for each in there.members if _is(each, port_id, number, listener[1])]
            if not gone:
                raise NotFound(
                    f"{name} is no member of {listener[1]}/{listener[0]} of {now.name}",
                    reason="MEMBER_NOT_FOUND",
                    fix=f"see the members with 'unkai load-balancer show {now.name}'",
                    metadata={"load_balancer_id": now.id, "member": name},
                )
            for each in gone:
                there.members.remove(each)

    _edit(session, load_balancer, Waiting(wait, timeout), edit)


def _is(member: Any, port_id: str, number: int, usual: int) -> bool:
    """Tell whether it is this member; 0 for a number stands for any."""
    return member.port_id == port_id and (not number or number == (member.port_number or usual))


@load_balancer.command("delete")
@named("load_balancer", nargs=-1, required=True)
@common
def delete(session: Session, load_balancer: tuple[str, ...]) -> None:
    """Remove load balancers."""
    removed_all(session, "load_balancer", load_balancer)

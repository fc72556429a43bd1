"""`unkai floating-ip …`: addresses reached from outside, moved between instances.

A floating address may be named by its address too: that is what people have in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from unkai_cli.commands.acting import attempted, raise_first
from unkai_cli.commands.addresses import ADDRESS, address, is_address
from unkai_cli.commands.options import common, complete_names, listing
from unkai_cli.commands.resources import (
    ALONE,
    LAST,
    NAME,
    Columns,
    Names,
    changed,
    choosing,
    labelled,
    listed,
    made,
    read,
    remove_named,
    renamed,
    renaming,
    show_one,
    show_rows,
)
from unkai_cli.commands.settling import Waiting, settling
from unkai_cli.commands.targets import port_id_of
from unkai_cli.groups import Group
from unkai_cli.output import Column
from unkai_wire.errors import FailedPrecondition, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def _columns(names: Names) -> Columns:
    return (
        NAME,
        Column("ADDRESS", lambda r: r["address"]),
        Column("INSTANCE", lambda r: names.of("instance", r["instance_id"])),
        Column("PORT", lambda r: names.of("port", r["port_id"])),
        Column("FIXED", lambda r: r["fixed_address"]),
        *LAST,
        Column("NETWORK", lambda r: names.of("network", r["network_id"]), wide=True),
        Column("ROUTER", lambda r: names.of("router", r["router_id"]), wide=True),
    )


@click.group(cls=Group)
def floating_ip() -> None:
    """Floating addresses: reached from outside, moved between instances."""


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return complete_names("floating_ip")(ctx, param, incomplete)


def _addressed(**settings: Any) -> Callable[[F], F]:
    """Return the argument that names floating addresses, by name, id or address."""
    more = "..." if settings.get("nargs") == -1 else ""
    return click.argument(
        "floating_ip", metavar=f"FLOATING-IP{more}", shell_complete=_complete, **settings
    )


_TARGET = click.argument(
    "target",
    metavar="INSTANCE|PORT|LOAD-BALANCER",
    shell_complete=complete_names("instance", "load_balancer", "port"),
)
_FIXED = click.option(
    "--fixed-ip", "fixed", type=ADDRESS, default=None, help="Which of the target's addresses."
)


def _resolved(session: Session, text: str) -> str:
    """Return the id that a name, an address, an id or its beginning stands for."""
    if not is_address(text):
        return session.client.resolve("floating_ip", text)
    wanted = address(text)
    for message in session.client.pages("FloatingIpService", "ListFloatingIps"):
        if message.address == wanted:
            return str(message.id)
    raise NotFound.of("floating_ip", wanted)


def find(session: Session, text: str) -> Any:
    """Return the floating address that a name, an address or an id stands for."""
    return read(session, "floating_ip", _resolved(session, text))


def _all_resolved(session: Session, texts: Iterable[str]) -> dict[str, str]:
    """Return the texts by the ids they stand for."""
    idents: dict[str, str] = {}
    for text in texts:
        idents.setdefault(_resolved(session, text), text)
    return idents


@floating_ip.command("list")
@click.option(
    "--instance", help="Only those to this instance.", shell_complete=complete_names("instance")
)
@choosing
@listing
@common
def list_floating_ips(
    session: Session,
    *,
    instance: str | None,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List floating addresses."""
    session.all_projects = all_projects
    instance_id = session.client.resolve("instance", instance) if instance else ""
    listed(
        session,
        "floating_ip",
        _columns(Names(session, many=True)),
        labels=labels,
        limit=limit,
        watch=watch,
        filters={"instance_id": instance_id},
        matches=lambda row: instance_id in ("", row["instance_id"]),
    )


@floating_ip.command("show")
@_addressed()
@common
def show(session: Session, floating_ip: str) -> None:
    """Show one floating address with all its fields."""
    show_one(session, (*_columns(Names(session)), *ALONE), find(session, floating_ip))


@floating_ip.command("create")
@click.argument("name", default="")
@click.option(
    "--network",
    help="External network it is of; the only one unless given.",
    shell_complete=complete_names("network"),
)
@click.option("--address", "wanted_address", type=ADDRESS, default=None, help="This very address.")
@click.option(
    "--to",
    "target",
    help="Instance, port or load balancer it leads to.",
    shell_complete=complete_names("instance", "load_balancer", "port"),
)
@_FIXED
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    network: str | None,
    wanted_address: str | None,
    target: str | None,
    fixed: str | None,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Take a floating address; without a NAME it gets one.

    \b
    unkai floating-ip create --to web
    unkai floating-ip create shop --network outside --address 192.0.2.10
    """
    from unkai.network.v1 import floating_ip_pb2

    if fixed and not target:
        raise click.UsageError("say --to with --fixed-ip")
    client = session.client
    wanted = floating_ip_pb2.FloatingIp(
        name=name,
        network_id=client.resolve("network", network) if network else "",
        address=wanted_address or "",
        port_id=port_id_of(session, target, address=fixed or "") if target else "",
        fixed_address=fixed or "",
        labels=dict(labels),
    )
    new = made(session, "floating_ip", wanted, Waiting(wait, timeout))
    show_rows(session, _columns(Names(session)), new)


def _lead(session: Session, now: Any, target: str, fixed: str | None, waiting: Waiting) -> None:
    """Lead a floating address to a target and print it."""
    port_id = port_id_of(session, target, address=fixed or "")
    new = changed(session, "floating_ip", now, waiting, port_id=port_id, fixed_address=fixed or "")
    show_rows(session, _columns(Names(session)), new)


@floating_ip.command("associate")
@_addressed()
@_TARGET
@_FIXED
@settling
@common
def associate(
    session: Session,
    *,
    floating_ip: str,
    target: str,
    fixed: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Lead a free floating address to a target.

    \b
    unkai floating-ip associate 192.0.2.10 web
    """
    now = find(session, floating_ip)
    if now.port_id:
        raise FailedPrecondition(
            f"floating ip {now.address} leads to port {now.port_id} already",
            reason="FLOATING_IP_IN_USE",
            fix=f"take it from there with 'unkai floating-ip move {now.address} {target}'",
            metadata={"floating_ip_id": now.id, "port_id": now.port_id},
        )
    _lead(session, now, target, fixed, Waiting(wait, timeout))


@floating_ip.command("move")
@_addressed()
@_TARGET
@_FIXED
@settling
@common
def move(
    session: Session,
    *,
    floating_ip: str,
    target: str,
    fixed: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Lead a floating address to another target.

    \b
    unkai floating-ip move 192.0.2.10 web-2 --wait
    """
    _lead(session, find(session, floating_ip), target, fixed, Waiting(wait, timeout))


@floating_ip.command("disassociate")
@_addressed(nargs=-1, required=True)
@settling
@common
def disassociate(
    session: Session, floating_ip: tuple[str, ...], wait: bool, timeout: float
) -> None:
    """Lead floating addresses nowhere; they stay yours."""
    waiting = Waiting(wait, timeout)
    done, refusals = attempted(
        _all_resolved(session, floating_ip),
        lambda ident: changed(
            session,
            "floating_ip",
            read(session, "floating_ip", ident),
            waiting,
            port_id="",
            fixed_address="",
        ),
    )
    if done:
        show_rows(session, _columns(Names(session)), *done)
    raise_first(refusals)


@floating_ip.command("update")
@_addressed()
@renaming
@common
def update(
    session: Session,
    *,
    floating_ip: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
) -> None:
    """Change a floating address's name or labels."""
    now = find(session, floating_ip)
    fields = renamed(now, new_name, labels, removed)
    new = changed(session, "floating_ip", now, Waiting(False, 0.0), **fields)
    show_rows(session, _columns(Names(session)), new)


@floating_ip.command("delete")
@_addressed(nargs=-1, required=True)
@common
def delete(session: Session, floating_ip: tuple[str, ...]) -> None:
    """Give floating addresses back."""
    remove_named(session, "floating_ip", _all_resolved(session, floating_ip))

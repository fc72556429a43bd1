"""`unkai port …`: where instances are plugged into networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.acting import attempted, awaited, confirmed, raise_first, resolved
from unkai_cli.commands.addresses import MAC, PAIR, RATE, is_address, rate_text
from unkai_cli.commands.options import common, complete_names, listing, named, waiting
from unkai_cli.commands.resources import (
    ALONE,
    LAST,
    NAME,
    Columns,
    Names,
    changed,
    choosing,
    found,
    labelled,
    listed,
    made,
    read,
    removed_all,
    renamed,
    renaming,
    show_one,
    show_rows,
)
from unkai_cli.commands.settling import Waiting, settling
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record
from unkai_wire import ids

if TYPE_CHECKING:
    from unkai_cli.session import Session

_OWNERS = {
    "INSTANCE": "instance",
    "ROUTER": "router",
    "GATEWAY": "router",
    "LOAD_BALANCER": "load_balancer",
    "FLOATING_IP": "floating_ip",
}
_LIMITS = ("egress", "ingress")


def owner_text(names: Names, row: Record) -> str:
    """Return what is plugged in: `instance web`."""
    kind = _OWNERS.get(row["owner"], "")
    if not kind:
        return ""
    if ids.is_id("subnet", row["owner_id"]):  # load balancers' health checks come from there
        return f"health checks {names.of('subnet', row['owner_id'])}"
    return f"{row['owner'].lower().replace('_', ' ')} {names.of(kind, row['owner_id'])}"


def _columns(names: Names) -> Columns:
    return (
        NAME,
        Column("NETWORK", lambda r: names.of("network", r["network_id"])),
        Column("ADDRESSES", lambda r: ",".join(e["address"] for e in r["fixed_addresses"])),
        Column("STATE", lambda r: r["state"]),
        Column("OWNER", lambda r: owner_text(names, r)),
        *LAST,
        Column("MAC", lambda r: r["mac_address"], wide=True),
        Column("GROUPS", lambda r: _groups(names, r), wide=True),
    )


def _details(names: Names) -> Columns:
    return (
        *_columns(names),
        Column(
            "ALLOWED",
            lambda r: ", ".join(
                e["cidr"] + (f"={e['mac_address']}" if e["mac_address"] else "")
                for e in r["allowed_address_pairs"]
            ),
        ),
        Column("ANTI-SPOOFING", lambda r: "off" if r["no_anti_spoofing"] else "on"),
        Column("LIMITS", lambda r: _limits(r["qos"])),
        *ALONE,
    )


def _groups(names: Names, row: Record) -> str:
    if row["no_anti_spoofing"]:
        return "none: all passes"
    if row["no_security_groups"]:
        return "none: nothing passes"
    return ",".join(names.of("security_group", ident) for ident in row["security_group_ids"])


def _limits(qos: Record | None) -> str:
    return ", ".join(
        f"{way} {rate_text(qos[f'{way}_bits_per_s'])}"
        for way in _LIMITS
        if qos and qos[f"{way}_bits_per_s"]
    )


@click.group(cls=Group)
def port() -> None:
    """Ports: where instances, routers and load balancers are plugged into networks."""


@port.command("list")
@click.option("--network", help="Only on this network.", shell_complete=complete_names("network"))
@click.option(
    "--instance", help="Only of this instance.", shell_complete=complete_names("instance")
)
@click.option("--router", help="Only of this router.", shell_complete=complete_names("router"))
@click.option(
    "--security-group",
    help="Only those in this group.",
    shell_complete=complete_names("security_group"),
)
@choosing
@listing
@common
def list_ports(
    session: Session,
    *,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
    **only: str | None,
) -> None:
    """List ports."""
    session.all_projects = all_projects
    if only["instance"] and only["router"]:
        raise click.UsageError("say --instance or --router, not both")
    wanted = {
        kind: session.client.resolve(kind, name or "")
        for kind, name in only.items()
        if name is not None
    }
    network_id = wanted.get("network", "")
    owner_id = wanted.get("instance") or wanted.get("router") or ""
    group_id = wanted.get("security_group", "")
    listed(
        session,
        "port",
        _columns(Names(session, many=True)),
        labels=labels,
        limit=limit,
        watch=watch,
        filters={"network_id": network_id, "owner_id": owner_id, "security_group_id": group_id},
        matches=lambda row: (
            network_id in ("", row["network_id"])
            and owner_id in ("", row["owner_id"])
            and (not group_id or group_id in row["security_group_ids"])
        ),
    )


@port.command("show")
@named("port")
@common
def show(session: Session, port: str) -> None:
    """Show one port with all its fields."""
    show_one(session, _details(Names(session)), found(session, "port", port))


def _guarded(function: Any) -> Any:
    """Add the options of what may pass."""
    for option in (
        click.option("--ingress-limit", type=RATE, help="Most to it: 100M, 1G; 0 for no limit."),
        click.option("--egress-limit", type=RATE, help="Most from it: 100M, 1G; 0 for no limit."),
        click.option(
            "--allow",
            "pairs",
            type=PAIR,
            multiple=True,
            help="What may come from it too, CIDR or CIDR=MAC; repeatable.",
        ),
        click.option("--no-security-groups", is_flag=True, help="In no group: nothing passes."),
        click.option(
            "--security-group",
            "groups",
            multiple=True,
            help="Put it in this group; repeatable.",
            shell_complete=complete_names("security_group"),
        ),
        click.option(
            "--ip",
            "places",
            multiple=True,
            metavar="ADDRESS|SUBNET",
            help="Address, or a subnet to take one of; repeatable.",
            shell_complete=complete_names("subnet"),
        ),
    ):
        function = option(function)
    return function


def _fields(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the contract's fields that the options of `_guarded` say."""
    if asked["groups"] and asked["no_security_groups"]:
        raise click.UsageError("say --security-group or --no-security-groups, not both")
    fields: dict[str, Any] = {}
    if asked["places"]:
        fields["fixed_addresses"] = [_fixed(session, place) for place in asked["places"]]
    if asked["groups"]:
        client = session.client
        fields["security_group_ids"] = [
            client.resolve("security_group", name) for name in asked["groups"]
        ]
        fields["no_security_groups"] = False
    if asked["no_security_groups"]:
        fields |= {"security_group_ids": [], "no_security_groups": True}
    if asked["pairs"]:
        fields["allowed_address_pairs"] = _pairs(asked["pairs"])
    return fields


def _fixed(session: Session, place: str) -> Any:
    from unkai.network.v1 import port_pb2

    if is_address(place):
        return port_pb2.FixedAddress(address=place)
    return port_pb2.FixedAddress(subnet_id=session.client.resolve("subnet", place))


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    from unkai.network.v1 import port_pb2

    return [port_pb2.AddressPair(cidr=cidr, mac_address=mac) for cidr, mac in pairs]


def _qos(asked: dict[str, Any], now: Any = None) -> dict[str, Any]:
    """Return the field of limits; those not given stay as they are."""
    from unkai.network.v1 import port_pb2

    given = {way: asked[f"{way}_limit"] for way in _LIMITS if asked[f"{way}_limit"] is not None}
    if not given:
        return {}
    qos = port_pb2.Port.Qos()
    if now is not None:
        qos.CopyFrom(now.qos)
    for way, bits in given.items():
        setattr(qos, f"{way}_bits_per_s", bits)
        setattr(qos, f"{way}_burst_bits", 0)
    return {"qos": qos}


@port.command("create")
@click.argument("name", default="")
@click.option(
    "--network", required=True, help="Network it is on.", shell_complete=complete_names("network")
)
@_guarded
@click.option("--mac", type=MAC, default=None, help="MAC address; one is made unless given.")
@click.option("--no-anti-spoofing", is_flag=True, help="Let it send from any address.")
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    network: str,
    mac: str | None,
    no_anti_spoofing: bool,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
    **asked: Any,
) -> None:
    """Make a port NAME; without a NAME it gets one.

    \b
    unkai port create db-front --network back --ip 10.1.0.20 --security-group db
    unkai port create --network back --ip back-6 --egress-limit 100M
    """
    from unkai.network.v1 import port_pb2

    wanted = port_pb2.Port(
        name=name,
        network_id=session.client.resolve("network", network),
        mac_address=mac or "",
        no_anti_spoofing=no_anti_spoofing,
        labels=dict(labels),
        **_fields(session, asked),
        **_qos(asked),
    )
    new = made(session, "port", wanted, Waiting(wait, timeout))
    show_rows(session, _columns(Names(session)), new)


@port.command("update")
@named("port")
@renaming
@_guarded
@click.option("--no-allow", is_flag=True, help="Let nothing but its own addresses come from it.")
@click.option("--anti-spoofing/--no-anti-spoofing", default=None, help="Check what it sends.")
@settling
@common
def update(
    session: Session,
    *,
    port: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    no_allow: bool,
    anti_spoofing: bool | None,
    wait: bool,
    timeout: float,
    **asked: Any,
) -> None:
    """Change a port.

    Addresses, groups and what is allowed replace all there were.
    """
    if no_allow and asked["pairs"]:
        raise click.UsageError("say --allow or --no-allow, not both")
    now = found(session, "port", port)
    fields = renamed(now, new_name, labels, removed) | _fields(session, asked) | _qos(asked, now)
    if no_allow:
        fields["allowed_address_pairs"] = []
    if anti_spoofing is not None:
        fields["no_anti_spoofing"] = not anti_spoofing
    new = changed(session, "port", now, Waiting(wait, timeout), **fields)
    show_rows(session, _columns(Names(session)), new)


@port.command("attach")
@named("port")
@named("instance")
@waiting
@common
def attach(session: Session, port: str, instance: str, wait: bool, timeout: float) -> None:
    """Plug a port into an instance, running or not."""
    client = session.client
    answer = client.call(
        "PortService",
        "AttachPort",
        port_id=client.resolve("port", port),
        instance_id=client.resolve("instance", instance),
    )
    confirmed(session, answer.operation, wait=wait, timeout=timeout)
    shown = read(session, "port", answer.port.id) if wait else answer.port
    show_rows(session, _columns(Names(session)), shown)


@port.command("detach")
@named("port", nargs=-1, required=True)
@waiting
@common
def detach(session: Session, port: tuple[str, ...], wait: bool, timeout: float) -> None:
    """Take ports out of their instances; the ports stay."""
    answers, refusals = attempted(
        resolved(session, "port", port),
        lambda ident: session.client.call("PortService", "DetachPort", port_id=ident),
    )
    good, failures = awaited(session, [a.operation for a in answers], wait=wait, timeout=timeout)
    done = [answer.port for answer in answers if answer.operation.id in good]
    if done:
        shown = [read(session, "port", each.id) if wait else each for each in done]
        show_rows(session, _columns(Names(session)), *shown)
    raise_first([*refusals, *failures])


@port.command("delete")
@named("port", nargs=-1, required=True)
@common
def delete(session: Session, port: tuple[str, ...]) -> None:
    """Remove ports; an instance's is taken out of it first."""
    removed_all(session, "port", port)

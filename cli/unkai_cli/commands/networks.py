"""`unkai network …`: virtual networks.

How they are drawn: `topologies.py`; why one end reaches another: `reachability.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.addresses import ADDRESS, CIDR, ENDPOINT, Endpoint
from unkai_cli.commands.options import Count, common, complete_names, listing, named
from unkai_cli.commands.resources import (
    ALONE,
    LAST,
    NAME,
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
from unkai_cli.commands.settling import Waiting, settled, settling
from unkai_cli.groups import Group
from unkai_cli.output import Column, note
from unkai_wire.errors import UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session


def _use(row: Any) -> str:
    """Return who may use it."""
    marks = ("external", row["external"]), ("shared", row["shared"]), ("default", row["is_default"])
    return ",".join(word for word, holds in marks if holds)


COLUMNS = (
    NAME,
    Column("TYPE", lambda r: r["type"].lower()),
    Column("USE", _use),
    Column("MTU", lambda r: str(r["mtu"] or ""), right=True),
    Column("DOMAIN", lambda r: r["dns_domain"]),
    *LAST,
    Column("PHYSICAL", lambda r: r["physical_network"], wide=True),
    Column("VLAN", lambda r: str(r["vlan_id"] or ""), wide=True, right=True),
)
DETAILS = (*COLUMNS, *ALONE)
_TYPES = {"overlay": 1, "flat": 2, "vlan": 3}


@click.group(cls=Group)
def network() -> None:
    """Networks: what instances' ports are on."""


@network.command("list")
@click.option("--external", is_flag=True, help="Only those that lead outside, of all projects.")
@choosing
@listing
@common
def list_networks(
    session: Session,
    *,
    external: bool,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List networks."""
    session.all_projects = all_projects or external
    listed(
        session,
        "network",
        COLUMNS,
        labels=labels,
        limit=limit,
        watch=watch,
        filters={"external": True} if external else {},
        matches=lambda row: row["external"] or not external,
    )


@network.command("show")
@named("network")
@common
def show(session: Session, network: str) -> None:
    """Show one network with all its fields, and its subnets."""
    now = found(session, "network", network)
    show_one(session, DETAILS, now)
    if session.printer.form in ("table", "wide"):
        session.printer.line()
        _show_subnets(session, now.id)


def _show_subnets(session: Session, network_id: str) -> None:
    from unkai_cli.commands import subnets
    from unkai_cli.commands.resources import Names

    pages = session.client.pages("SubnetService", "ListSubnets", network_id=network_id)
    rows = list(pages)
    if rows:
        columns = [c for c in subnets.columns(Names(session)) if c.title != "NETWORK"]
        show_rows(session, columns, *rows)
    else:
        session.printer.line("no subnets: its ports have no addresses")


@network.command("create")
@click.argument("name")
@click.option(
    "--subnet", "subnets", type=CIDR, multiple=True, help="Make this subnet too; repeatable."
)
@click.option(
    "--type", "kind", type=click.Choice(list(_TYPES)), help="What carries it.  [default: overlay]"
)
@click.option("--physical-network", default="", help="Name the hosts know the operator's by.")
@click.option("--vlan", type=click.IntRange(1, 4094), help="Tag, with --physical-network.")
@click.option("--external", is_flag=True, help="Floating addresses and gateways may be on it.")
@click.option("--shared", is_flag=True, help="Let instances of all projects be on it.")
@click.option("--mtu", type=Count(), help="Bytes of the largest packet; what fits unless given.")
@click.option("--domain", default="", help="Domain of its instances' names.")
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    subnets: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
    **asked: Any,
) -> None:
    """Make a network NAME.

    \b
    unkai network create back --subnet 10.1.0.0/24 --subnet fd00:1::/64
    unkai network create outside --physical-network physnet1 --external --subnet 192.0.2.0/24
    """
    from unkai.network.v1 import network_pb2

    kind = asked["kind"] or _implied(asked["physical_network"], asked["vlan"])
    if (kind == "vlan") != bool(asked["vlan"]) or (kind != "overlay") != bool(
        asked["physical_network"]
    ):
        raise click.UsageError(
            "an overlay network has neither --physical-network nor --vlan, a flat one the first, "
            "a vlan one both"
        )
    wanted = network_pb2.Network(
        name=name,
        labels=dict(labels),
        type=_TYPES[kind],  # type: ignore[arg-type]
        physical_network=asked["physical_network"],
        vlan_id=asked["vlan"] or 0,
        external=asked["external"],
        shared=asked["shared"],
        mtu=asked["mtu"] or 0,
        dns_domain=asked["domain"],
    )
    new = made(session, "network", wanted, Waiting(False, timeout))
    below = [_make_subnet(session, new, cidr, number) for number, cidr in enumerate(subnets, 1)]
    waiting = Waiting(wait, timeout)
    for subnet in below:
        settled(session, "subnet", subnet, waiting)
    show_rows(session, COLUMNS, settled(session, "network", new, waiting))


def _implied(physical_network: str, vlan: int | None) -> str:
    if vlan:
        return "vlan"
    return "flat" if physical_network else "overlay"


def _make_subnet(session: Session, new: Any, cidr: str, number: int) -> Any:
    """Make a subnet of a new network, named as it is; others after the first have a number."""
    from unkai.network.v1 import subnet_pb2

    name = new.name if number == 1 else f"{new.name}-{number}"
    subnet = subnet_pb2.Subnet(name=name, network_id=new.id, cidr=cidr)
    try:
        made_subnet = made(session, "subnet", subnet, Waiting(False, 0.0))
    except UnkaiError:
        note(f"network {new.name} was made, its subnet {cidr} was not")
        raise
    note(f"subnet {name} ({cidr}) made")
    return made_subnet


@network.command("update")
@named("network")
@renaming
@click.option("--mtu", type=click.IntRange(0), help="Bytes of the largest packet; 0: what fits.")
@click.option("--domain", help="Domain of its instances' names.")
@settling
@common
def update(
    session: Session,
    *,
    network: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    mtu: int | None,
    domain: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Change a network's name, labels, MTU or domain."""
    now = found(session, "network", network)
    fields = renamed(now, new_name, labels, removed)
    if mtu is not None:
        fields["mtu"] = mtu
    if domain is not None:
        fields["dns_domain"] = domain
    new = changed(session, "network", now, Waiting(wait, timeout), **fields)
    show_rows(session, COLUMNS, new)


@network.command("delete")
@named("network", nargs=-1, required=True)
@common
def delete(session: Session, network: tuple[str, ...]) -> None:
    """Remove networks that have no ports, and their subnets."""
    removed_all(session, "network", network)


@network.command("topology")
@click.option("--ports/--no-ports", default=True, help="Draw ports too.  [default: ports]")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects.")
@common
def topology(session: Session, ports: bool, all_projects: bool) -> None:
    """Draw what is connected to what, as a tree.

    From outside to inside: external networks, routers, networks, subnets, ports.
    """
    from unkai_cli.commands import topologies

    session.all_projects = all_projects
    topologies.show(session, ports=ports)


@network.command("why")
@click.argument("source", metavar="A", shell_complete=complete_names("instance", "port"))
@click.argument(
    "target",
    metavar="B[:PORT]",
    type=ENDPOINT,
    shell_complete=complete_names("instance", "load_balancer", "floating_ip", "port"),
)
@click.option("--from", "source_address", type=ADDRESS, help="From this address, A's or another.")
@click.option(
    "--network",
    "by_network",
    default="",
    help="External network that A is beyond, where A is external.",
    shell_complete=complete_names("network"),
)
@click.option("-4", "version", flag_value="4", help="To B's IPv4 address.")
@click.option("-6", "version", flag_value="6", help="To B's IPv6 address.")
@click.option("--confirm", is_flag=True, help="Count packets on the real path for some seconds.")
@common
def why(
    session: Session,
    *,
    source: str,
    target: Endpoint,
    source_address: str | None,
    by_network: str,
    version: str | None,
    confirm: bool,
) -> int:
    """Say whether A reaches B, or what stands in the way.

    A is an instance, a port, or external: anywhere outside. B is an instance, load balancer,
    floating address, port, any address, or external, with a TCP port or another protocol's; with
    none it is a ping. Where several kinds have the name, write the kind before it. Exit code 1 says
    that A does not reach B.

    \b
    unkai network why web db:5432
    unkai network why web load-balancer/shop:53/udp
    unkai network why web [fd00::5]:443 --confirm
    unkai network why web external:443
    unkai network why external 192.0.2.10:22
    """
    from unkai_cli.commands import reachability

    return reachability.why(
        session,
        source,
        target,
        source_address=source_address or "",
        network=by_network,
        version=int(version or 0),
        confirm=confirm,
    )

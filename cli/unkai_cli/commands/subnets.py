"""`unkai subnet …`: the addresses of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.addresses import ADDRESS, CIDR, RANGE, ROUTE
from unkai_cli.commands.options import common, complete_names, listing, named
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
    removed_all,
    renamed,
    renaming,
    show_one,
    show_rows,
)
from unkai_cli.commands.settling import Waiting, settling
from unkai_cli.groups import Group
from unkai_cli.output import Column

if TYPE_CHECKING:
    from unkai_cli.session import Session

_MODES = {"slaac": 1, "dhcpv6-stateless": 2, "dhcpv6-stateful": 3}


def columns(names: Names) -> Columns:
    """Return the columns of a list of subnets."""
    return (
        NAME,
        Column("NETWORK", lambda r: names.of("network", r["network_id"])),
        Column("CIDR", lambda r: r["cidr"]),
        Column("GATEWAY", lambda r: r["gateway_address"]),
        Column("USED", _used, right=True),
        *LAST,
        Column("DHCP", lambda r: "no" if r["no_dhcp"] else "yes", wide=True),
        Column("IPV6", lambda r: _mode(r["ipv6_mode"]), wide=True),
        Column("DNS", lambda r: ",".join(r["dns_servers"]), wide=True),
    )


def _details(names: Names) -> Columns:
    return (
        *columns(names),
        Column(
            "RANGES",
            lambda r: ", ".join(f"{e['first']}-{e['last']}" for e in r["allocation_ranges"]),
        ),
        Column(
            "ROUTES",
            lambda r: ", ".join(
                f"{e['destination']} via {e['next_hop']}" for e in r["host_routes"]
            ),
        ),
        *ALONE,
    )


def _used(row: Any) -> str:
    """Return how many addresses are in use, of how many."""
    return f"{row['used_address_count']}/{row['address_count'] or '2^62+'}"


def _mode(word: str) -> str:
    return "" if word == "UNSPECIFIED" else word.lower().replace("_", "-")


@click.group(cls=Group)
def subnet() -> None:
    """Subnets: the addresses of a network, and what guests are told there."""


@subnet.command("list")
@click.option(
    "--network", help="Only those of this network.", shell_complete=complete_names("network")
)
@choosing
@listing
@common
def list_subnets(
    session: Session,
    *,
    network: str | None,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List subnets."""
    session.all_projects = all_projects
    network_id = session.client.resolve("network", network) if network else ""
    # A network named may be another project's: an external one.
    of_network = {"network_id": network_id, "project_id": ""} if network_id else {}
    listed(
        session,
        "subnet",
        columns(Names(session, many=True)),
        labels=labels,
        limit=limit,
        watch=watch,
        filters=of_network,
        matches=lambda row: network_id in ("", row["network_id"]),
    )


@subnet.command("show")
@named("subnet")
@common
def show(session: Session, subnet: str) -> None:
    """Show one subnet with all its fields."""
    show_one(session, _details(Names(session)), found(session, "subnet", subnet))


def _told(function: Any) -> Any:
    """Add the options of what guests are told, and of which addresses they get."""
    for option in (
        click.option(
            "--route",
            "routes",
            type=ROUTE,
            multiple=True,
            help="Route that guests are told, 10.9.0.0/16=10.0.0.7; repeatable.",
        ),
        click.option(
            "--dns", type=ADDRESS, multiple=True, help="Name server guests are told; repeatable."
        ),
        click.option(
            "--range",
            "ranges",
            type=RANGE,
            multiple=True,
            help="Addresses to give out, 10.0.0.10-10.0.0.99; repeatable.",
        ),
    ):
        function = option(function)
    return function


@subnet.command("create")
@click.argument("name")
@click.argument("cidr", type=CIDR)
@click.option(
    "--network", required=True, help="Network it is of.", shell_complete=complete_names("network")
)
@click.option("--gateway", help="Address of the router, or none.  [default: the first address]")
@_told
@click.option("--no-dhcp", is_flag=True, help="Tell guests nothing.")
@click.option("--ipv6-mode", type=click.Choice(list(_MODES)), help="How guests get an address.")
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    cidr: str,
    network: str,
    gateway: str | None,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
    **asked: Any,
) -> None:
    """Make a subnet NAME of the addresses CIDR.

    \b
    unkai subnet create back 10.1.0.0/24 --network back --dns 10.1.0.53
    unkai subnet create back-6 fd00:1::/64 --network back --ipv6-mode slaac
    """
    from unkai.network.v1 import subnet_pb2

    none = (gateway or "").lower() == "none"
    wanted = subnet_pb2.Subnet(
        name=name,
        cidr=cidr,
        network_id=session.client.resolve("network", network),
        gateway_address=ADDRESS.convert(gateway, None, None) if gateway and not none else "",
        no_gateway=none,
        no_dhcp=asked["no_dhcp"],
        ipv6_mode=_MODES.get(asked["ipv6_mode"] or "", 0),  # type: ignore[arg-type]
        labels=dict(labels),
        allocation_ranges=_ranges(asked["ranges"]),
        dns_servers=asked["dns"],
        host_routes=_routes(asked["routes"]),
    )
    new = made(session, "subnet", wanted, Waiting(wait, timeout))
    show_rows(session, columns(Names(session)), new)


def _ranges(ends: Sequence[tuple[str, str]]) -> list[Any]:
    from unkai.network.v1 import subnet_pb2

    return [subnet_pb2.Subnet.Range(first=first, last=last) for first, last in ends]


def _routes(routes: Sequence[tuple[str, str]]) -> list[Any]:
    from unkai.network.v1 import subnet_pb2

    return [subnet_pb2.Subnet.HostRoute(destination=to, next_hop=by) for to, by in routes]


@subnet.command("update")
@named("subnet")
@renaming
@_told
@click.option("--no-ranges", is_flag=True, help="Give out all addresses.")
@click.option("--no-dns", is_flag=True, help="Name none: guests are told the usual ones.")
@click.option("--no-routes", is_flag=True, help="Tell guests no routes.")
@click.option("--dhcp/--no-dhcp", default=None, help="Tell guests their addresses, or nothing.")
@settling
@common
def update(
    session: Session,
    *,
    subnet: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    dhcp: bool | None,
    wait: bool,
    timeout: float,
    **asked: Any,
) -> None:
    """Change a subnet.

    Ranges, name servers and routes that are given replace all there were.
    """
    now = found(session, "subnet", subnet)
    fields = renamed(now, new_name, labels, removed)
    for option, field, messages in (
        ("ranges", "allocation_ranges", _ranges),
        ("dns", "dns_servers", list),
        ("routes", "host_routes", _routes),
    ):
        if asked[option] and asked[f"no_{option}"]:
            raise click.UsageError(f"say new {option} or --no-{option}, not both")
        if asked[option] or asked[f"no_{option}"]:
            fields[field] = messages(asked[option])
    if dhcp is not None:
        fields["no_dhcp"] = not dhcp
    new = changed(session, "subnet", now, Waiting(wait, timeout), **fields)
    show_rows(session, columns(Names(session)), new)


@subnet.command("delete")
@named("subnet", nargs=-1, required=True)
@common
def delete(session: Session, subnet: tuple[str, ...]) -> None:
    """Remove subnets whose addresses nobody uses."""
    removed_all(session, "subnet", subnet)

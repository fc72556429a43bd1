"""`unkai router …`: ways between networks, and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.addresses import ADDRESS, CIDR, ROUTE
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
from unkai_cli.commands.settling import Waiting, settled, settling
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record
from unkai_wire.errors import NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session


def _columns(names: Names) -> Columns:
    return (
        NAME,
        Column("GATEWAY", lambda r: _gateway_text(names, r["gateway"])),
        Column("SNAT", lambda r: _snat(r["gateway"])),
        Column(
            "SUBNETS",
            lambda r: ",".join(names.of("subnet", e["subnet_id"]) for e in r["interfaces"]),
        ),
        Column("HOST", lambda r: (r["gateway"] or {}).get("host_name", "")),
        *LAST,
    )


def _details(names: Names) -> Columns:
    return (
        *_columns(names),
        Column(
            "INTERFACES",
            lambda r: ", ".join(
                f"{names.of('subnet', e['subnet_id'])} {e['address']}" for e in r["interfaces"]
            ),
        ),
        Column(
            "ROUTES",
            lambda r: ", ".join(f"{e['destination']} via {e['next_hop']}" for e in r["routes"]),
        ),
        *ALONE,
    )


def _gateway_text(names: Names, gateway: Record | None) -> str:
    if not gateway:
        return ""
    return " ".join([names.of("network", gateway["network_id"]), *gateway["addresses"]])


def _snat(gateway: Record | None) -> str:
    if not gateway:
        return ""
    return "no" if gateway["no_snat"] else "yes"


@click.group(cls=Group)
def router() -> None:
    """Routers: ways between networks, and out."""


@router.command("list")
@choosing
@listing
@common
def list_routers(
    session: Session,
    *,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List routers."""
    session.all_projects = all_projects
    columns = _columns(Names(session, many=True))
    listed(session, "router", columns, labels=labels, limit=limit, watch=watch)


@router.command("show")
@named("router")
@common
def show(session: Session, router: str) -> None:
    """Show one router with its gateway, interfaces and routes."""
    show_one(session, _details(Names(session)), found(session, "router", router))


def _leading_out(function: Any) -> Any:
    """Add the options of a gateway."""
    for option in (
        click.option("--no-snat", is_flag=True, help="What goes out keeps its own address."),
        click.option(
            "--gateway-ip", "addresses", type=ADDRESS, multiple=True, help="Address there."
        ),
    ):
        function = option(function)
    return function


def _gateway(session: Session, network: str, addresses: Sequence[str], no_snat: bool) -> Any:
    from unkai.network.v1 import router_pb2

    return router_pb2.Router.Gateway(
        network_id=session.client.resolve("network", network),
        addresses=addresses,
        no_snat=no_snat,
    )


def _routes(routes: Sequence[tuple[str, str]]) -> list[Any]:
    from unkai.network.v1 import router_pb2

    return [router_pb2.Router.Route(destination=to, next_hop=by) for to, by in routes]


@router.command("create")
@click.argument("name")
@click.option(
    "--gateway", help="External network it leads to.", shell_complete=complete_names("network")
)
@_leading_out
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    help="Give it a place on this subnet; repeatable.",
    shell_complete=complete_names("subnet"),
)
@click.option("--route", "routes", type=ROUTE, multiple=True, help="10.9.0.0/16=10.0.0.7.")
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    gateway: str | None,
    addresses: tuple[str, ...],
    no_snat: bool,
    subnets: tuple[str, ...],
    routes: tuple[tuple[str, str], ...],
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Make a router NAME.

    \b
    unkai router create edge --gateway outside --subnet back --subnet back-6
    """
    from unkai.network.v1 import router_pb2

    if not gateway and (addresses or no_snat):
        raise click.UsageError("say --gateway NETWORK with --gateway-ip and --no-snat")
    places = [session.client.resolve("subnet", subnet) for subnet in subnets]
    wanted = router_pb2.Router(
        name=name,
        gateway=_gateway(session, gateway, addresses, no_snat) if gateway else None,
        # A next hop lies on a subnet of the router: routes come after those.
        routes=[] if places else _routes(routes),
        labels=dict(labels),
    )
    new = made(session, "router", wanted, Waiting(False, timeout))
    for place in places:
        new = _plugged(session, new.id, place, "")
    if places and routes:
        new = changed(session, "router", new, Waiting(False, timeout), routes=_routes(routes))
    new = settled(session, "router", new, Waiting(wait, timeout))
    show_rows(session, _columns(Names(session)), new)


def _plugged(session: Session, router_id: str, subnet_id: str, address: str) -> Any:
    from unkai.network.v1 import router_pb2

    return session.client.call(
        "RouterService",
        "AddRouterInterface",
        router_id=router_id,
        interface=router_pb2.Router.Interface(subnet_id=subnet_id, address=address),
    ).router


@router.command("update")
@named("router")
@renaming
@settling
@common
def update(
    session: Session,
    *,
    router: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    wait: bool,
    timeout: float,
) -> None:
    """Change a router's name or labels."""
    now = found(session, "router", router)
    _change(session, now, Waiting(wait, timeout), **renamed(now, new_name, labels, removed))


def _change(session: Session, now: Any, waiting: Waiting, **fields: Any) -> None:
    new = changed(session, "router", now, waiting, **fields)
    show_rows(session, _columns(Names(session)), new)


@router.command("add-subnet")
@named("router")
@named("subnet", nargs=-1, required=True)
@click.option("--ip", "address", type=ADDRESS, default=None, help="Its address; the gateway's.")
@settling
@common
def add_subnet(
    session: Session,
    *,
    router: str,
    subnet: tuple[str, ...],
    address: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Join subnets: they reach each other by the router."""
    if address and len(subnet) > 1:
        raise click.UsageError("--ip is for one subnet")
    client = session.client
    ident = client.resolve("router", router)
    places = [client.resolve("subnet", name) for name in subnet]
    for place in places:
        new = _plugged(session, ident, place, address or "")
    new = settled(session, "router", new, Waiting(wait, timeout))
    show_rows(session, _columns(Names(session)), new)


@router.command("remove-subnet")
@named("router")
@named("subnet", nargs=-1, required=True)
@settling
@common
def remove_subnet(
    session: Session, *, router: str, subnet: tuple[str, ...], wait: bool, timeout: float
) -> None:
    """Take a router off subnets."""
    client = session.client
    ident = client.resolve("router", router)
    places = [client.resolve("subnet", name) for name in subnet]
    for place in places:
        new = client.call(
            "RouterService", "RemoveRouterInterface", router_id=ident, subnet_id=place
        ).router
    new = settled(session, "router", new, Waiting(wait, timeout))
    show_rows(session, _columns(Names(session)), new)


@router.command("set-gateway")
@named("router")
@named("network")
@_leading_out
@settling
@common
def set_gateway(
    session: Session,
    *,
    router: str,
    network: str,
    addresses: tuple[str, ...],
    no_snat: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Lead a router out by an external network."""
    now = found(session, "router", router)
    gateway = _gateway(session, network, addresses, no_snat)
    _change(session, now, Waiting(wait, timeout), gateway=gateway)


@router.command("clear-gateway")
@named("router")
@settling
@common
def clear_gateway(session: Session, router: str, wait: bool, timeout: float) -> None:
    """Take a router's way out away."""
    now = found(session, "router", router)
    _change(session, now, Waiting(wait, timeout), gateway=None)


@router.command("add-route")
@named("router")
@click.argument("route", metavar="CIDR=ADDRESS", type=ROUTE)
@settling
@common
def add_route(
    session: Session, router: str, route: tuple[str, str], wait: bool, timeout: float
) -> None:
    """Add a static route, such as 10.9.0.0/16=10.0.0.7."""
    now = found(session, "router", router)
    kept = _kept_routes(now, lambda known: known != route)
    _change(session, now, Waiting(wait, timeout), routes=_routes([*kept, route]))


@router.command("remove-route")
@named("router")
@click.argument("destination", metavar="CIDR", type=CIDR)
@settling
@common
def remove_route(
    session: Session, router: str, destination: str, wait: bool, timeout: float
) -> None:
    """Remove the static routes to CIDR."""
    now = found(session, "router", router)
    kept = _kept_routes(now, lambda known: known[0] != destination)
    if len(kept) == len(now.routes):
        raise NotFound(
            f"router {now.name} has no route to {destination}",
            reason="ROUTE_NOT_FOUND",
            fix=f"see its routes with 'unkai router show {now.name}'",
            metadata={"router_id": now.id, "destination": destination},
        )
    _change(session, now, Waiting(wait, timeout), routes=_routes(kept))


def _kept_routes(now: Any, keep: Any) -> list[tuple[str, str]]:
    known = [(str(each.destination), str(each.next_hop)) for each in now.routes]
    return [each for each in known if keep(each)]


@router.command("delete")
@named("router", nargs=-1, required=True)
@common
def delete(session: Session, router: tuple[str, ...]) -> None:
    """Remove routers and their interfaces."""
    removed_all(session, "router", router)

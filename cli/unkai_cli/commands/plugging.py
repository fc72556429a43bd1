"""How a new instance is plugged in: the options of `launch`, and what they come to.

What is said of addresses and groups holds for the ports that are made; a port that is named has its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unkai_cli.commands.addresses import is_address
from unkai_cli.commands.floating_ips import find
from unkai_cli.commands.options import complete_names
from unkai_cli.commands.resources import changed, made
from unkai_cli.commands.settling import Waiting
from unkai_cli.output import note
from unkai_wire.errors import FailedPrecondition, UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])
NONE, NEW = "none", "new"
SEEDS = {"disk": 1, "metadata": 2}
AT_ONCE = Waiting(False, 0.0)


def plugged(function: F) -> F:
    """Add the options that say how a new instance is plugged in."""
    for option in (
        click.option(
            "--seed", type=click.Choice(list(SEEDS)), help="Where the guest learns who it is."
        ),
        click.option(
            "--floating-ip",
            "floating_ip",
            metavar="new|FLOATING-IP",
            help="Lead a floating address to it: a new one, or this.",
            shell_complete=complete_names("floating_ip"),
        ),
        click.option(
            "--security-group",
            "groups",
            multiple=True,
            help="Group its ports are in; repeatable. The project's default one unless given.",
            shell_complete=complete_names("security_group"),
        ),
        click.option(
            "--ip",
            "places",
            multiple=True,
            metavar="[NETWORK=]ADDRESS|SUBNET",
            help="Address, or a subnet to take one of; repeatable.",
            shell_complete=complete_names("subnet"),
        ),
        click.option(
            "--port",
            "ports",
            multiple=True,
            help="Port that is there and free; repeatable.",
            shell_complete=complete_names("port"),
        ),
        click.option(
            "--network",
            "networks",
            multiple=True,
            metavar="none|NETWORK",
            help="Network it is on; repeatable. The project's default one unless given.",
            shell_complete=complete_names("network"),
        ),
    ):
        function = option(function)
    return function


def fields(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an instance that these options say."""
    networks, ports = asked["networks"], asked["ports"]
    said: dict[str, Any] = {"seed": SEEDS[asked["seed"]]} if asked["seed"] else {}
    if NONE in networks:
        if len(networks) > 1 or ports or asked["places"] or asked["groups"]:
            raise click.UsageError("--network none goes with no other network, port or address")
        if asked["floating_ip"] or asked["seed"] == "metadata":
            raise click.UsageError("--network none: there is nothing to be reached by")
        return {**said, "no_network": True}
    if not (networks or ports or asked["places"] or asked["groups"]):
        return said
    if ports and not networks and (asked["places"] or asked["groups"]):
        raise click.UsageError("a port has its own addresses and groups: see 'unkai port update'")
    names = networks or (() if ports else ("",))
    return {**said, "interfaces": _interfaces(session, names, asked)}


def floating_ip(session: Session, asked: dict[str, Any]) -> Any:
    """Return the floating address asked for, before an instance is made: a new one, or None.

    Raises FailedPrecondition where it is in use, or where there is none to be had.
    """
    wanted = asked["floating_ip"]
    if not wanted:
        return None
    if wanted == NEW:
        from unkai.network.v1 import floating_ip_pb2

        return made(session, "floating_ip", floating_ip_pb2.FloatingIp(), AT_ONCE)
    floating = find(session, wanted)
    if floating.port_id:
        raise FailedPrecondition(
            f"floating ip {floating.address} leads to port {floating.port_id} already",
            reason="FLOATING_IP_IN_USE",
            fix="name another one, or 'new'; 'unkai floating-ip move' takes it from there",
            metadata={"floating_ip_id": floating.id, "port_id": floating.port_id},
        )
    return floating


@contextmanager
def given_back(session: Session, asked: dict[str, Any], floating: Any) -> Iterator[None]:
    """Release a new floating address if what it was made for fails."""
    try:
        yield
    except BaseException:
        if floating is not None and asked["floating_ip"] == NEW:
            try:
                session.client.call(
                    "FloatingIpService", "DeleteFloatingIp", floating_ip_id=floating.id
                )
            except UnkaiError:
                note(f"floating address {floating.address} stays, and leads nowhere")
        raise


def lead(session: Session, floating: Any, instance: Any) -> None:
    """Lead a floating address, if there is one, to a new instance's first port."""
    if floating is None:
        return
    try:
        if not instance.interfaces:
            raise FailedPrecondition(
                f"instance {instance.name} has no port: this cloud has no networks",
                reason="NO_PORT",
                metadata={"instance_id": instance.id},
            )
        port_id = instance.interfaces[0].port_id
        changed(session, "floating_ip", floating, AT_ONCE, port_id=port_id, fixed_address="")
    except UnkaiError:
        note(f"instance {instance.name} is made, but no floating address leads to it")
        raise
    note(f"{floating.address} leads to {instance.name}")


def _interfaces(session: Session, names: Sequence[str], asked: dict[str, Any]) -> list[Any]:
    from unkai.compute.v1 import instance_pb2

    client = session.client
    groups = [client.resolve("security_group", name) for name in asked["groups"]]
    places: dict[str, list[str]] = {name: [] for name in names}
    for text in asked["places"]:
        name, equals, place = text.rpartition("=")
        if not equals and len(names) > 1:
            raise click.UsageError(f"with several networks say which: --ip {names[0]}={text}")
        if equals and name not in places:
            raise click.UsageError(f"--ip {text}: {name} is not among --network")
        places[name if equals else names[0]].append(place)
    interface = instance_pb2.Instance.Interface
    new = [
        interface(
            network_id=client.resolve("network", name) if name else "",
            fixed_addresses=[_fixed(session, place) for place in places[name]],
            security_group_ids=groups,
        )
        for name in names
    ]
    return new + [interface(port_id=client.resolve("port", name)) for name in asked["ports"]]


def _fixed(session: Session, place: str) -> Any:
    from unkai.network.v1 import port_pb2

    if is_address(place):
        return port_pb2.FixedAddress(address=place)
    return port_pb2.FixedAddress(subnet_id=session.client.resolve("subnet", place))

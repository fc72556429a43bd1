"""What a what-if supposes: its options, and the steps they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands import demands
from unkai_cli.commands.demands import POLICIES
from unkai_cli.commands.options import Count, Size, complete_names, complete_zones

if TYPE_CHECKING:
    from unkai_cli.session import Session

_NO_NETWORK = "none"
_PLACED = (
    click.option("--place", type=Count(), help="Suppose so many more instances."),
    click.option("--flavor", help="Their flavor.", shell_complete=complete_names("flavor")),
    click.option("-c", "--vcpus", type=Count(), help="Their virtual CPUs."),
    click.option("-m", "--memory", type=Size(), help="Their memory: 512M, 4GiB."),
    click.option("--disk", type=Size(), help="Their root disk."),
    click.option(
        "--image",
        help="Image whose size their disk has unless said.",
        shell_complete=complete_names("image"),
    ),
    click.option(
        "--network",
        "networks",
        multiple=True,
        metavar="none|NETWORK",
        help="Network they are on; repeatable. The project's default one unless given.",
        shell_complete=complete_names("network"),
    ),
    click.option("--policy", type=click.Choice(list(POLICIES)), help="How hosts are chosen."),
    click.option("--zone", help="Zone of their hosts.", shell_complete=complete_zones),
    click.option(
        "--aggregate", help="Aggregate of their hosts.", shell_complete=complete_names("aggregate")
    ),
    click.option(
        "--group",
        help="Placement group they come into.",
        shell_complete=complete_names("placement_group"),
    ),
    click.option("--trait", "traits", multiple=True, help="Trait their hosts must have."),
    click.option("--prefer-trait", "preferred", multiple=True, help="Trait they should have."),
    click.option("--forbid-trait", "forbidden", multiple=True, help="Trait they must not have."),
)
_LOST = (
    click.option(
        "--lose",
        "lost",
        multiple=True,
        metavar="HOST",
        help="Suppose that this host is lost; repeatable: all at once.",
        shell_complete=complete_names("host"),
    ),
)
_ADDED = (
    click.option("--add", type=Count(), help="Suppose so many more hosts, idle."),
    click.option(
        "--like",
        metavar="HOST",
        help="Host that they are like.",
        shell_complete=complete_names("host"),
    ),
    click.option("--host-cpus", type=Count(), help="Their CPUs."),
    click.option("--host-memory", type=Size(), help="Their memory."),
    click.option("--host-disk", type=Size(), help="Their disk."),
    click.option("--host-zone", help="Their zone.", shell_complete=complete_zones),
    click.option("--host-trait", "host_traits", multiple=True, help="Trait they have."),
)


def supposed(function: Any) -> Any:
    """Add the options that say what is supposed."""
    for option in reversed((*_PLACED, *_LOST, *_ADDED)):
        function = option(function)
    return function


def steps(session: Session, said: dict[str, Any]) -> list[Any]:
    """Return the steps in which what is said is supposed: hosts come, hosts go, instances come."""
    from unkai.host.v1 import simulation_pb2

    step, client = simulation_pb2.SimulationStep, session.client
    found = []
    if hosts := _added(session, said):
        found.append(step(add_hosts=step.AddHosts(**hosts)))
    if said["lost"]:
        ids = [client.resolve("host", name) for name in said["lost"]]
        found.append(step(lose_hosts=step.LoseHosts(host_ids=ids)))
    if instance := _placed(session, said):
        placed = step.PlaceInstances(count=said["place"], instance=instance)
        found.append(step(place_instances=placed))
    return found


def _added(session: Session, said: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of added hosts; empty: none are."""
    figures = {
        "cpus": said["host_cpus"],
        "memory_bytes": said["host_memory"],
        "disk_bytes": said["host_disk"],
        "zone": said["host_zone"],
        "traits": said["host_traits"],
    }
    given = {name: figure for name, figure in figures.items() if figure}
    if not said["add"]:
        if given or said["like"]:
            raise click.UsageError("say how many hosts: --add N")
        return {}
    if said["like"]:
        if given:
            raise click.UsageError("say --like HOST, or the hosts' own figures, not both")
        return {"count": said["add"], "like_host_id": session.client.resolve("host", said["like"])}
    if not (said["host_cpus"] and said["host_memory"] and said["host_disk"]):
        raise click.UsageError(
            "say --like HOST, or all of --host-cpus, --host-memory and --host-disk"
        )
    return {"count": said["add"], **given}


def _placed(session: Session, said: dict[str, Any]) -> Any:
    """Return the instance of which more are supposed; None: none are."""
    from unkai.compute.v1 import instance_pb2

    words = ("flavor", "vcpus", "memory", "disk", "image", "networks", "policy", "zone", "traits")
    if not said["place"]:
        if any(said[word] for word in (*words, "aggregate", "group", "preferred", "forbidden")):
            raise click.UsageError("say how many instances: --place N")
        return None
    demands.check_size(said)
    networks = said["networks"]
    none = _NO_NETWORK in networks
    if none and len(networks) > 1:
        raise click.UsageError("--network none goes with no other network")
    client = session.client
    wanted = instance_pb2.Instance(
        image_id=client.resolve("image", said["image"]) if said["image"] else "",
        **demands.fields(client, said),
        no_network=none,
    )
    for name in () if none else networks:
        wanted.interfaces.add(network_id=client.resolve("network", name))
    return wanted

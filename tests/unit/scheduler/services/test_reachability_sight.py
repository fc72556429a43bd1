"""What OVN sees, and what the store knows of the hosts that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.api import NETWORKING
from tests.support.builders import an_id
from tests.support.reaching import Town, lets_in, lets_out
from tests.support.store import noon, open_store
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.reachability import EXTERNAL, Question, Reachability
from unkai_scheduler.ovn.northbound.names import name_of, router_port_name
from unkai_scheduler.ovn.trace import Binding, Sight
from unkai_scheduler.ovn.trace_fake import FakeTracer
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.reachability import ReachabilityExplained
from unkai_scheduler.services.reachability_scene import Scene
from unkai_scheduler.services.reachability_sight import troubles


def a_town() -> Town:
    """Machine a on h1, b on h2, behind router r, whose gateway h2 carries."""
    town = Town()
    web = town.group("web", lets_in(), lets_out())
    town.machine("a", town.network("front", "10.1.0.0/24"), web)
    town.machine("b", town.networks["front"], web, host=1)
    town.router("r", "front", out=town.outside())
    return town


def silence(town: Town, number: int) -> None:
    town.hosts[number] = silent = replace(town.hosts[number], state=HostState.UNKNOWN)
    for name, (instance, host) in town.instances.items():
        if host.id == silent.id:
            town.instances[name] = (instance, silent)


def trouble(town: Town, number: int, problem: str) -> None:
    town.hosts[number] = replace(town.hosts[number], network_problem=problem)
    for name, (instance, host) in town.instances.items():
        if host.id == town.hosts[number].id:
            town.instances[name] = (instance, town.hosts[number])


def bindings(town: Town) -> dict[str, Binding]:
    of_machines = {
        name_of(town.ports[name].id): Binding(host.id, up=True)
        for name, (_, host) in town.instances.items()
    }
    gateway = f"cr-{router_port_name(town.ports['r-gateway'].id)}"
    return of_machines | {gateway: Binding(town.hosts[1].id, up=True)}


async def explained(folder: Path, town: Town, question: Question) -> Reachability:
    uow = await open_store(folder)
    try:
        await town.plant(uow)
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        tracer = FakeTracer(bindings=bindings(town))
        return await ReachabilityExplained(context, NETWORKING, tracer).explain(question)
    finally:
        await uow.close()


@pytest.mark.parametrize(
    ("silent", "destination", "what"),
    [(1, "b", "has b"), (0, "b", "has a"), (1, EXTERNAL, "carries the gateway of router r")],
)
async def test_a_silent_host_on_the_way_is_named(
    tmp_path: Path, silent: int, destination: str, what: str
) -> None:
    town = a_town()
    silence(town, silent)
    found = await explained(tmp_path, town, town.asked("a", destination))
    assert found.reason == "HOST_SILENT"
    assert f"host {town.hosts[silent].name}, which {what}, is silent" in found.summary
    assert found.fix.endswith(f"'unkai host show {town.hosts[silent].name}'")


async def test_a_switch_that_forwards_nothing_is_named(tmp_path: Path) -> None:
    town = a_town()
    problem = "the host's switch forwards nothing: ovs-vswitchd does not run"
    trouble(town, 1, problem)
    found = await explained(tmp_path, town, town.asked("a", "b"))
    assert found.reason == "SWITCH_DOWN"
    assert problem in found.summary


def test_a_host_that_learns_nothing_new_is_told_beside_the_answer() -> None:
    town = a_town()
    scene = Scene(
        question=town.asked("a", "b"),
        source=town.ports["a"],
        source_address="10.1.0.10",
        destination="10.1.0.11",
        ports={port.id: port for port in town.ports.values()},
        hosts={host.id: host for host in town.hosts},
        target=town.ports["b"],
    )
    sight = Sight(bindings(town))
    assert troubles(scene, sight) == ""
    slow = replace(town.hosts[1], network_problem="ovn-controller does not run")
    scene = replace(scene, hosts={**scene.hosts, slow.id: slow})
    assert troubles(scene, sight) == f"host {slow.name} may lag behind: ovn-controller does not run"

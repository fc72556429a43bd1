"""What `why` says, on a real OVN that the product's own derivation has filled.

There are no hosts: rows say where ports are. Many situations are in one OVN at once, each in a
cloud of its own, also with equal addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.api import NETWORKING
from tests.support.builders import an_id
from tests.support.ovn_central import Central
from tests.support.reach_cases import CASES, Case
from tests.support.store import noon, open_store
from unkai_scheduler.domain.reachability import Hop, Reachability, Verdict
from unkai_scheduler.ovn.northbound.names import name_of, router_port_name
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.trace_process import OvnTracer
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.reachability import ReachabilityExplained

pytestmark = pytest.mark.real
PARTS = 4
"""Each question makes ovn-trace read a whole database, so not all situations are in one."""


class Ovn(NamedTuple):
    """An OVN and the situations in it."""

    central: Central
    cases: dict[str, Case]


def _of_part(part: int) -> list[str]:
    """Return the names of a part of the situations."""
    return list(CASES)[part::PARTS]


def _part_of(name: str) -> int:
    """Return which part a situation is in."""
    return next(part for part in range(PARTS) if name in _of_part(part))


@pytest.fixture(scope="module")
def ovn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ovn]:
    """A running OVN with a part of the situations in it."""
    cases = {name: CASES[name]() for name in _of_part(request.param)}
    central = Central(tmp_path_factory.mktemp("ovn"))
    try:
        central.start()
        asyncio.run(_fill(central, list(cases.values())))
        yield Ovn(central, cases)
    finally:
        central.stop()


async def _fill(central: Central, made: list[Case]) -> None:
    central.chassis(host.id for case in made for host in case.town.hosts)
    await central.apply([case.town.view() for case in made])
    central.bind({port: host for case in made for port, host in _places(case).items()})
    for case in made:
        if case.neighbour:
            _learn(central, router_port_name(case.town.ports["r-gateway"].id))
        for name in case.ill:
            port = name_of(case.town.ports[name].id)
            checked = central.sbctl("--bare", "--columns=_uuid", "find", *_monitor(port)).split()
            assert checked
            central.sbctl("set", "Service_Monitor", *checked, "status=offline")
    central.sync()


def _learn(central: Central, port: str) -> None:
    """Let a router know its neighbour outside, as ovn-controller does when that one answers."""
    where = ("find", "Port_Binding", f"logical_port={port}")
    datapath = central.sbctl("--bare", "--columns=datapath", *where).strip()
    told = (f"logical_port={port}", "ip=192.0.2.1", 'mac="02:00:00:00:ee:01"')
    central.sbctl("create", "MAC_Binding", *told, f"datapath={datapath}")


def _monitor(port: str) -> tuple[str, str]:
    return "Service_Monitor", f"logical_port={port}"


def _places(case: Case) -> dict[str, str]:
    """Return which host has which port."""
    town = case.town
    of_instance = {instance.id: host.id for instance, host in town.instances.values()}
    found = {
        name_of(port.id): of_instance[port.owner_id]
        for name, port in town.ports.items()
        if port.owner_id in of_instance and name not in case.unbound
    }
    for router in town.routers.values():
        if router.gateway and case.has_gateway_host:
            found[f"cr-{router_port_name(router.gateway.port_id)}"] = town.hosts[0].id
    return found


async def explained(
    folder: Path, central: Central, case: Case, counters: Any = None
) -> Reachability:
    """Ask; with counters, to be counted too."""
    uow = await open_store(folder)
    try:
        await case.town.plant(uow)
        tracer = OvnTracer(OvnSettings((central.southbound,)))
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        asked = ReachabilityExplained(context, NETWORKING, tracer, counters)
        return await asked.explain(case.question, confirm=counters is not None)
    finally:
        await uow.close()


@pytest.mark.parametrize(
    ("ovn", "name"),
    [pytest.param(part, name, id=name) for part in range(PARTS) for name in _of_part(part)],
    indirect=["ovn"],
    scope="module",
)
async def test_the_verdict_is_what_the_situation_is(tmp_path: Path, ovn: Ovn, name: str) -> None:
    case = ovn.cases[name]
    found = await explained(tmp_path, ovn.central, case)
    told = f"{found.summary}\n" + "\n".join(hop.message for hop in found.hops) + found.trace
    wanted = Verdict.LEAVES_CLOUD if case.leaves else Verdict.REACHABLE
    assert found.verdict is (Verdict.UNREACHABLE if case.reason else wanted), told
    assert found.reason == case.reason, told
    assert case.fix in found.fix
    assert bool(found.fix) == bool(case.reason and (case.fix or found.fix))
    assert found.hops == () or found.hops[-1].dropped == bool(case.reason)
    assert any(case.said in hop.message for hop in found.hops), told


class Counters:
    """Counts nothing; says what it was asked to count."""

    async def counted(self, hops: Sequence[Hop], host_ids: Iterable[str]) -> tuple[Hop, ...]:
        return tuple(hops)


@pytest.mark.parametrize("ovn", [_part_of("through_router")], indirect=True)
async def test_what_is_counted_passes_first_and_later_packets(tmp_path: Path, ovn: Ovn) -> None:
    case = ovn.cases["through_router"]
    found = await explained(tmp_path, ovn.central, case, Counters())
    way = [hop for hop in found.hops if not hop.answer]
    assert [hop.kind for hop in way] == ["security_group", "router", "security_group", "port"]
    assert [len(set(hop.cookies)) for hop in way] == [2, 1, 2, 1]
    where = f"logical_port={name_of(case.town.ports['b'].id)}"
    uuid = ovn.central.sbctl("--bare", "--columns=_uuid", "find", "Port_Binding", where)
    assert way[-1].cookies == (int(uuid[:8], 16),)

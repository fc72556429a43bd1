"""Story: what `why` says of a situation is what happens to packets that are really sent.

The product's rows in a real OVN, a real switch, guests that are namespaces: each situation is asked
about, then tried. `make test` takes some of them at random, `make acceptance` all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.acceptance import Shows, full_counts, seeded
from tests.support.api import NETWORKING
from tests.support.builders import an_id
from tests.support.ovn_central import write_units
from tests.support.ovn_host import HOST_ID, OvnHost, ovn_host, unavailable_reason
from tests.support.reach_cases import CASES, Case
from tests.support.reach_probes import guests_of, join
from tests.support.reaching import PHYSICAL
from tests.support.store import noon, open_store
from unkai_agent.network.flows import FlowCounters
from unkai_scheduler.domain.reachability import Reachability, Verdict
from unkai_scheduler.ovn.northbound.names import name_of
from unkai_scheduler.ovn.northbound.units import BASE, keys_of, unit_of_key
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Unit
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.trace_process import OvnTracer
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.reachability import ReachabilityExplained

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason()),
]
HEALTH_S = COUNTED_S = 60.0


@pytest.fixture(scope="module")
def host() -> Iterator[OvnHost]:
    """A host with all of OVN around it, joined."""
    with ovn_host() as made:
        join(made)
        yield made


def _view(case: Case) -> View:
    """Return what OVN is told: all machines are on the one host."""
    claims = {instance.id: HOST_ID for instance, _ in case.town.instances.values()}
    hosts = {PHYSICAL: frozenset([HOST_ID])} if case.has_gateway_host else {}
    return replace(case.town.view(), claims=claims, gateway_hosts=hosts)


async def _explained(folder: Path, host: OvnHost, case: Case) -> Reachability:
    uow = await open_store(folder)
    try:
        await case.town.plant(uow)
        tracer = OvnTracer(OvnSettings((host.membership.remotes[0],)))
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        return await ReachabilityExplained(context, NETWORKING, tracer).explain(case.question)
    finally:
        await uow.close()


async def _await_ill(host: OvnHost, case: Case) -> None:
    """Wait until OVN has found out which members do not answer."""
    end = time.monotonic() + HEALTH_S
    for name in case.ill:
        where = ("find", "Service_Monitor", f"logical_port={name_of(case.town.ports[name].id)}")
        while "offline" not in host.sbctl("--bare", "--columns=status", *where):
            assert time.monotonic() < end, host.sbctl("list", "Service_Monitor")
            await asyncio.sleep(0.2)


async def _await_counted(host: OvnHost, found: Reachability) -> None:
    """Wait until the switch says that rules which let the packets through have counted them."""
    cookies = {
        cookie
        for hop in found.hops
        if hop.kind == "security_group" and not hop.answer
        for cookie in hop.cookies
    }
    counters = FlowCounters(host.database)
    end = time.monotonic() + COUNTED_S
    while cookies and not any((await counters.count(cookies)).values()):
        assert time.monotonic() < end, f"nothing counted: {found.hops}"
        await asyncio.sleep(0.2)


async def _said_and_seen(folder: Path, host: OvnHost, case: Case) -> tuple[Reachability, bool]:
    """Return what is said of a situation, and what happens."""
    view = _view(case)
    northbound = host.membership.remotes[0].replace("sb.sock", "nb.sock")
    keys = list(keys_of(view))
    await write_units(northbound, [unit_of_key(view, key) for key in keys])
    try:
        with guests_of(host, case) as guests:
            host.nbctl("--wait=hv", "sync")
            await _await_ill(host, case)
            arrived = await asyncio.to_thread(guests.arrives)
            found = await _explained(folder, host, case)
            if arrived:
                await _await_counted(host, found)
            return found, arrived
    finally:
        await write_units(northbound, [Unit(key) for key in keys if key != BASE])


@pytest.mark.timeout(1800)
async def test_what_is_said_is_what_happens(host: OvnHost, tmp_path: Path, shows: Shows) -> None:
    random = seeded("why")
    names = list(CASES)
    chosen = random.sample(names, len(names) if full_counts() else 3)
    wrong: list[str] = []
    blocked: set[str] = set()
    for name in chosen:
        case = CASES[name]()
        folder = tmp_path / name
        await asyncio.to_thread(folder.mkdir)
        found, arrived = await _said_and_seen(folder, host, case)
        says_so = found.verdict is not Verdict.UNREACHABLE
        print(f"{name}: {found.verdict.value} {found.reason}, packets arrive: {arrived}")
        if found.reason != case.reason or says_so != arrived:
            wrong.append(f"{name}: {found.summary}; packets arrive: {arrived}\n{found.trace}")
        if not says_so:
            blocked.add(name)
    assert not wrong, "\n\n".join(wrong)
    shows(
        "networks 7",
        f"{len(blocked)} causes and {len(chosen) - len(blocked)} allowed situations named as "
        "real probes found them",
    )

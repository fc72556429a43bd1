"""The leader's loop for networks over a served API's store, and a scene with one of everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, cast

from tests.support import network_calls as calls
from tests.support import routing_calls as routing
from tests.support.api import Api
from tests.support.builders import NOON, a_host, an_id
from tests.support.network_api import marked
from unkai.network.v1 import network_pb2
from unkai_scheduler.domain.events import Event
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.port_orders import NETWORKS
from unkai_scheduler.ovn.port import Northbound
from unkai_scheduler.reconcile.hearsay import Hearsay
from unkai_scheduler.reconcile.networks import NetworkLoop
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.settings import ReconcileSettings, Settings
from unkai_scheduler.store import events, hosts

PATIENCE_S = 60.0


@dataclass
class Led:
    """A reign's loop for networks."""

    office: Office
    loop: NetworkLoop
    task: asyncio.Task[None]


@asynccontextmanager
async def leading(
    api: Api,
    northbound: Northbound,
    *,
    term: int | None = None,
    **network: Any,
) -> AsyncIterator[Led]:
    """Run the loop as the leader of a new term, and end it."""
    began_s = time.monotonic()
    office = Office(
        name="s1",
        term=await api.uow.take_term(0) if term is None else term,
        uow=api.uow,
        agents=api.agents,
        images=cast("Any", None),
        live=api.live,
        settings=Settings(
            network=api.settings.network.model_copy(update=network),
            reconcile=ReconcileSettings(resync_s=0.05),
        ),
        clock=lambda: NOON + timedelta(seconds=time.monotonic() - began_s),
        new_id=an_id,
        hearsay=Hearsay(time.monotonic),
    )
    loop = NetworkLoop(office, northbound)
    task = asyncio.create_task(loop.run(), name="networks")
    try:
        yield Led(office, loop, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True)
class Scene:
    """Ids of one of everything, all made through the API."""

    outside: str
    network: str
    subnets: Sequence[str]
    ports: Sequence[str]
    group: str
    router: str
    floating_ip: str
    load_balancer: str

    @property
    def keys(self) -> set[str]:
        """Return the keys of its units that have rows; a subnet of SLAAC has none."""
        return {
            "cloud:base",
            *(f"network:{ident}" for ident in (self.outside, self.network)),
            *(f"subnet:{ident}" for ident in self.subnets[:2]),
            *(f"port:{ident}" for ident in self.ports),
            f"security_group:{self.group}",
            f"router:{self.router}",
            f"floating_ip:{self.floating_ip}",
            f"load_balancer:{self.load_balancer}",
        }


async def gateway_hosts(api: Api, number: int) -> list[Host]:
    """Insert hosts that reach the physical network."""
    made = [a_host(features=(NETWORKS,), physical_networks=("public",)) for _ in range(number)]
    for host in made:
        await api.uow.write(partial(hosts.insert, row=host))
    return made


async def a_scene(api: Api) -> Scene:
    """Make an external network, and one of everything behind a router to it."""
    await gateway_hosts(api, 2)
    flat = network_pb2.Network.TYPE_FLAT
    outside = await calls.a_network(
        api, "outside", external=True, type=flat, physical_network="public"
    )
    beyond = await calls.a_subnet(api, outside.id, "203.0.113.0/24")
    network = await calls.a_network(api, "blue")
    four = await calls.a_subnet(api, network.id, "10.0.0.0/24")
    six = await calls.a_subnet(api, network.id, "fd00:1::/64")
    group = await calls.a_group(api, "web", rules=[calls.a_rule()])
    ports = [
        (await calls.a_port(api, network.id, security_group_ids=[group.id])).id for _ in range(2)
    ]
    router = await routing.a_way_out(api, outside.id, four.id, six.id)
    floating = await routing.a_floating_ip(api, port_id=ports[0])
    balancer = await routing.a_load_balancer(api, four.id, *ports)
    return Scene(
        outside=outside.id,
        network=network.id,
        subnets=(beyond.id, four.id, six.id),
        ports=ports,
        group=group.id,
        router=router.id,
        floating_ip=floating.id,
        load_balancer=balancer.id,
    )


async def until(true: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds; what is asked may be awaitable."""
    async with asyncio.timeout(patience_s):
        while True:
            answer = true()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)


async def until_settled(api: Api) -> None:
    """Wait until OVN has everything."""

    async def nothing_is_left() -> bool:
        return not await marked(api)

    await until(nothing_is_left)


async def repairs(api: Api) -> list[Event]:
    """Return the events that say what of OVN was mended."""
    await api.uow.write(lambda conn: events.stamp(conn, 1000))
    found = await api.uow.read(lambda conn: events.list_page(conn, after=None, limit=1000))
    return [event for event in found if event.reason == "OVN_REPAIRED"]

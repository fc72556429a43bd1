"""What a real southbound database shows: who has a port, gateways' hosts, members' health."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ovn.test_network_loop import Cloud, a_cloud, led
from tests.support.builders import a_claim, a_host
from tests.support.network_loop import Scene, a_scene, until, until_settled
from tests.support.ovn import program
from unkai.network.v1 import (
    load_balancer_pb2,
    load_balancer_service_pb2,
    router_service_pb2,
)
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.southbound import OvnSouthbound
from unkai_scheduler.reconcile.misplaced_ports import MisplacedPorts
from unkai_scheduler.store import claims, hosts, instances
from unkai_wire.ids import uuid_of

pytestmark = pytest.mark.real
Member = load_balancer_pb2.LoadBalancer.Member


class Seen:
    """A cloud whose southbound database is read."""

    def __init__(self, cloud: Cloud, south: OvnSouthbound, states: MisplacedPorts) -> None:
        self.cloud, self.api = cloud, cloud.api
        self.south = south
        self.states = states

    def sbctl(self, *words: str) -> str:
        command = (program("ovn-sbctl"), f"--db={self.cloud.central.south_remote}", *words)
        done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
        return done.stdout.strip()

    async def host(self) -> Host:
        """Return a host of the scene that has joined OVN."""
        host = (await self.api.uow.read(hosts.list_all))[0]
        chassis = ("chassis-add", host.id, "geneve", "192.0.2.1")
        await asyncio.to_thread(
            self.sbctl, *chassis, "--", "set", "Chassis", host.id, f"hostname={host.name}"
        )
        return host


@asynccontextmanager
async def seeing(folder: Path) -> AsyncIterator[tuple[Seen, Scene]]:
    async with a_cloud(folder) as cloud, led(cloud) as reign:
        scene = await a_scene(cloud.api)
        await until_settled(cloud.api)
        south = OvnSouthbound(OvnSettings((cloud.central.south_remote,)))
        south.start()
        states = MisplacedPorts(reign.office, south)
        task = asyncio.create_task(states.run())
        try:
            cloud.api.services.sight.chassis = south.sight.chassis
            cloud.api.services.sight.bindings = south.sight.bindings
            cloud.api.services.sight.services = south.sight.services
            cloud.api.services.sight._bound = south.sight._bound
            yield Seen(cloud, south, states), scene
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await south.close()


async def test_where_a_port_is_stays_known_while_the_database_is_away_and_is_read_anew_after(
    tmp_path: Path,
) -> None:
    async with seeing(tmp_path) as (seen, scene):
        host, port = await seen.host(), str(uuid_of(scene.ports[0]))
        await asyncio.to_thread(seen.sbctl, "lsp-bind", port, host.id)
        await until(lambda: seen.south.sight.chassis_of(port))
        assert seen.south.sight.chassis_of(port) == (host.id, host.name)
        await asyncio.to_thread(seen.cloud.central.kill, "ovsdb-server")
        await until(lambda: seen.south.trouble)
        assert seen.south.sight.chassis_of(port)
        await asyncio.to_thread(seen.cloud.central.start_south)
        await asyncio.to_thread(seen.sbctl, "lsp-unbind", port)
        await until(lambda: not seen.south.sight.chassis_of(port))


async def test_a_port_that_another_host_has_than_its_instances_is_a_finding(
    tmp_path: Path,
) -> None:
    async with seeing(tmp_path) as (seen, scene):
        host, port = await seen.host(), str(uuid_of(scene.ports[0]))
        made = await seen.api.create(interfaces=[{"port_id": scene.ports[0]}])
        other = a_host()

        def work(conn: Any) -> None:
            row = instances.get(conn, made.instance.id)
            assert row is not None
            hosts.insert(conn, other)
            claims.insert(conn, [a_claim(row, other)])

        await seen.api.uow.write(work)
        await asyncio.to_thread(seen.sbctl, "lsp-bind", port, host.id)
        await until(seen.states.findings)
        (found,) = seen.states.findings()
        assert (found.kind, found.host_id) == (FindingKind.PORT_MISPLACED, host.id)
        assert (found.resource_id, found.instance_id) == (scene.ports[0], made.instance.id)
        await asyncio.to_thread(seen.sbctl, "lsp-unbind", port)
        await until(lambda: not seen.states.findings())


async def test_a_router_says_on_which_host_its_gateway_is(tmp_path: Path) -> None:
    async with seeing(tmp_path) as (seen, scene):
        host = await seen.host()
        asked = router_service_pb2.GetRouterRequest(router_id=scene.router)

        async def host_name() -> str:
            return str((await seen.api.routers.GetRouter(asked)).router.gateway.host_name)

        assert await host_name() == ""
        names = await asyncio.to_thread(seen.sbctl, "--bare", "--columns=logical_port", "list",
                                        "Port_Binding")  # fmt: skip
        (redirect,) = [name for name in names.split() if name.startswith("cr-lrp-")]
        await asyncio.to_thread(seen.sbctl, "lsp-bind", redirect, host.id)

        async def is_said() -> bool:
            return await host_name() == host.name

        await until(is_said)


async def test_a_member_says_whether_it_answers_its_checks(tmp_path: Path) -> None:
    async with seeing(tmp_path) as (seen, scene):
        host, port = await seen.host(), str(uuid_of(scene.ports[0]))
        await seen.api.create(interfaces=[{"port_id": scene.ports[0]}])
        await until_settled(seen.api)
        await asyncio.to_thread(seen.sbctl, "lsp-bind", port, host.id)
        await asyncio.to_thread(seen.sbctl, "set", "Port_Binding", port, "up=true")
        asked = load_balancer_service_pb2.GetLoadBalancerRequest(
            load_balancer_id=scene.load_balancer
        )

        async def health() -> int:
            answer = await seen.api.load_balancers.GetLoadBalancer(asked)
            members = answer.load_balancer.listeners[0].members
            return next(int(m.health) for m in members if m.port_id == scene.ports[0])

        assert await health() == Member.HEALTH_UNSPECIFIED
        find = ("--bare", "--columns=_uuid", "find", "Service_Monitor", f"logical_port={port}")
        await until(lambda: asyncio.to_thread(seen.sbctl, *find))
        row = await asyncio.to_thread(seen.sbctl, *find)
        for status, expected in (("online", Member.HEALTH_UP), ("offline", Member.HEALTH_DOWN)):
            await asyncio.to_thread(seen.sbctl, "set", "Service_Monitor", row, f"status={status}")

            async def is_said(wanted: int = expected) -> bool:
                return await health() == wanted

            await until(is_said)

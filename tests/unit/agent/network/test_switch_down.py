"""A host whose switch is down is up: it says so, and serves machines without ports."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import a_fence, a_spec, an_instance_id
from tests.support.ports import a_port
from tests.support.real_agent import until
from tests.support.served_agent import HOST_ID, a_host_on_fakes
from unkai_agent.api.directory import HostDirectory
from unkai_agent.api.exporter import HostCollector
from unkai_agent.compute.fake import FakeCompute
from unkai_agent.domain.hosts import HostIdentity
from unkai_agent.domain.machines import MachineState
from unkai_agent.host import RunningHost
from unkai_agent.host_networks import make_network_parts
from unkai_agent.network.datapath import datapath_here
from unkai_agent.settings import NetworkSettings, Settings
from unkai_wire.cluster_records import HostRecord


async def test_a_host_whose_switch_is_down_is_up_and_says_so(tmp_path: Path) -> None:
    network = NetworkSettings(
        southbound=("unix:/nowhere/sb.sock",),
        datapath="netdev",
        switch=f"unix:{tmp_path}/none.sock",
    )
    settings = Settings(advertise="10.0.0.3:7444", state_dir=tmp_path, network=network)
    made = await make_network_parts(settings, HostIdentity(HOST_ID, "h1"))
    plain = a_host_on_fakes(tmp_path, HOST_ID, FakeCompute())
    parts = replace(
        plain.parts, network=made.driver, networks=made.networks, membership=made.membership
    )
    told: list[HostRecord] = []
    host = RunningHost(parts, announce=told.append)
    running = asyncio.ensure_future(host.run())
    host.converger.ready()
    with_port = a_spec(2, ports=(a_port(),))
    try:
        await asyncio.sleep(0)
        await host.converger.ensure(a_fence(a_spec()), a_spec())
        await host.converger.ensure(a_fence(with_port), with_port)
        await until(lambda: bool(told) and _is(host, 1, MachineState.RUNNING))
        await until(lambda: host.converger.machine(with_port.instance_id).error is not None)
        collector = HostCollector(HostDirectory({HOST_ID: host.host}), asyncio.get_running_loop())
        families = await asyncio.to_thread(lambda: list(collector.collect()))
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "switch" in told[-1].network_problem
    figures = {sample.name: sample.value for family in families for sample in family.samples}
    assert figures["unkai_host_switch_joined"] == 0
    error = host.converger.machine(with_port.instance_id).error
    assert error is not None
    assert error["reason"] in ("SWITCH_UNAVAILABLE", "SWITCH_MISSING")


def _is(host: RunningHost, number: int, state: MachineState) -> bool:
    return host.converger.machine(an_instance_id(number)).state is state


def test_a_kernel_that_lets_nobody_ask_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise OSError("Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refused)
    assert datapath_here()

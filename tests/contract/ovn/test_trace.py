"""What every tracer does: the fake, and the real one over OVN's own programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.ovn_central import Central
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.ovn.trace import Binding, Tracer, Tracking
from unkai_scheduler.ovn.trace_fake import FakeTracer
from unkai_scheduler.ovn.trace_process import MAX_PROCESSES, OvnTracer
from unkai_wire.errors import Unavailable

PING = (
    'inport == "p1" && eth.src == 02:00:00:00:00:01 && eth.dst == 02:00:00:00:00:02 && '
    "ip4.src == 10.0.0.1 && ip4.dst == 10.0.0.2 && ip.ttl == 64 && icmp4 && icmp4.type == 8"
)
UNKNOWN = PING.replace("p1", "p9")


class World(NamedTuple):
    """A tracer of a network with the ports p1, on a host, and p2, on none."""

    tracer: Tracer
    silent: Tracer
    """One whose database is not there."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        said = '# icmp\n\negress(dp="d")\n---------------\n    /* output to "p2", type "" */\n'
        fake = FakeTracer(
            {(PING, tracking): said for tracking in Tracking},
            {"p1": Binding("h1", True, 7), "p2": Binding("", False, 8)},
        )
        yield World(fake, FakeTracer(reachable=False))
        return
    central = Central(tmp_path)
    try:
        await asyncio.to_thread(_two_ports, central)
        yield World(
            OvnTracer(OvnSettings((central.southbound,))),
            OvnTracer(OvnSettings((f"unix:{tmp_path / 'none.sock'}",))),
        )
    finally:
        central.stop()


def _two_ports(central: Central) -> None:
    central.start()
    central.chassis(["h1"])
    central.nbctl("ls-add", "n")
    for number in (1, 2):
        central.nbctl("lsp-add", "n", f"p{number}")
        central.nbctl("lsp-set-addresses", f"p{number}", f"02:00:00:00:00:0{number}")
    central.sync()
    central.bind({"p1": "h1"})
    central.sync()


async def test_a_packet_is_traced(world: World) -> None:
    for tracking in Tracking:
        output = await world.tracer.trace(PING, tracking)
        assert output.startswith("# icmp")
        assert 'output to "p2"' in output


@pytest.mark.parametrize("flow", [UNKNOWN, "nonsense", PING + " && ip4.src == 10.0.0.7"])
async def test_what_cannot_be_traced_is_no_answer(world: World, flow: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await world.tracer.trace(flow, Tracking.NEW)
    assert caught.value.reason == "OVN_UNREACHABLE"
    assert caught.value.metadata["why"]


async def test_ports_are_where_they_are(world: World) -> None:
    sight = await world.tracer.look(["p1", "p2", "p9"])
    first, second = sight.bindings["p1"], sight.bindings["p2"]
    assert (first.host, first.up) == ("h1", True)
    assert second.host == ""
    assert 0 < first.cookie != second.cookie > 0
    assert "p9" not in sight.bindings
    assert sight.monitors == {}


async def test_a_database_that_is_not_there_is_told(world: World) -> None:
    for question in (world.silent.trace(PING, Tracking.NEW), world.silent.look(["p1"])):
        with pytest.raises(Unavailable) as caught:
            await question
        assert caught.value.reason == "OVN_UNREACHABLE"


def _program(folder: Path, text: str) -> None:
    path = folder / "ovn-trace"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_a_program_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tracer = OvnTracer(OvnSettings(("unix:/none",)), deadline_s=0.5)
    with pytest.raises(Unavailable, match=r"did not end in 0\.5 s"):
        await tracer.trace(PING, Tracking.NEW)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_few_programs_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = tmp_path / "running"
    running.mkdir()
    _program(
        tmp_path,
        f"touch {running}/$$; ls {running} | wc -l >> {tmp_path}/seen; sleep 0.1; "
        f"rm {running}/$$; echo '# icmp'",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tracer = OvnTracer(OvnSettings(("unix:/none",)), deadline_s=60.0)
    await asyncio.gather(*(tracer.trace(PING, Tracking.NEW) for _ in range(6)))
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert len(seen) == 6
    assert max(seen) <= MAX_PROCESSES


async def test_without_the_program_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="cannot be started") as caught:
        await OvnTracer(OvnSettings(("unix:/none",))).trace(PING, Tracking.NEW)
    assert "ovn-common" in caught.value.fix

"""How many packets the switch's flows have counted, by cookie.

OVN gives each OpenFlow flow the first 32 bits of its logical flow's UUID as cookie; one logical
flow may be many. Those of a port have its binding's: of such a cookie the one alone counts that
hands packets to the port, on the host that has it. The switch's main process answers, at a socket
beside the database's; counts are up to half a second old. ovs-ofctl(8), ovn-controller(8),
ovn-architecture(7).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from unkai_agent.domain.ports import INTEGRATION_BRIDGE
from unkai_wire.errors import Unavailable

_DEADLINE_S = 8.0
_FLOW = re.compile(r"\btable=(\d+), .*?\bn_packets=(\d+)\b")
_TO_PORTS = 65
"""The table that hands packets to ports here ("log to physical")."""
_OF_PORTS = frozenset({0, *range(37, 42), 64, _TO_PORTS})
"""Tables between ports, tunnels and pipelines; logical flows are in none of them. OVN 23.03."""


class FlowCounters:
    """Counters of the integration bridge."""

    def __init__(self, switch: str, *, program: str = "ovs-ofctl") -> None:
        """`switch`: where its database is, as `unix:/run/openvswitch/db.sock`."""
        self._program = program
        kind, _, path = switch.partition(":")
        beside = Path(path).parent / f"{INTEGRATION_BRIDGE}.mgmt"
        self._bridge = f"unix:{beside}" if kind == "unix" else INTEGRATION_BRIDGE
        self._turn = asyncio.Lock()

    async def count(self, cookies: Iterable[int]) -> Mapping[int, int]:
        """Return the packets of each cookie that there are flows of.

        Raises `Unavailable` / SWITCH_UNAVAILABLE when the switch does not say in time.
        """
        found: dict[int, int] = {}
        async with self._turn:
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    for cookie in sorted(set(cookies)):
                        count = _count(await self._dump(cookie))
                        if count is not None:
                            found[cookie] = count
            except TimeoutError as error:
                raise _unavailable(f"no answer within {_DEADLINE_S:g} s") from error
        return found

    async def _dump(self, cookie: int) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *(self._program, "-O", "OpenFlow15", "dump-flows", self._bridge),
                f"cookie={cookie:#x}/-1",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise _unavailable(f"{self._program} cannot be started") from error
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            said = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise _unavailable(said[0] if said else "it said nothing")
        return output.decode("utf-8", "replace")


def _count(text: str) -> int | None:
    """Return the packets of some flows; None: there are none."""
    counts = [(int(table), int(packets)) for table, packets in _FLOW.findall(text)]
    if any(table in _OF_PORTS for table, _ in counts):
        counts = [(table, packets) for table, packets in counts if table == _TO_PORTS]
    return sum(packets for _, packets in counts) if counts else None


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"the switch does not say what its flows have counted: {why}",
        reason="SWITCH_UNAVAILABLE",
        fix="see that openvswitch-switch runs on the host",
        metadata={"why": why},
    )

"""`NetworkDriver` over Open vSwitch and the kernel: puts the parts of this folder together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path

import structlog

from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.device_counters import counters
from unkai_agent.network.driver import (
    JoinSettings,
    NetworkSite,
    PortCounters,
    SiteIdentity,
    Wiring,
)
from unkai_agent.network.namespaces import Namespaces, device_of
from unkai_agent.network.ovs import Switch
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.switch_programs import Program, see_alive
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.network")


class OvsNetwork:
    """This host's switch and its networks' namespaces."""

    def __init__(
        self,
        database: OvsDatabase | None = None,
        namespaces: Namespaces | None = None,
        devices_file: Path = Path("/proc/net/dev"),
        programs: Sequence[Program] = (),
    ) -> None:
        """`programs`: those that `see_alive` asks."""
        self._switch = Switch(database or OvsDatabase())
        self._namespaces = namespaces or Namespaces()
        self._devices_file = devices_file
        self._programs = tuple(programs)
        self._settling = asyncio.Lock()

    # The port.

    async def join(self, settings: JoinSettings) -> None:
        """Let this host belong to OVN."""
        await self._switch.join(settings)

    async def see_alive(self) -> Sequence[int]:
        """Return the processes of the programs that carry and steer packets."""
        return [await see_alive(program) for program in self._programs]

    async def clear(self, port_ids: Iterable[str]) -> None:
        """Remove what the switch has of ports."""
        await self._switch.clear(port_ids)

    async def wirings(self, ports: Sequence[PortSpec]) -> Mapping[str, Wiring]:
        """Say how ports stand."""
        return await self._switch.wirings(ports)

    async def sweep(self, running: Set[str]) -> Sequence[str]:
        """Remove ports of machines that are gone."""
        return await self._switch.sweep(running)

    async def ensure_sites(self, sites: Sequence[NetworkSite]) -> Mapping[str, UnkaiError]:
        """Have a namespace for each of these networks, and none of others."""
        failed: dict[str, UnkaiError] = {}
        async with self._settling:
            await self._remove_others({site.network_id for site in sites})
            for site in sites:
                try:
                    await self._ensure_site(site)
                except (UnkaiError, OSError) as error:
                    if isinstance(error, UnkaiError) and error.reason == "SWITCH_UNAVAILABLE":
                        raise  # the others' trouble, too: each would wait for as long
                    made = error if isinstance(error, UnkaiError) else internal_error(error)
                    failed[site.network_id] = made
        return failed

    async def _ensure_site(self, site: NetworkSite) -> None:
        device = device_of(site.network_id)
        if await self._namespaces.must_be_made(site.network_id):
            # The switch does not see that a device went and came again by its name.
            await self._switch.unplug_sites([device])
        await self._namespaces.ensure(site)
        await self._switch.plug_site(site, device)

    async def site_identity(self, network_id: str) -> SiteIdentity | None:
        """Tell which namespace a network has now."""
        return self._namespaces.identity(network_id)

    async def open_socket(
        self, network_id: str, make: Callable[[], socket.socket]
    ) -> socket.socket:
        """Make a socket inside a network's namespace."""
        return await self._namespaces.call(network_id, make)

    async def statistics(self) -> Mapping[str, PortCounters]:
        """Return counters by device."""
        return counters(self._devices_file.read_text())

    async def _remove_others(self, wanted: Set[str]) -> None:
        """Remove networks by what the switch and the kernel have of them: either may have more."""
        plugged = await self._switch.plugged_sites()
        await self._switch.unplug_sites(
            device for device, network_id in plugged.items() if network_id not in wanted
        )
        for network_id in sorted({*self._namespaces.found(), *plugged.values()} - wanted):
            try:
                await self._namespaces.remove(network_id)
            except (UnkaiError, OSError) as error:  # it is tried again; others are served
                _LOG.warning("namespace_not_removed", network_id=network_id, error=str(error))

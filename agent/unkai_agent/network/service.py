"""The networks that a host's machines are on, served: the metadata service and names in each.

`hold` is told of all machines and brings about what they need, looking first: it may be called at
any time, and after any failure again. One network's trouble leaves the others served. Below, the
driver makes namespaces; beside, sites answer guests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_interface

import structlog

from unkai_agent.domain.machines import MachineSpec
from unkai_agent.network.driver import NetworkDriver, NetworkSite, sites_of
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import MetadataSite
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.names.server import Forward, NameSite, Rooms
from unkai_agent.network.names.table import NameTables
from unkai_agent.network.namespaces import ADDRESS_V4, ADDRESS_V6
from unkai_agent.network.sockets import listener, packets
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import internal_error

_LOG = structlog.get_logger("unkai.agent.network")
HTTP_PORT = 80
DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class _Served:
    """One network, served."""

    site: NetworkSite
    closing: AsyncExitStack


class HostNetworks:
    """The networks of one host. `hold` and `close` take turns."""

    def __init__(
        self, driver: NetworkDriver, names: NameTables, forward: Forward, tokens: Tokens
    ) -> None:
        """`forward`: asks somebody else for names that are not ours."""
        self.driver = driver
        self.names = names
        self._forward = forward
        self._tokens = tokens
        self._guests = Guests()
        self._rooms = Rooms()
        self._served: dict[str, _Served] = {}
        self._turn = asyncio.Lock()
        self._logged: dict[str, str] = {}

    def are_up(self, network_ids: Collection[str]) -> bool:
        """Tell whether all of these networks are served."""
        return all(network_id in self._served for network_id in network_ids)

    def know(self, machines: Iterable[MachineSpec]) -> None:
        """Answer guests by these machines, whose networks are served already."""
        self._guests.hold(spec for spec in machines if spec.ports)

    async def hold(self, machines: Iterable[MachineSpec]) -> None:
        """Serve the networks of these machines, and no others.

        Raises `UnkaiError` when some could not be: the others are served.
        """
        specs = [spec for spec in machines if spec.ports]
        async with self._turn:
            self._guests.hold(specs)
            sites = sites_of(port for spec in specs for port in spec.ports)
            # Before anything is awaited: a machine that comes meanwhile has its names told.
            self.names.keep_only(site.network_id for site in sites)
            await self._close_others(sites)
            made = await self.driver.ensure_sites(sites)
            failures = [await self._serve(site, anew=site.network_id in made) for site in sites]
        for failure in failures:
            if failure is not None:
                raise failure

    async def close(self) -> None:
        """Close all sockets. Namespaces stay, and are found again."""
        async with self._turn:
            await self._close_others(())

    async def _close_others(self, sites: Sequence[NetworkSite]) -> None:
        """End what is served of networks that go, or that have become others."""
        for network_id in [*self._served]:
            if self._served[network_id].site not in sites:
                await self._end(network_id)

    async def _serve(self, site: NetworkSite, *, anew: bool) -> UnkaiError | None:
        """Serve one network; return what kept it from being served."""
        if anew:
            await self._end(site.network_id)
        if site.network_id in self._served:
            return None
        try:
            async with AsyncExitStack() as closing:
                await self._open(site, closing)
                self._served[site.network_id] = _Served(site, closing.pop_all())
        except (UnkaiError, OSError) as error:
            failure = error if isinstance(error, UnkaiError) else internal_error(error)
            if self._logged.get(site.network_id) != str(error):
                self._logged[site.network_id] = str(error)
                _LOG.warning("network_not_served", network_id=site.network_id, error=str(error))
            return failure
        self._logged.pop(site.network_id, None)
        return None

    async def _open(self, site: NetworkSite, closing: AsyncExitStack) -> None:
        ident = site.network_id
        rooms = self._rooms
        metadata = MetadataSite(ident, self._guests, self._tokens, room=rooms.connections)
        closing.push_async_callback(metadata.close)
        names = NameSite(lambda: self.names.of(ident), self._forward, rooms=rooms)
        closing.push_async_callback(names.close)
        ours = (ADDRESS_V4, ADDRESS_V6)
        for address in ours:
            made = await self.driver.open_socket(ident, listener(address, HTTP_PORT))
            metadata.listen(made)
        for address in (*ours, *(str(ip_interface(each).ip) for each in site.addresses)):
            for maker in (listener(address, DNS_PORT), packets(address, DNS_PORT)):
                names.listen(await self.driver.open_socket(ident, maker))

    async def _end(self, network_id: str) -> None:
        served = self._served.pop(network_id, None)
        if served is not None:
            await served.closing.aclose()

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
from unkai_agent.network.driver import NetworkDriver, NetworkSite, SiteIdentity, sites_of
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import MetadataSite
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.names.server import Forward, NameSite, Rooms
from unkai_agent.network.names.table import NameTables
from unkai_agent.network.namespaces import ADDRESS_V4, ADDRESS_V6
from unkai_agent.network.sockets import listener, packets
from unkai_wire.errors import Unavailable, UnkaiError

_LOG = structlog.get_logger("unkai.agent.network")
HTTP_PORT = 80
DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class _Served:
    """One network, served."""

    site: NetworkSite
    identity: SiteIdentity | None
    """Of the namespace that its sockets were made in."""
    metadata: MetadataSite
    names: NameSite
    closing: AsyncExitStack

    @property
    def is_whole(self) -> bool:
        """Whether all its sockets are still served."""
        return self.metadata.is_served and self.names.is_served


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
            try:
                failed = await self.driver.ensure_sites(sites)
            finally:
                # Also after a failure: what was made anew before it is not served by old sockets.
                await self._close_others(sites)
            for site in sites:
                self._note(site.network_id, failed.get(site.network_id))
            well = [site for site in sites if site.network_id not in failed]
            tried = [await self._serve(site) for site in well]
        failures = [*failed.values(), *(each for each in tried if each is not None)]
        if failures:
            raise failures[0]

    async def are_whole(self) -> bool:
        """Tell whether all that is served still stands, as far as a cheap look shows."""
        for served in [*self._served.values()]:
            if not served.is_whole or await self._is_lost(served):
                return False
        return True

    async def close(self) -> None:
        """Close all sockets. Namespaces stay, and are found again."""
        async with self._turn:
            await self._close_others(())

    async def _close_others(self, sites: Sequence[NetworkSite]) -> None:
        """End what is served of networks that go, that have become others, or that were lost."""
        for network_id, served in [*self._served.items()]:
            if served.site not in sites or await self._is_lost(served):
                await self._end(network_id)

    async def _is_lost(self, served: _Served) -> bool:
        """Tell whether its sockets are in a namespace that nobody reaches any more."""
        now = await self.driver.site_identity(served.site.network_id)
        return now is None or now != served.identity

    async def _serve(self, site: NetworkSite) -> UnkaiError | None:
        """Serve one network; return what kept it from being served."""
        served = self._served.get(site.network_id)
        if served is not None and not served.is_whole:
            await self._end(site.network_id)
        if site.network_id in self._served:
            return None
        failure = None
        # Before its sockets: were it replaced meanwhile, they would count as lost.
        identity = await self.driver.site_identity(site.network_id)
        try:
            async with AsyncExitStack() as closing:
                metadata, names = await self._open(site, closing)
                kept = closing.pop_all()
            self._served[site.network_id] = _Served(site, identity, metadata, names, kept)
        except (UnkaiError, OSError) as error:
            failure = error if isinstance(error, UnkaiError) else _not_served(site, error)
        self._note(site.network_id, failure)
        return failure

    def _note(self, network_id: str, failure: UnkaiError | None) -> None:
        """Tell the log what is new of a network's trouble."""
        if failure is None:
            self._logged.pop(network_id, None)
        elif self._logged.get(network_id) != failure.message:
            self._logged[network_id] = failure.message
            _LOG.warning("network_not_served", network_id=network_id, error=failure.message)

    async def _open(
        self, site: NetworkSite, closing: AsyncExitStack
    ) -> tuple[MetadataSite, NameSite]:
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
        return metadata, names

    async def _end(self, network_id: str) -> None:
        served = self._served.pop(network_id, None)
        if served is not None:
            await served.closing.aclose()


def _not_served(site: NetworkSite, error: OSError) -> Unavailable:
    return Unavailable(
        f"network {site.network_id} is not served on its host: {error.strerror or error}",
        reason="NETWORK_NOT_SERVED",
        fix="look at the agent's log, and at what listens in the network's namespace",
        metadata={"network_id": site.network_id, "problem": str(error)},
        retry_after_s=1.0,
    )

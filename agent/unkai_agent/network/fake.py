"""A switch made of nothing, for tests and for fleets of simulated hosts.

Passes the same contract suite as `ovs_driver.py`. Ports are installed as soon as their machine is
on, which `plug` is told of, unless `faults` says otherwise. Sockets are the loopback's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from unkai_agent.domain.ports import PortSpec, device_of
from unkai_agent.network.driver import (
    JoinSettings,
    NetworkSite,
    PortCounters,
    SiteIdentity,
    Wiring,
)
from unkai_wire.errors import FailedPrecondition, NotFound, UnkaiError


@dataclass(slots=True)
class Faults:
    """What shall go wrong. All off by default."""

    errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next calls, one each."""
    not_installed: dict[str, Wiring] = field(default_factory=dict)
    """How these ports stand, by id, whatever was plugged."""
    sites: dict[str, UnkaiError] = field(default_factory=dict)
    """What keeps these networks from having a namespace, by id."""
    away: UnkaiError | None = None
    """Why a program of the switch does not answer; its database does."""


class FakeNetwork:
    """`NetworkDriver` in memory."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.settings: JoinSettings | None = None
        self.sites: dict[str, NetworkSite] = {}
        self._plugged: dict[str, tuple[str, int]] = {}
        """Instance and moment of plugging, by device."""
        self._clock_ms = 0
        self._identities: dict[str, SiteIdentity] = {}
        self._process = 1
        self._made = 0
        """How many namespaces there have been."""

    # The port.

    async def join(self, settings: JoinSettings) -> None:
        """Note the settings."""
        self._fail()
        if self.settings is not None and self.settings.host_id != settings.host_id:
            raise FailedPrecondition(
                f"the host's switch belongs to OVN as host {self.settings.host_id}",
                reason="SWITCH_JOINED_OTHERWISE",
                metadata={"host_id": self.settings.host_id},
            )
        self.settings = settings

    async def see_alive(self) -> Sequence[int]:
        """Say what is away, if anything is."""
        if self.faults.away is not None:
            raise self.faults.away
        return [self._process]

    async def clear(self, port_ids: Iterable[str]) -> None:
        """Forget that ports are plugged."""
        self._fail()
        for port_id in port_ids:
            self._plugged.pop(device_of(port_id), None)

    async def wirings(self, ports: Sequence[PortSpec]) -> Mapping[str, Wiring]:
        """Say how ports stand."""
        self._fail()
        return {port.port_id: self._wiring(port) for port in ports}

    async def sweep(self, running: Set[str]) -> Sequence[str]:
        """Forget ports of machines that are gone."""
        self._fail()
        gone = [device for device, (owner, _) in self._plugged.items() if owner not in running]
        for device in gone:
            del self._plugged[device]
        return gone

    async def ensure_sites(self, sites: Sequence[NetworkSite]) -> Mapping[str, UnkaiError]:
        """Note the networks."""
        self._fail()
        failed = {
            site.network_id: self.faults.sites[site.network_id]
            for site in sites
            if site.network_id in self.faults.sites
        }
        before = self.sites
        self.sites = {site.network_id: site for site in sites if site.network_id not in failed}
        for network_id in self.sites.keys() - before.keys():
            self._made += 1
            self._identities[network_id] = (self._made,)
        return failed

    async def site_identity(self, network_id: str) -> SiteIdentity | None:
        """Tell which of all namespaces that there have been it is."""
        return self._identities[network_id] if network_id in self.sites else None

    async def open_socket(
        self, network_id: str, make: Callable[[], socket.socket]
    ) -> socket.socket:
        """Make a socket here."""
        self._fail()
        if network_id not in self.sites:
            raise NotFound(
                f"network {network_id} is not served on this host",
                reason="NETWORK_NOT_HERE",
                metadata={"network_id": network_id},
                resource_kind="network",
                resource=network_id,
            )
        return make()

    async def statistics(self) -> Mapping[str, PortCounters]:
        """Return counters of nothing."""
        return {device: PortCounters(0, 0, 0, 0, 0, 0) for device in self._plugged}

    # The world behind it.

    def damage(self, network_id: str) -> None:
        """Take a network's namespace away, as somebody may do by hand."""
        del self.sites[network_id]

    def restart(self) -> None:
        """Let another process be the switch, as its monitor does after a crash."""
        self._process += 1

    def plug(self, instance_id: str, device: str, on: bool) -> None:
        """Let a machine's device come, which OVN installs at once, or go: as a start and an end do.

        Made to be a fake hypervisor's `plugged`.
        """
        self._plugged.pop(device, None)
        if on:
            self._clock_ms += 1
            self._plugged[device] = (instance_id, self._clock_ms)

    def _wiring(self, port: PortSpec) -> Wiring:
        if port.port_id in self.faults.not_installed:
            return self.faults.not_installed[port.port_id]
        if port.device not in self._plugged:
            return Wiring(False, 0, "PORT_NOT_PLUGGED", "its device is not plugged in")
        return Wiring(True, self._plugged[port.device][1])

    def _fail(self) -> None:
        if self.faults.errors:
            raise self.faults.errors.pop(0)

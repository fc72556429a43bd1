"""What a question of reachability is about: both ends, and what lies between. Data alone.

`reachability_rows.py` reads it from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.reachability import EXTERNAL, Question
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.domain.security_groups import SecurityGroup
from unkai_scheduler.ovn.northbound.networks import METADATA_V4, METADATA_V6

ANYWHERE = "anywhere outside"


@dataclass(frozen=True)
class Scene:
    """Both ends of a question and what is between them."""

    question: Question
    source: Port | None
    """None: it comes from outside."""
    source_address: str
    """Empty: the source has none of the destination's version."""
    destination: str
    """An address."""
    networks: Mapping[str, Network] = field(default_factory=dict)
    """Those that routers lead to from the source, nearest first, and external ones."""
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    groups: Mapping[str, SecurityGroup] = field(default_factory=dict)
    floating_ips: Mapping[str, FloatingIp] = field(default_factory=dict)
    load_balancers: Mapping[str, LoadBalancer] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    """Those that OVN says have something of the path; read once that is known."""
    target: Port | None = None
    """The port that has the destination's address, of an instance or of anything else."""
    takers: tuple[Port, ...] = ()
    """Where nothing has the address: the ports that may take it by a pair. The target is the first.
    """
    target_elsewhere: tuple[str, ...] = ()
    """Names of the project's networks that have the address and are out of reach."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return version_of(self.destination)

    @property
    def is_to_anywhere(self) -> bool:
        """Whether the destination stands for all that is outside."""
        return self.question.destination_address == EXTERNAL

    @property
    def is_from_anywhere(self) -> bool:
        """Whether the source stands for all that is outside."""
        return self.source is None and not self.question.source_address

    @property
    def destination_said(self) -> str:
        """The destination in words."""
        return ANYWHERE if self.is_to_anywhere else self.destination

    @property
    def is_own(self) -> bool:
        """Whether the destination is an address of the source itself."""
        return self.source is not None and any(
            self.destination == some.address
            for port in self.ports_beside(self.source)
            for some in port.addresses
        )

    @property
    def is_for_metadata(self) -> bool:
        """Whether the destination is the metadata service, which each network has on each host."""
        return self.source is not None and self.destination in {METADATA_V4, METADATA_V6}

    @property
    def floating(self) -> FloatingIp | None:
        """The floating address that is the destination."""
        return self.floating_of(self.target)

    def floating_of(self, port: Port | None) -> FloatingIp | None:
        """Return the floating address that a port holds."""
        if port is None or port.owner is not PortOwner.FLOATING_IP:
            return None
        return next((f for f in self.floating_ips.values() if f.holder_port_id == port.id), None)

    @property
    def balancer(self) -> LoadBalancer | None:
        """The load balancer that the destination leads to."""
        port_id = self.target.id if self.target else ""
        if floating := self.floating:
            port_id = floating.port_id
        return next((b for b in self.load_balancers.values() if b.port_id == port_id), None)

    @property
    def end(self) -> Port | None:
        """The instance's port that a packet to the destination shall arrive at, if it is one."""
        port = self.target
        if floating := self.floating:
            port = self.ports.get(floating.port_id)
        return port if port and port.owner in {None, PortOwner.INSTANCE} else None

    @property
    def end_address(self) -> str:
        """The address that the port at the end has."""
        floating = self.floating
        if floating is None or self.end is None:
            return self.destination
        return floating.fixed_address or first_of(self.end, 4)

    def network_of(self, port: Port) -> Network:
        """Return a port's network."""
        return self.networks[port.network_id]

    def subnets_of(self, network_id: str) -> list[Subnet]:
        """Return a network's subnets."""
        return [some for some in self.subnets.values() if some.network_id == network_id]

    def routers_on(self, network_id: str) -> list[Router]:
        """Return the routers that have an interface on a network."""
        own = {some.id for some in self.subnets_of(network_id)}
        return [
            router
            for router in self.routers.values()
            if any(interface.subnet_id in own for interface in router.interfaces)
        ]

    def subnet_with(self, address: str, network_id: str = "") -> Subnet | None:
        """Return the subnet in reach, or of one network, that an address is of."""
        for subnet in self.subnets.values():
            if network_id in {"", subnet.network_id} and contains(subnet.cidr, address):
                return subnet
        return None

    def ports_beside(self, port: Port) -> list[Port]:
        """Return all ports of a port's instance, in its order; of another port that one alone."""
        if port.owner is not PortOwner.INSTANCE:
            return [port]
        found = [some for some in self.ports.values() if some.owner_id == port.owner_id]
        return sorted(found, key=lambda some: some.position)

    def mac_of(self, port: Port) -> str:
        """Return the MAC address that a port is reached by: a pair may have another one."""
        for pair in port.pairs if port in self.takers else ():
            if contains(pair.cidr, self.destination):
                return pair.mac_address or port.mac_address
        return port.mac_address

    def instance_of(self, port: Port) -> Instance | None:
        """Return the instance that a port is plugged into."""
        return self.instances.get(port.owner_id) if port.owner is PortOwner.INSTANCE else None

    def called(self, port: Port) -> str:
        """Return what people know a port by: its instance's name, or its own."""
        instance = self.instance_of(port)
        return instance.spec.name if instance else f"port {port.name}"


def first_of(port: Port, version: int) -> str:
    """Return a port's first address of a version, or an empty string."""
    return next((a.address for a in port.addresses if version_of(a.address) == version), "")

"""What the derivation is told of the store. Data alone.

A view need not hold the whole store. To derive a unit right it must hold, besides the resource:

- network, security_group: nothing;
- subnet: its network;
- port: the subnets of its addresses, and its host;
- router: the ports of its interfaces and gateway, all their subnets, the networks of these, and
  the gateway hosts of the external one;
- floating_ip: the port that it leads to;
- load_balancer: all routers on its subnet, all their subnets and networks, the members' ports, the
  floating addresses that lead to its own port, and where checks of its members come from.

The trap: what is missing is taken not to exist, so a view that holds less makes rows vanish.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

from unkai_scheduler.domain.load_balancers import LoadBalancer
from unkai_scheduler.domain.networks import Network, Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.domain.routers import FloatingIp, Router
from unkai_scheduler.domain.security_groups import SecurityGroup


class Identified(Protocol):
    """What has an id."""

    @property
    def id(self) -> str: ...


_R = TypeVar("_R", bound=Identified)


@dataclass(frozen=True)
class View:
    """What there is, by id."""

    networks: Mapping[str, Network] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    floating_ips: Mapping[str, FloatingIp] = field(default_factory=dict)
    security_groups: Mapping[str, SecurityGroup] = field(default_factory=dict)
    load_balancers: Mapping[str, LoadBalancer] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    """Instance to the host of its claim, which is the chassis' name too."""
    gateway_hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Physical network to the hosts that routers' gateways may be on: those that reach it and are
    meant for it, silent ones too, for OVN itself sees which of them answer."""
    probe_sources: Mapping[str, str] = field(default_factory=dict)
    """Subnet to the address that health checks of members there come from. OVN answers ARP for it,
    so it is nothing else's: an address of a port of its own whose owner is a load balancer, made
    with the first member that is checked. Belongs to the subnet, where `affected` is asked."""
    dns_servers: tuple[str, ...] = ()
    """Name servers that guests are told after the network's own, where the subnet names none."""

    @classmethod
    def of(  # one argument a kind
        cls,
        *,
        networks: Iterable[Network] = (),
        subnets: Iterable[Subnet] = (),
        ports: Iterable[Port] = (),
        routers: Iterable[Router] = (),
        floating_ips: Iterable[FloatingIp] = (),
        security_groups: Iterable[SecurityGroup] = (),
        load_balancers: Iterable[LoadBalancer] = (),
        claims: Mapping[str, str] | None = None,
        gateway_hosts: Mapping[str, frozenset[str]] | None = None,
        probe_sources: Mapping[str, str] | None = None,
        dns_servers: tuple[str, ...] = (),
    ) -> View:
        """Make a view of rows."""
        return cls(
            networks=_by_id(networks),
            subnets=_by_id(subnets),
            ports=_by_id(ports),
            routers=_by_id(routers),
            floating_ips=_by_id(floating_ips),
            security_groups=_by_id(security_groups),
            load_balancers=_by_id(load_balancers),
            claims=claims or {},
            gateway_hosts=gateway_hosts or {},
            probe_sources=probe_sources or {},
            dns_servers=dns_servers,
        )

    def host_of(self, port: Port) -> str:
        """Return the host of a port's instance, or an empty string."""
        return self.claims.get(port.owner_id, "") if port.owner is PortOwner.INSTANCE else ""

    @cached_property
    def subnets_of_network(self) -> Mapping[str, list[Subnet]]:
        """Network to its subnets."""
        return _grouped((subnet.network_id, subnet) for subnet in self.subnets.values())

    @cached_property
    def ports_on_subnet(self) -> Mapping[str, list[Port]]:
        """Subnet to the ports that have an address there, once each."""
        return _grouped(
            (subnet_id, port)
            for port in self.ports.values()
            for subnet_id in dict.fromkeys(some.subnet_id for some in port.addresses)
        )

    @cached_property
    def ports_of_instance(self) -> Mapping[str, list[Port]]:
        """Instance to its ports."""
        return _grouped(
            (port.owner_id, port)
            for port in self.ports.values()
            if port.owner is PortOwner.INSTANCE
        )

    @cached_property
    def routers_on_subnet(self) -> Mapping[str, list[Router]]:
        """Subnet to the routers that have an interface there."""
        return _grouped(
            (interface.subnet_id, router)
            for router in self.routers.values()
            for interface in router.interfaces
        )

    @cached_property
    def routers_of_port(self) -> Mapping[str, list[Router]]:
        """Port to the router that has it as an interface or gateway."""
        return _grouped(
            (port_id, router)
            for router in self.routers.values()
            for port_id in dict.fromkeys(
                [interface.port_id for interface in router.interfaces]
                + ([router.gateway.port_id] if router.gateway else [])
            )
        )

    @cached_property
    def routers_out_by(self) -> Mapping[str, list[Router]]:
        """External network to the routers whose gateway is there."""
        return _grouped(
            (router.gateway.network_id, router)
            for router in self.routers.values()
            if router.gateway
        )

    @cached_property
    def floating_ips_of_port(self) -> Mapping[str, list[FloatingIp]]:
        """Port to the floating addresses that lead there."""
        return _grouped(
            (floating.port_id, floating)
            for floating in self.floating_ips.values()
            if floating.port_id
        )

    @cached_property
    def load_balancers_on_subnet(self) -> Mapping[str, list[LoadBalancer]]:
        """Subnet to the load balancers whose address is there."""
        return _grouped((some.subnet_id, some) for some in self.load_balancers.values())

    @cached_property
    def load_balancers_of_port(self) -> Mapping[str, list[LoadBalancer]]:
        """Port to the load balancers whose own or whose member it is."""
        return _grouped(
            (port_id, some)
            for some in self.load_balancers.values()
            for port_id in dict.fromkeys(
                [some.port_id]
                + [member.port_id for listener in some.listeners for member in listener.members]
            )
        )


def _by_id(resources: Iterable[_R]) -> dict[str, _R]:
    return {resource.id: resource for resource in resources}


_V = TypeVar("_V")


def _grouped(pairs: Iterable[tuple[str, _V]]) -> Mapping[str, list[_V]]:
    groups: dict[str, list[_V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)

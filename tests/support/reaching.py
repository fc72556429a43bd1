"""A small cloud built of rows, for questions of reachability.

It is made in memory, then `plant`ed in a store; `view` is what the northbound rows are derived
from. Names are short: `a` is a machine, its port and its instance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from tests.support.builders import a_claim, a_host, an_id, an_instance
from tests.support.networks import (
    a_floating_ip,
    a_group,
    a_load_balancer,
    a_network,
    a_port,
    a_router,
    a_rule,
    a_subnet,
)
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
    Member,
)
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import FixedAddress, Port, PortOwner
from unkai_scheduler.domain.reachability import Question
from unkai_scheduler.domain.routers import FloatingIp, Gateway, Route, Router, RouterInterface
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule, SecurityGroup
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.store import (
    addresses,
    claims,
    floating_ips,
    hosts,
    instances,
    load_balancers,
    networks,
    ports,
    routers,
    security_groups,
    subnets,
)
from unkai_scheduler.store.unit_of_work import UnitOfWork

PHYSICAL = "public"
HOSTS = ("h1", "h2")


def lets_in(protocol: Protocol | None = None, port: int = 0, **changes: Any) -> Rule:
    """Make a rule for what comes in."""
    return a_rule(**{"protocol": protocol, "port_first": port, "port_last": port} | changes)


def lets_out(protocol: Protocol | None = None, port: int = 0, **changes: Any) -> Rule:
    """Make a rule for what goes out."""
    return lets_in(protocol, port, direction=Direction.EGRESS, **changes)


class Town:
    """The cloud."""

    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self.subnets: dict[str, Subnet] = {}
        self.ports: dict[str, Port] = {}
        self.routers: dict[str, Router] = {}
        self.groups: dict[str, SecurityGroup] = {}
        self.floating_ips: dict[str, FloatingIp] = {}
        self.load_balancers: dict[str, LoadBalancer] = {}
        self.instances: dict[str, Any] = {}
        self.hosts = [a_host(name=name) for name in HOSTS]
        self.gateway_hosts = {PHYSICAL: frozenset(host.id for host in self.hosts)}
        self.probe_sources: dict[str, str] = {}
        self._used: dict[str, int] = {}

    def network(self, name: str, *cidrs: str, **changes: Any) -> Network:
        """Make a network with subnets, called as it is."""
        network = self.networks[name] = a_network(name=name, **changes)
        for number, cidr in enumerate(cidrs):
            self.subnet(name if not number else f"{name}-{number + 1}", network, cidr)
        return network

    def subnet(self, name: str, network: Network, cidr: str, **changes: Any) -> Subnet:
        """Make a subnet."""
        if ":" in cidr:
            changes.setdefault("ipv6_mode", Ipv6Mode.DHCPV6_STATEFUL)
        subnet = a_subnet(network, cidr, name=name, **changes)
        self.subnets[name] = subnet
        return subnet

    def outside(self, name: str = "outside", cidr: str = "192.0.2.0/24") -> Network:
        """Make an external network."""
        return self.network(
            name, cidr, external=True, type=NetworkType.FLAT, physical_network=PHYSICAL
        )

    def group(self, name: str, *rules: Rule) -> SecurityGroup:
        """Make a security group."""
        group = self.groups[name] = a_group(name=name, rules=rules)
        return group

    def machine(
        self,
        name: str,
        network: Network,
        *groups: SecurityGroup,
        host: int = 0,
        state: InstanceState = InstanceState.RUNNING,
        **changes: Any,
    ) -> Port:
        """Make an instance with a port that has an address of each of the network's subnets."""
        instance = an_instance(name=name, state=state)
        self.instances[name] = (instance, self.hosts[host])
        own = [some for some in self.subnets.values() if some.network_id == network.id]
        port = a_port(
            network,
            name=f"{name}-port",
            owner=PortOwner.INSTANCE,
            owner_id=instance.id,
            addresses=tuple(self._fixed(subnet) for subnet in own),
            security_group_ids=tuple(some.id for some in groups),
        )
        port = self.ports[name] = replace(port, **changes)
        return port

    def card(
        self, name: str, machine: str, network: Network, *groups: SecurityGroup, position: int = 1
    ) -> Port:
        """Give a machine one more port, with an address of each of the network's subnets."""
        instance, _ = self.instances[machine]
        own = [some for some in self.subnets.values() if some.network_id == network.id]
        port = self.ports[name] = a_port(
            network,
            name=f"{name}-port",
            owner=PortOwner.INSTANCE,
            owner_id=instance.id,
            position=position,
            addresses=tuple(self._fixed(subnet) for subnet in own),
            security_group_ids=tuple(some.id for some in groups),
        )
        return port

    def add_rule(self, group: str, rule: Rule) -> None:
        """Give a group one more rule."""
        own = self.groups[group]
        self.groups[group] = replace(own, rules=(*own.rules, rule))

    def routed_by(self, subnet: str, destination: str, next_hop: str) -> None:
        """Tell a subnet's machines of one more route."""
        own = self.subnets[subnet]
        routes = (*own.host_routes, HostRoute(destination, next_hop))
        self.subnets[subnet] = replace(own, host_routes=routes)

    def router(
        self,
        name: str,
        *subnet_names: str,
        out: Network | None = None,
        snat: bool = True,
        routes: tuple[Route, ...] = (),
        addresses: dict[str, str] | None = None,
    ) -> Router:
        """Make a router with the gateway's address on each subnet, or another one."""
        ident = an_id("router")
        shared: dict[str, Port] = {}
        interfaces = []
        for subnet in (self.subnets[some] for some in subnet_names):
            address = (addresses or {}).get(subnet.name, subnet.gateway_address)
            port = shared.get(subnet.network_id) or self._owned(
                subnet.network_id, PortOwner.ROUTER, ident, f"{name}-{subnet.name}"
            )
            port = replace(port, addresses=(*port.addresses, FixedAddress(subnet.id, address)))
            self.ports[port.name] = shared[subnet.network_id] = port
            interfaces.append(RouterInterface(subnet.id, port.id, address))
        gateway = None
        if out is not None:
            port = self._owned(out.id, PortOwner.GATEWAY, ident, f"{name}-gateway")
            fixed = tuple(
                self._fixed(some) for some in self.subnets.values() if some.network_id == out.id
            )
            self.ports[port.name] = replace(port, addresses=fixed)
            gateway = Gateway(out.id, port.id, tuple(f.address for f in fixed), snat=snat)
        router = self.routers[name] = a_router(
            id=ident, name=name, interfaces=tuple(interfaces), gateway=gateway, routes=routes
        )
        return router

    def floating(self, name: str, out: Network, to: Port | None, router: Router | None) -> str:
        """Make a floating address; return it."""
        ident = an_id("floating_ip")
        holder = self._owned(out.id, PortOwner.FLOATING_IP, ident, f"{name}-holder")
        subnet = next(s for s in self.subnets.values() if s.network_id == out.id)
        holder = self.ports[holder.name] = replace(holder, addresses=(self._fixed(subnet),))
        self.floating_ips[name] = a_floating_ip(
            holder,
            id=ident,
            name=name,
            port_id=to.id if to else "",
            fixed_address=to.addresses[0].address if to else "",
            router_id=router.id if router else "",
        )
        return holder.addresses[0].address

    def balancer(
        self, name: str, subnet_name: str, *members: Port, port: int = 80, checked: bool = False
    ) -> str:
        """Make a load balancer of TCP; return its address."""
        subnet = self.subnets[subnet_name]
        ident = an_id("load_balancer")
        own = self._owned(subnet.network_id, PortOwner.LOAD_BALANCER, ident, f"{name}-address")
        own = self.ports[own.name] = replace(own, addresses=(self._fixed(subnet),))
        listener = Listener(
            BalancedProtocol.TCP,
            port,
            tuple(Member(some.id, port, some.addresses[0].address) for some in members),
            HealthCheck() if checked else None,
        )
        if checked:
            self.probe_sources[subnet.id] = self._fixed(subnet).address
        self.load_balancers[name] = a_load_balancer(own, id=ident, name=name, listeners=(listener,))
        return own.addresses[0].address

    def view(self) -> View:
        """Return what OVN's rows are derived from."""
        return View.of(
            networks=self.networks.values(),
            subnets=self.subnets.values(),
            ports=self.ports.values(),
            routers=self.routers.values(),
            floating_ips=self.floating_ips.values(),
            security_groups=self.groups.values(),
            load_balancers=self.load_balancers.values(),
            claims={instance.id: host.id for instance, host in self.instances.values()},
            gateway_hosts=self.gateway_hosts,
            probe_sources=self.probe_sources,
        )

    async def plant(self, uow: UnitOfWork) -> None:
        """Put all of it into a store."""
        await uow.write(self._insert)

    def asked(
        self, source: str, destination: str, service: str = "icmp", **changes: Any
    ) -> Question:
        """Make a question: from a machine, or an external network, to a machine or an address."""
        protocol, _, number = service.partition("/")
        to = self.ports.get(destination)
        address = to.addresses[0].address if to else destination
        fields: dict[str, Any] = {
            "source_port_id": self.ports[source].id if source in self.ports else "",
            "source_network_id": "" if source in self.ports else self.networks[source].id,
            "source_address": "",
            "destination_address": address,
            "protocol": Protocol(protocol.upper()),
            "port_number": int(number or 0),
        }
        return Question(**fields | changes)

    def _insert(self, conn: Connection) -> None:
        for host in self.hosts:
            hosts.insert(conn, host)
        for instance, host in self.instances.values():
            instances.insert(conn, instance)
            claims.insert(conn, [a_claim(instance, host)])
        for network in self.networks.values():
            networks.insert(conn, network)
        for subnet in self.subnets.values():
            subnets.insert(conn, subnet)
        for group in self.groups.values():
            security_groups.insert(conn, group)
        for port in self.ports.values():
            ports.insert(conn, port)
            for place, fixed in enumerate(port.addresses):
                addresses.take_this(conn, fixed.subnet_id, port.id, fixed.address, position=place)
        for router in self.routers.values():
            routers.insert(conn, router)
        for floating in self.floating_ips.values():
            floating_ips.insert(conn, floating)
        for balancer in self.load_balancers.values():
            load_balancers.insert(conn, balancer)

    def _owned(self, network_id: str, owner: PortOwner, owner_id: str, name: str) -> Port:
        network = next(some for some in self.networks.values() if some.id == network_id)
        return a_port(network, name=name, owner=owner, owner_id=owner_id)

    def _fixed(self, subnet: Subnet) -> FixedAddress:
        """Give the next address of a subnet, from the tenth on."""
        number = self._used[subnet.id] = self._used.get(subnet.id, 9) + 1
        base, _, _ = subnet.cidr.partition("/")
        text = f"{base}{number:x}" if ":" in base else f"{base.rpartition('.')[0]}.{number}"
        return FixedAddress(subnet.id, text)

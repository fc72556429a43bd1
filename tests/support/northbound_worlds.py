"""Clouds that change at random, as the store would let them: nothing refers to what is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

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
from unkai_scheduler.domain.load_balancers import BalancedProtocol, HealthCheck, Listener, Member
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import AddressPair, FixedAddress, Port, PortOwner, Qos
from unkai_scheduler.domain.routers import Gateway, Route, Router, RouterInterface
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule
from unkai_scheduler.ovn.northbound.view import View

Changes = list[tuple[str, str]]
"""Kinds and ids, as `affected` takes them."""
_T = TypeVar("_T")
_PHYSICAL = ("public", "campus")
_INSTANCES = ("ins-1", "ins-2", "ins-3")
_HOSTS = ("hst-1", "hst-2", "hst-3")


class World:
    """A cloud; each method of `ACTS` changes it, or nothing where it cannot."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._number = 0
        self.networks: dict[str, Network] = {}
        self.subnets: dict[str, Subnet] = {}
        self.ports: dict[str, Port] = {}
        self.routers: dict[str, Router] = {}
        self.floating_ips: dict[str, Any] = {}
        self.security_groups: dict[str, Any] = {}
        self.load_balancers: dict[str, Any] = {}
        self.claims: dict[str, str] = {}
        self.gateway_hosts: dict[str, frozenset[str]] = {}
        self.probe_sources: dict[str, str] = {}

    def view(self) -> View:
        """Return what it is now."""
        fields: dict[str, Any] = {
            name: dict(value) for name, value in vars(self).items() if name[0] != "_"
        }
        return View(**fields)

    def grow(self) -> None:
        """Let there be some of everything."""
        for act in (World.add_network, World.add_subnet, World.add_group, World.add_router):
            self._often(act, 3, 4)
        self.add_network(NetworkType.VLAN)
        self._often(World.add_subnet, 3, 6)
        for act in _GROWTH:
            self._often(act, 2, 6)
        for _ in range(self._random.randrange(20)):
            self.change()

    def change(self) -> Changes:
        """Do one thing at random that can be done; return what it changed."""
        while True:
            if changes := self._random.choice(ACTS)(self):
                return changes

    def _often(self, act: Callable[[World], Changes], least: int, most: int) -> None:
        for _ in range(self._random.randint(least, most)):
            act(self)

    # Networks and subnets

    def add_network(self, kind: NetworkType | None = None) -> Changes:
        kind = kind or self._random.choice(list(NetworkType))
        physical = "" if kind is NetworkType.OVERLAY else self._random.choice(_PHYSICAL)
        network = a_network(
            type=kind, physical_network=physical, vlan_id=7 if kind is NetworkType.VLAN else 0
        )
        self.networks[network.id] = network
        return [("network", network.id)]

    def change_network(self) -> Changes:
        if not (network := self._one(self.networks)):
            return []
        mtu, domain = self._random.choice([1300, 1400]), self._random.choice(["a.example", ""])
        self.networks[network.id] = replace(network, mtu=mtu, dns_domain=domain)
        return [("network", network.id)]

    def change_gateway_address(self) -> Changes:
        if not (subnet := self._one(self.subnets)):
            return []
        self.subnets[subnet.id] = replace(subnet, gateway_address=self._address(subnet))
        return [("subnet", subnet.id)]

    def remove_network(self) -> Changes:
        used = {some.network_id for some in self.subnets.values()}
        used |= {some.network_id for some in self.ports.values()}
        return self._remove("network", self.networks, used)

    def add_subnet(self) -> Changes:
        if not (network := self._one(self.networks)):
            return []
        number = self._next()
        if self._random.random() < 0.5:
            subnet = a_subnet(network, f"10.{number}.0.0/24")
        else:
            subnet = a_subnet(
                network, f"fd00:{number:x}::/64", ipv6_mode=self._random.choice(list(Ipv6Mode))
            )
        if self._random.random() < 0.2:
            subnet = replace(subnet, gateway_address="")
        self.subnets[subnet.id] = subnet
        return [("subnet", subnet.id)]

    def change_subnet(self) -> Changes:
        if not (subnet := self._one(self.subnets)):
            return []
        routes = (HostRoute("192.168.0.0/16", subnet.gateway_address or "10.0.0.1"),)
        self.subnets[subnet.id] = replace(
            subnet,
            dhcp=self._random.random() < 0.5,
            host_routes=routes if subnet.version == 4 and self._random.random() < 0.5 else (),
        )
        return [("subnet", subnet.id)]

    def remove_subnet(self) -> Changes:
        used = {some.subnet_id for port in self.ports.values() for some in port.addresses}
        used |= self.probe_sources.keys()
        return self._remove("subnet", self.subnets, used)

    def give_probe_source(self) -> Changes:
        if not (subnet := self._one(self.subnets)):
            return []
        self.probe_sources[subnet.id] = self._address(subnet)
        return [("subnet", subnet.id)]

    def take_probe_source(self) -> Changes:
        if not self.probe_sources:
            return []
        ident = self._random.choice(sorted(self.probe_sources))
        del self.probe_sources[ident]
        return [("subnet", ident)]

    # Ports

    def add_port(self) -> Changes:
        if not (network := self._one(self.networks)):
            return []
        port = a_port(network, addresses=self._some_addresses(network.id))
        self.ports[port.id] = port
        return [("port", port.id)]

    def change_port(self) -> Changes:
        if not (port := self._one(self._instance_ports())):
            return []
        groups = tuple(sorted(self._some(self.security_groups)))
        pairs = (AddressPair("10.200.0.0/16"), AddressPair("10.201.0.1/32", "02:ff:00:00:00:01"))
        self.ports[port.id] = replace(
            port,
            owner=PortOwner.INSTANCE,
            owner_id=self._random.choice(_INSTANCES),
            security_group_ids=groups,
            pairs=pairs[: self._random.randrange(3)],
            anti_spoofing=self._random.random() < 0.7,
            qos=Qos(self._random.choice([0, 10**6]), 0, self._random.choice([0, 10**9]), 0),
        )
        return [("port", port.id)]

    def change_mac_address(self) -> Changes:
        if not (port := self._one(self.ports)):
            return []
        self.ports[port.id] = replace(port, mac_address=f"02:ee:00:00:{self._next() % 256:02x}:00")
        return [("port", port.id)]

    def readdress_port(self) -> Changes:
        if not (port := self._one(self._instance_ports())):
            return []
        addresses = self._some_addresses(port.network_id)
        self.ports[port.id] = replace(port, addresses=addresses)
        return [("port", port.id)]

    def remove_port(self) -> Changes:
        if not (port := self._one(self._instance_ports())):
            return []
        changed = [*self._without_floating_ips(port.id), ("port", port.id)]
        for balancer in list(self.load_balancers.values()):
            listeners = tuple(
                replace(some, members=tuple(m for m in some.members if m.port_id != port.id))
                for some in balancer.listeners
            )
            if listeners != balancer.listeners:
                self.load_balancers[balancer.id] = replace(balancer, listeners=listeners)
                changed.append(("load_balancer", balancer.id))
        del self.ports[port.id]
        return changed

    def move_instance(self) -> Changes:
        instance = self._random.choice(_INSTANCES)
        self.claims[instance] = self._random.choice(_HOSTS)
        if self._random.random() < 0.3:
            del self.claims[instance]
        return [("instance", instance)]

    # Routers

    def add_router(self) -> Changes:
        router = a_router()
        self.routers[router.id] = router
        return [("router", router.id)]

    def add_interface(self) -> Changes:
        router, subnet = self._one(self.routers), self._one(self.subnets)
        if not router or not subnet or self._is_on(router, subnet):
            return []
        address = self._address(subnet)
        fixed = FixedAddress(subnet.id, address)
        shared = [
            port
            for some in router.interfaces
            if (port := self.ports[some.port_id]).network_id == subnet.network_id
        ]
        port = shared[0] if shared else self._port(subnet, PortOwner.ROUTER, router.id)
        self.ports[port.id] = replace(port, addresses=(*port.addresses, fixed))
        interfaces = (*router.interfaces, RouterInterface(subnet.id, port.id, address))
        self.routers[router.id] = replace(router, interfaces=interfaces)
        return [("router", router.id), ("port", port.id)]

    def remove_interface(self) -> Changes:
        router = self._one(self.routers)
        if not router or not router.interfaces:
            return []
        gone = self._random.choice(router.interfaces)
        kept = tuple(some for some in router.interfaces if some != gone)
        self.routers[router.id] = replace(router, interfaces=kept)
        port = self.ports[gone.port_id]
        addresses = tuple(some for some in port.addresses if some.subnet_id != gone.subnet_id)
        self.ports[port.id] = replace(port, addresses=addresses)
        if not addresses:
            del self.ports[port.id]
        return [("router", router.id), ("port", port.id)]

    def set_gateway(self) -> Changes:
        router = self._one(self.routers)
        outside = [some for some in self.subnets.values() if self._is_physical(some)]
        if not router or router.gateway or not outside:
            return []
        subnet = self._random.choice(outside)
        fixed = FixedAddress(subnet.id, self._address(subnet))
        port = replace(self._port(subnet, PortOwner.GATEWAY, router.id), addresses=(fixed,))
        self.ports[port.id] = port
        gateway = Gateway(
            subnet.network_id, port.id, (fixed.address,), snat=self._random.random() < 0.7
        )
        self.routers[router.id] = replace(router, gateway=gateway)
        return [("router", router.id), ("port", port.id)]

    def clear_gateway(self) -> Changes:
        router = self._one(self.routers)
        if not router or not router.gateway:
            return []
        del self.ports[router.gateway.port_id]
        self.routers[router.id] = replace(router, gateway=None)
        return [("router", router.id), ("port", router.gateway.port_id)]

    def change_routes(self) -> Changes:
        if not (router := self._one(self.routers)):
            return []
        every = [Route("0.0.0.0/0", "10.1.0.9"), Route("172.16.0.0/12", "10.1.0.9")]
        routes = tuple(every[: self._random.randrange(3)])
        self.routers[router.id] = replace(router, routes=routes)
        return [("router", router.id)]

    def remove_router(self) -> Changes:
        used = {some.router_id for some in self.floating_ips.values()}
        used |= {some.id for some in self.routers.values() if some.interfaces or some.gateway}
        return self._remove("router", self.routers, used)

    def change_gateway_hosts(self) -> Changes:
        name = self._random.choice(_PHYSICAL)
        self.gateway_hosts[name] = frozenset(self._some(dict.fromkeys(_HOSTS, True)))
        return [("physical_network", name)]

    # Floating addresses

    def add_floating_ip(self) -> Changes:
        outside = [s for s in self.subnets.values() if self._is_physical(s) and s.version == 4]
        if not outside:
            return []
        subnet = self._random.choice(outside)
        fixed = FixedAddress(subnet.id, self._address(subnet))
        port = replace(self._port(subnet, PortOwner.FLOATING_IP, ""), addresses=(fixed,))
        floating = a_floating_ip(port)
        self.ports[port.id], self.floating_ips[floating.id] = port, floating
        return [("floating_ip", floating.id), ("port", port.id)]

    def lead_floating_ip(self) -> Changes:
        floating, router = self._one(self.floating_ips), self._one(self.routers)
        targets = [
            (port, fixed.address)
            for port in self.ports.values()
            if port.owner in {None, PortOwner.INSTANCE, PortOwner.LOAD_BALANCER}
            for fixed in port.addresses
            if ":" not in fixed.address
        ]
        if not floating or not router or not targets:
            return []
        port, address = self._random.choice(targets)
        fixed = self._random.choice([address, ""])
        self.floating_ips[floating.id] = replace(
            floating, port_id=port.id, fixed_address=fixed, router_id=router.id
        )
        return [("floating_ip", floating.id)]

    def remove_floating_ip(self) -> Changes:
        if not (floating := self._one(self.floating_ips)):
            return []
        del self.floating_ips[floating.id], self.ports[floating.holder_port_id]
        return [("floating_ip", floating.id), ("port", floating.holder_port_id)]

    # Security groups

    def add_group(self) -> Changes:
        group = a_group()
        self.security_groups[group.id] = group
        return [("security_group", group.id)]

    def change_rules(self) -> Changes:
        if not (group := self._one(self.security_groups)):
            return []
        rules = tuple(self._rule() for _ in range(self._random.randrange(3)))
        self.security_groups[group.id] = replace(group, rules=rules)
        return [("security_group", group.id)]

    def remove_group(self) -> Changes:
        used = {ident for port in self.ports.values() for ident in port.security_group_ids}
        used |= {
            rule.remote_group_id for some in self.security_groups.values() for rule in some.rules
        }
        return self._remove("security_group", self.security_groups, used)

    # Load balancers

    def add_load_balancer(self) -> Changes:
        if not (subnet := self._one(self.subnets)):
            return []
        fixed = FixedAddress(subnet.id, self._address(subnet))
        port = replace(self._port(subnet, PortOwner.LOAD_BALANCER, ""), addresses=(fixed,))
        balancer = a_load_balancer(port)
        self.ports[port.id], self.load_balancers[balancer.id] = port, balancer
        return [("load_balancer", balancer.id), ("port", port.id)]

    def change_listeners(self) -> Changes:
        if not (balancer := self._one(self.load_balancers)):
            return []
        listeners = tuple(
            Listener(
                protocol,
                number,
                tuple(Member(ident, 8000) for ident in self._some(self._instance_ports())),
                self._random.choice([None, HealthCheck()]),
            )
            for protocol in BalancedProtocol
            for number in range(80, 80 + self._random.randrange(3))
        )
        self.load_balancers[balancer.id] = replace(balancer, listeners=listeners)
        return [("load_balancer", balancer.id)]

    def remove_load_balancer(self) -> Changes:
        if not (balancer := self._one(self.load_balancers)):
            return []
        changed = self._without_floating_ips(balancer.port_id)
        del self.load_balancers[balancer.id], self.ports[balancer.port_id]
        return [*changed, ("load_balancer", balancer.id), ("port", balancer.port_id)]

    # What these share

    def _one(self, resources: dict[str, _T]) -> _T | None:
        return resources[self._random.choice(list(resources))] if resources else None

    def _some(self, resources: dict[str, Any]) -> list[str]:
        return [ident for ident in resources if self._random.random() < 0.5]

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _remove(self, kind: str, resources: dict[str, Any], used: set[str]) -> Changes:
        free = {ident: True for ident in resources if ident not in used}
        if not free:
            return []
        ident = self._random.choice(list(free))
        del resources[ident]
        return [(kind, ident)]

    def _instance_ports(self) -> dict[str, Port]:
        return {
            port.id: port
            for port in self.ports.values()
            if port.owner in {None, PortOwner.INSTANCE}
        }

    def _port(self, subnet: Subnet, owner: PortOwner, owner_id: str) -> Port:
        return a_port(self.networks[subnet.network_id], owner=owner, owner_id=owner_id)

    def _address(self, subnet: Subnet) -> str:
        prefix = subnet.cidr.partition("/")[0]
        number = self._next()
        return f"{prefix}{number:x}" if subnet.version == 6 else f"{prefix[:-1]}{number % 250 + 2}"

    def _some_addresses(self, network_id: str) -> tuple[FixedAddress, ...]:
        on = {some.id: some for some in self.subnets.values() if some.network_id == network_id}
        return tuple(FixedAddress(ident, self._address(on[ident])) for ident in self._some(on))

    def _without_floating_ips(self, port_id: str) -> Changes:
        leading = [some for some in self.floating_ips.values() if some.port_id == port_id]
        for some in leading:
            self.floating_ips[some.id] = replace(some, port_id="", fixed_address="", router_id="")
        return [("floating_ip", some.id) for some in leading]

    def _is_on(self, router: Router, subnet: Subnet) -> bool:
        return subnet.id in {some.subnet_id for some in router.interfaces}

    def _is_physical(self, subnet: Subnet) -> bool:
        return self.networks[subnet.network_id].type is not NetworkType.OVERLAY

    def _rule(self) -> Rule:
        others: Sequence[str] = ["", *self.security_groups]
        return a_rule(
            direction=self._random.choice(list(Direction)),
            ip_version=self._random.choice([0, 4, 6]),
            protocol=self._random.choice([None, *Protocol]),
            remote_group_id=self._random.choice(others),
        )


ACTS: Sequence[Callable[[World], Changes]] = [
    act
    for name, act in vars(World).items()
    if not name.startswith("_") and name not in {"view", "change", "grow"}
]
_GROWTH = (
    World.add_port,
    World.change_port,
    World.readdress_port,
    World.move_instance,
    World.change_rules,
    World.change_gateway_hosts,
    World.set_gateway,
    World.add_interface,
    World.add_load_balancer,
    World.change_listeners,
    World.give_probe_source,
    World.add_floating_ip,
    World.lead_floating_ip,
)

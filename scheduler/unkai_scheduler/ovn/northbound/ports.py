"""An instance's port: its row and its limits. Pure.

Ports of routers are rows of the router's unit; those of load balancers and floating addresses have
no row, they only keep an address.

`addresses` is what the network answers for and delivers; `port_security` is what may be sent from
it. A port may always use the link-local address that is made of its MAC, so that IPv6 metadata
works everywhere; with addresses of one version alone OVN would drop the other, ND included. Where
a port has no address of IPv4, no IPv4 leaves it. ovn-nb(5), Logical_Switch_Port.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

from unkai_scheduler.domain.addresses import eui64, version_of
from unkai_scheduler.domain.networks import Ipv6Mode, Subnet
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.ovn.northbound.names import (
    dhcp_uuid,
    drop_place,
    group_place,
    in_switch,
    name_of,
    row_uuid,
)
from unkai_scheduler.ovn.northbound.subnets import has_dhcp
from unkai_scheduler.ovn.northbound.switch_ports import switch_port
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Place, Row, Value
from unkai_wire.ids import uuid_of

_LINK_LOCAL = "fe80::/64"
_MOST_OF_A_METER = 2**32 - 1
"""The schema's largest rate and burst."""


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield the rows of a port that an instance has or may get."""
    port = view.ports.get(ident)
    if port is None or not is_for_instances(port):
        return
    host = view.host_of(port)
    yield switch_port(
        uuid_of(ident),
        port.network_id,
        {
            "name": name_of(ident),
            "type": "",
            "addresses": _addresses(port),
            "port_security": _port_security(port),
            "dhcpv4_options": _dhcp(view, port, 4),
            "dhcpv6_options": _dhcp(view, port, 6),
            "options": {"requested-chassis": host} if host else {},
            # Once it is taken out nothing passes, whatever the guest or its host does.
            "enabled": port.owner is PortOwner.INSTANCE,
        },
        member_of=_groups(port),
    )
    yield from _limits(port)


def is_for_instances(port: Port) -> bool:
    """Tell whether a port is an instance's, or may be."""
    return port.owner in {None, PortOwner.INSTANCE}


def _addresses(port: Port) -> frozenset[str]:
    own = " ".join([port.mac_address, *_fixed(port)])
    others = {pair.mac_address for pair in port.pairs if pair.mac_address} - {port.mac_address}
    return frozenset([own, *others] + ([] if port.anti_spoofing else ["unknown"]))


def _port_security(port: Port) -> Value:
    """Return one element a MAC address: two of one MAC would shut each other out."""
    if not port.anti_spoofing:
        return ()
    allowed: dict[str, list[str]] = defaultdict(list)
    allowed[port.mac_address] = _fixed(port)
    for pair in port.pairs:
        allowed[pair.mac_address or port.mac_address].append(_shortest(pair.cidr))
    return frozenset(
        " ".join(dict.fromkeys([mac, *_by_version(cidrs), eui64(mac, _LINK_LOCAL)]))
        for mac, cidrs in allowed.items()
    )


def _shortest(cidr: str) -> str:
    """Return a network of one address as the address."""
    return cidr.removesuffix("/32" if version_of(cidr) == 4 else "/128")


def _fixed(port: Port) -> list[str]:
    """Return a port's addresses in OVN's order; DHCP offers the first that the subnet has."""
    return _by_version([some.address for some in port.addresses])


def _by_version(addresses: list[str]) -> list[str]:
    return sorted(addresses, key=version_of)


def _dhcp(view: View, port: Port, version: int) -> UUID | tuple[()]:
    """Return the one row that a port may have of a version; rather one that gives addresses."""
    known = [view.subnets.get(some.subnet_id) for some in port.addresses]
    subnets = [some for some in known if some and some.version == version and has_dhcp(some)]
    if not subnets:
        return ()
    return dhcp_uuid(min(subnets, key=_tells_addresses).id)


def _tells_addresses(subnet: Subnet) -> int:
    return 1 if subnet.ipv6_mode is Ipv6Mode.DHCPV6_STATELESS else 0


def _groups(port: Port) -> frozenset[Place]:
    if not port.anti_spoofing:
        return frozenset()
    groups = [group_place(some, "ports") for some in port.security_group_ids]
    return frozenset([drop_place("ports"), *groups])


def _limits(port: Port) -> Iterator[Row]:
    qos, name = port.qos, name_of(port.id)
    if qos.egress_bits_per_s:
        yield _limit(
            port, "from-lport", f'inport == "{name}"', qos.egress_bits_per_s, qos.egress_burst_bits
        )
    if qos.ingress_bits_per_s:
        yield _limit(
            port, "to-lport", f'outport == "{name}"', qos.ingress_bits_per_s, qos.ingress_burst_bits
        )


def _limit(port: Port, direction: str, match: str, rate: int, burst: int) -> Row:
    # With a burst much smaller TCP stays far below the rate: what OVS's meters drop it takes for
    # congestion. ovs-vswitchd.conf.db(5), ingress_policing_burst.
    bandwidth = {"rate": _kilobits(rate), "burst": _kilobits(burst or rate * 4 // 5)}
    return Row(
        "QoS",
        row_uuid(port.id, f"qos:{direction}"),
        {
            "direction": direction,
            "priority": 1000,
            "match": match,
            "bandwidth": bandwidth,
            "action": {},
        },
        parent=in_switch(port.network_id, "qos_rules"),
    )


def _kilobits(bits: int) -> int:
    return min(max(1, -(-bits // 1000)), _MOST_OF_A_METER)

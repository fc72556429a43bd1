"""Between `agent.v1`'s ports and the domain's, both ways. Pure; see `convert.py`.

What passes here becomes names of devices and text for other programs: so addresses are parsed, and
kept in the one form that their library writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network

from unkai.agent.v1 import port_pb2
from unkai_agent.domain.ports import (
    PORTS_MAX,
    HostRoute,
    Ipv6Mode,
    MetadataPort,
    PortAddress,
    PortSpec,
    PortStatus,
    device_of,
)
from unkai_wire.errors import InvalidArgument, UnkaiError
from unkai_wire.ids import check_id
from unkai_wire.rpc_errors import to_status

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_INTERFACE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MODES = {
    port_pb2.PortSpec.IPV6_MODE_UNSPECIFIED: None,
    port_pb2.PortSpec.IPV6_MODE_SLAAC: Ipv6Mode.SLAAC,
    port_pb2.PortSpec.IPV6_MODE_DHCPV6_STATELESS: Ipv6Mode.DHCPV6_STATELESS,
    port_pb2.PortSpec.IPV6_MODE_DHCPV6_STATEFUL: Ipv6Mode.DHCPV6_STATEFUL,
}
_ADDRESSES_MAX = 16
_DNS_SERVERS_MAX = 8
_ROUTES_MAX = 32


def port_specs(messages: Sequence[port_pb2.PortSpec], path: str) -> tuple[PortSpec, ...]:
    """Read a machine's ports, by their positions. Raises `InvalidArgument`."""
    _check(len(messages) <= PORTS_MAX, path, f"must be at most {PORTS_MAX}")
    ports = [_port(message, f"{path}[{i}]") for i, message in enumerate(messages)]
    for what, keys in (
        ("position", [port.position for port in ports]),
        ("id", [device_of(port.port_id) for port in ports]),
    ):
        _check(len(set(keys)) == len(keys), path, f"two have the same {what}")
    return tuple(sorted(ports, key=lambda port: port.position))


def is_domain(text: str) -> bool:
    """Tell whether a text is a domain's name, without the dot at its end."""
    return _DOMAIN.fullmatch(text) is not None


def port_message(port: PortSpec) -> port_pb2.PortSpec:
    """Write a port as the ledger keeps it."""
    spec = port_pb2.PortSpec
    modes = {ours: theirs for theirs, ours in _MODES.items()}
    return spec(
        port_id=port.port_id,
        network_id=port.network_id,
        mac_address=port.mac_address,
        mtu=port.mtu,
        position=port.position,
        addresses=[
            spec.Address(
                address=each.address,
                prefix_length=each.prefix_length,
                gateway_address=each.gateway_address,
                dhcp=each.dhcp,
                ipv6_mode=modes[each.ipv6_mode],
            )
            for each in port.addresses
        ],
        dns_servers=port.dns_servers,
        dns_domain=port.dns_domain,
        host_routes=[
            spec.HostRoute(destination=each.destination, next_hop=each.next_hop)
            for each in port.host_routes
        ],
        metadata=None
        if port.metadata is None
        else spec.Metadata(
            interface_id=port.metadata.interface_id,
            mac_address=port.metadata.mac_address,
            addresses=port.metadata.addresses,
        ),
    )


def port_status_message(status: PortStatus) -> port_pb2.PortStatus:
    """Write a port as observed."""
    message = port_pb2.PortStatus(port_id=status.port_id, installed=status.installed)
    if status.error is not None:
        message.error.CopyFrom(to_status(UnkaiError.from_record(status.error)))
    return message


def _port(message: port_pb2.PortSpec, path: str) -> PortSpec:
    check_id("port", message.port_id, f"{path}.port_id")
    check_id("network", message.network_id, f"{path}.network_id")
    _check(576 <= message.mtu <= 65535, f"{path}.mtu", "must be 576 to 65535")
    _check(0 <= message.position < PORTS_MAX, f"{path}.position", f"must be 0 to {PORTS_MAX - 1}")
    for field, most in (
        ("addresses", _ADDRESSES_MAX),
        ("dns_servers", _DNS_SERVERS_MAX),
        ("host_routes", _ROUTES_MAX),
    ):
        _check(len(getattr(message, field)) <= most, f"{path}.{field}", f"must be at most {most}")
    domain = message.dns_domain
    _check(not domain or is_domain(domain), f"{path}.dns_domain", "is not a domain")
    return PortSpec(
        port_id=message.port_id,
        network_id=message.network_id,
        mac_address=_mac(message.mac_address, f"{path}.mac_address"),
        mtu=message.mtu,
        position=message.position,
        addresses=tuple(
            _address(each, f"{path}.addresses[{i}]") for i, each in enumerate(message.addresses)
        ),
        dns_servers=tuple(
            _ip(each, f"{path}.dns_servers[{i}]") for i, each in enumerate(message.dns_servers)
        ),
        dns_domain=domain,
        host_routes=tuple(
            _route(each, f"{path}.host_routes[{i}]") for i, each in enumerate(message.host_routes)
        ),
        metadata=_metadata(message.metadata, f"{path}.metadata")
        if message.HasField("metadata")
        else None,
    )


def _address(message: port_pb2.PortSpec.Address, path: str) -> PortAddress:
    address = ip_address(_ip(message.address, f"{path}.address"))
    length = message.prefix_length
    _check(1 <= length <= address.max_prefixlen, f"{path}.prefix_length", "is none of such address")
    gateway = message.gateway_address and _ip(message.gateway_address, f"{path}.gateway_address")
    _check(
        not gateway or ip_address(gateway).version == address.version,
        f"{path}.gateway_address",
        "is of another kind than the address",
    )
    mode = _MODES.get(message.ipv6_mode)
    _check(message.ipv6_mode in _MODES, f"{path}.ipv6_mode", "is not known")
    _check(
        (mode is None) == (address.version == 4), f"{path}.ipv6_mode", "must be set for IPv6 alone"
    )
    return PortAddress(str(address), length, gateway, message.dhcp, mode)


def _route(message: port_pb2.PortSpec.HostRoute, path: str) -> HostRoute:
    try:
        destination = str(ip_network(message.destination))
    except ValueError as error:
        raise InvalidArgument.field(f"{path}.destination", "is not a network") from error
    return HostRoute(destination, _ip(message.next_hop, f"{path}.next_hop"))


def _metadata(message: port_pb2.PortSpec.Metadata, path: str) -> MetadataPort:
    given = message.interface_id
    _check(_INTERFACE_ID.fullmatch(given), f"{path}.interface_id", "is not an interface id")
    _check(len(message.addresses) <= _ROUTES_MAX, f"{path}.addresses", "must be at most 32")
    return MetadataPort(
        interface_id=given,
        mac_address=_mac(message.mac_address, f"{path}.mac_address"),
        addresses=tuple(
            _interface(each, f"{path}.addresses[{i}]") for i, each in enumerate(message.addresses)
        ),
    )


def _mac(text: str, path: str) -> str:
    """Return a MAC address when it is a unicast one; those from FE up are libvirt's own."""
    sound = _MAC.fullmatch(text) and not int(text[:2], 16) & 1 and not text.startswith("fe")
    _check(sound, path, "is not a unicast MAC address in lower case, or begins with fe")
    return text


def _ip(text: str, path: str) -> str:
    try:
        _check("%" not in text, path, "must not name an interface")
        return str(ip_address(text))
    except ValueError as error:
        raise InvalidArgument.field(path, "is not an address") from error


def _interface(text: str, path: str) -> str:
    try:
        _check("%" not in text, path, "must not name an interface")
        return str(ip_interface(text))
    except ValueError as error:
        raise InvalidArgument.field(path, "is not an address with a prefix") from error


def _check(right: object, path: str, problem: str) -> None:
    if not right:
        raise InvalidArgument.field(path, problem)

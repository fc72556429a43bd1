"""Between the domain's ports and `agent.v1`'s. Pure; see `convert.py`."""

from __future__ import annotations

from unkai.agent.v1 import port_pb2
from unkai_scheduler.domain.networks import Ipv6Mode
from unkai_scheduler.domain.port_orders import AddressOrder, PortOrder

_ADDRESSES = 16
_TEXT = 255
_SPEC = port_pb2.PortSpec
_MODES = {
    None: _SPEC.IPV6_MODE_UNSPECIFIED,
    Ipv6Mode.SLAAC: _SPEC.IPV6_MODE_SLAAC,
    Ipv6Mode.DHCPV6_STATELESS: _SPEC.IPV6_MODE_DHCPV6_STATELESS,
    Ipv6Mode.DHCPV6_STATEFUL: _SPEC.IPV6_MODE_DHCPV6_STATEFUL,
}


def port_message(order: PortOrder) -> port_pb2.PortSpec:
    """Write the order of a port."""
    return _SPEC(
        port_id=order.port_id,
        network_id=order.network_id,
        mac_address=order.mac_address,
        mtu=order.mtu,
        position=order.position,
        addresses=map(_address_message, order.addresses),
        dns_servers=order.dns_servers,
        dns_domain=order.dns_domain,
        host_routes=[
            _SPEC.HostRoute(destination=route.destination, next_hop=route.next_hop)
            for route in order.host_routes
        ],
        metadata=_SPEC.Metadata(interface_id=order.metadata_name, mac_address=order.metadata_mac)
        if order.metadata_name
        else None,
    )


def _address_message(address: AddressOrder) -> port_pb2.PortSpec.Address:
    return _SPEC.Address(
        address=address.address,
        prefix_length=address.prefix_length,
        gateway_address=address.gateway_address,
        dhcp=address.dhcp,
        ipv6_mode=_MODES[address.ipv6_mode],
    )


def order_of(message: port_pb2.PortSpec) -> PortOrder:
    """Read the order of a port as a host remembers it; raise ValueError for what is too much."""
    texts = [message.port_id, message.network_id, message.mac_address]
    texts += [one.address for one in message.addresses]
    if len(message.addresses) > _ADDRESSES or any(len(text) > _TEXT for text in texts):
        raise ValueError("a port of it is too large")
    return PortOrder(
        port_id=message.port_id,
        network_id=message.network_id,
        mac_address=message.mac_address,
        mtu=message.mtu,
        position=message.position,
        addresses=tuple(AddressOrder(one.address, one.prefix_length) for one in message.addresses),
    )

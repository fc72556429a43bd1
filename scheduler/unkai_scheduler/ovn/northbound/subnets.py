"""A subnet's row: what OVN tells guests by DHCP. Pure.

The server is the metadata port, whose addresses the network always answers for, with a router or
without. A guest finds it on the link by option 121; clients that take this option ignore the router
option, so the default route is in it too (RFC 3442). Names are asked of it first.

The trap: values are pieces of OVN's own language. Texts have their quotation marks, lists braces,
and a wrong one takes DHCP from the port without an error in this database. ovn-nb(5), DHCP_Options.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from unkai_scheduler.domain.addresses import version_of
from unkai_scheduler.domain.networks import Ipv6Mode, Network, Subnet
from unkai_scheduler.ovn.northbound.names import dhcp_uuid, metadata_mac
from unkai_scheduler.ovn.northbound.networks import METADATA_V4, METADATA_V6
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Row

LEASE_S = 3600
"""After half of it a guest asks anew, and hears of what has changed."""
_MAX_OPTION_BYTES = 255
"""Of one option; OVN writes no longer ones in pieces (RFC 3396)."""


def rows(view: View, ident: str) -> Iterator[Row]:
    """Yield a subnet's row, if guests are told anything by DHCP."""
    subnet = view.subnets.get(ident)
    network = view.networks.get(subnet.network_id) if subnet else None
    if subnet is None or network is None or not has_dhcp(subnet):
        return
    servers = [
        some
        for some in subnet.dns_servers or view.dns_servers
        if version_of(some) == subnet.version
    ]
    options = (
        _v4(network, subnet, servers) if subnet.version == 4 else _v6(network, subnet, servers)
    )
    yield Row("DHCP_Options", dhcp_uuid(ident), {"cidr": subnet.cidr, "options": options})


def has_dhcp(subnet: Subnet) -> bool:
    """Tell whether a subnet has a row."""
    return subnet.dhcp and (
        subnet.version == 4
        or subnet.ipv6_mode in {Ipv6Mode.DHCPV6_STATEFUL, Ipv6Mode.DHCPV6_STATELESS}
    )


def _v4(network: Network, subnet: Subnet, servers: list[str]) -> dict[str, str]:
    options = {
        "server_id": METADATA_V4,
        "server_mac": metadata_mac(network.id),
        "lease_time": str(LEASE_S),
        "mtu": str(network.mtu),
        "dns_server": _list([METADATA_V4, *servers]),
        "classless_static_route": _routes(subnet),
    }
    if subnet.gateway_address:
        options["router"] = subnet.gateway_address
    if network.dns_domain:
        options["domain_name"] = json.dumps(network.dns_domain)
        options["domain_search_list"] = json.dumps(network.dns_domain)
    return options


def _v6(network: Network, subnet: Subnet, servers: list[str]) -> dict[str, str]:
    options = {
        "server_id": metadata_mac(network.id),
        "dns_server": _list([METADATA_V6, *servers]),
    }
    if network.dns_domain:
        options["domain_search"] = json.dumps(network.dns_domain)
    if subnet.ipv6_mode is Ipv6Mode.DHCPV6_STATELESS:
        options["dhcpv6_stateless"] = "true"
    return options


def _routes(subnet: Subnet) -> str:
    """Return the routes of option 121; without the last host routes if it would be too long."""
    first = [(f"{METADATA_V4}/32", "0.0.0.0")]
    last = [("0.0.0.0/0", subnet.gateway_address)] if subnet.gateway_address else []
    room = _MAX_OPTION_BYTES - sum(_route_bytes(to) for to, _ in first + last)
    told = []
    for route in subnet.host_routes:
        room -= _route_bytes(route.destination)
        if room >= 0:
            told.append((route.destination, route.next_hop))
    if any(to == "0.0.0.0/0" for to, _ in told):
        last = []
    return _list([part for route in first + told + last for part in route])


def _route_bytes(destination: str) -> int:
    # A byte for the prefix's length, as many of the prefix as it has, four of the next hop.
    return 1 + -(-ip_network(destination).prefixlen // 8) + 4


def _list(values: Iterable[str]) -> str:
    return "{" + ", ".join(values) + "}"

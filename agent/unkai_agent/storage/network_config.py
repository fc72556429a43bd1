"""The file network-config of a seed disk: how cloud-init sets up a guest's network cards. Pure.

Version 2, written as JSON, which is YAML too. What the network tells guests is asked of it: by
DHCP the first IPv4 address with its routes and name servers, which so follow what changes; the host
answers, also while OVN's centre is away. The domain is told besides: systemd-networkd would not
look for short names in the one that a lease names, and cloud-init takes a domain with name servers
alone, of which the first, the host's own, is always right. By DHCP comes the route to
169.254.169.254, which is on the link: version 2 has no words for that which all renderers know.
What a router's advertisements say (SLAAC, and the route of DHCPv6) is left to them. All else is
set. Cards are found by their MAC address and keep the guest's names.

What cloud-init 22.4 makes of it decides the form (cloudinit/net, Debian 12): only the renderer for
netplan sees all of it; the others (networkd, eni) know of routes `to` and `via` alone, that for
networkd of no override of a lease, and eni fails at a route without `via`. Default routes are
`gateway4` and `gateway6`, since eni would add others by a program that Debian 12 does not install.

Source: cloud-init's documentation, "Networking config version 2".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from unkai_agent.domain.ports import METADATA_ADDRESS, Ipv6Mode, PortAddress, PortSpec

_SECOND_METRIC = 200
"""Of routes of a card that is not the first with a default route; DHCP clients begin with 100."""
_ADVERTISED = (Ipv6Mode.SLAAC, Ipv6Mode.DHCPV6_STATELESS)


def network_config(ports: Sequence[PortSpec]) -> str:
    """Return the file's text. The first port with a router of a kind has the default route."""
    cards: dict[str, Any] = {}
    routed: set[int] = set()
    for number, port in enumerate(sorted(ports, key=lambda port: port.position)):
        cards[f"port{port.position}"] = _card(port, routed, optional=number > 0)
    return json.dumps({"version": 2, "ethernets": cards}, indent=1) + "\n"


def _card(port: PortSpec, routed: set[int], *, optional: bool) -> dict[str, Any]:
    """Describe a card. `routed`: kinds (4, 6) that have their default route; added to."""
    card: dict[str, Any] = {"match": {"macaddress": port.mac_address}, "mtu": port.mtu}
    if optional:
        card["optional"] = True  # else a boot waits for a network that may be dead
    told = [each for each in port.addresses if each.dhcp and each.ipv6_mode in _ADVERTISED]
    leased = next((each for each in port.addresses if each.dhcp and each.ip.version == 4), None)
    own = [each for each in port.addresses if each not in told and each is not leased]
    if leased:
        card["dhcp4"] = True
        if 4 in routed:
            card["dhcp4-overrides"] = {"route-metric": _SECOND_METRIC * (1 + port.position)}
        routed.add(4)
    if told:
        card["accept-ra"] = True
        card["dhcp6"] = any(each.ipv6_mode is Ipv6Mode.DHCPV6_STATELESS for each in told)
    if own:
        card["addresses"] = [str(each.interface) for each in own]
    for each in own:
        kind = each.ip.version
        if each.gateway_address and kind not in routed:
            routed.add(kind)
            card[f"gateway{kind}"] = each.gateway_address
    routes = [*_host_routes(port, leased), *_metadata_routes(port, own)]
    if routes:
        card["routes"] = routes
    if port.dns_servers:
        card["nameservers"] = _nameservers(port)
    return card


def _host_routes(port: PortSpec, leased: PortAddress | None) -> list[dict[str, str]]:
    """Return the routes that no lease carries."""
    return [
        {"to": each.destination, "via": each.next_hop}
        for each in port.host_routes
        if not leased or ":" in each.destination
    ]


def _metadata_routes(port: PortSpec, own: Sequence[PortAddress]) -> list[dict[str, str]]:
    """Route to the metadata service by its address on the guest's subnet, where it has one."""
    for each in own:
        near = port.metadata_address_near(each)
        if near and each.ip.version == 4:
            return [{"to": f"{METADATA_ADDRESS}/32", "via": near}]
    return []


def _nameservers(port: PortSpec) -> dict[str, list[str]]:
    found = {"addresses": list(port.dns_servers)}
    if port.dns_domain:
        found["search"] = [port.dns_domain]
    return found

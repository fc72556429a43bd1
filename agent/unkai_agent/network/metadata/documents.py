"""What a guest may read of itself, as a tree: EC2's folders, and OpenStack's files. Pure.

Sources: AWS, "Instance metadata categories"; OpenStack Nova, "Metadata service" and its
`network_data.json` schema; what cloud-init 22.4 reads of them (cloudinit/sources). Nothing is told
that this cloud has no word for (zones, types, roles).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from unkai_agent.domain.ports import METADATA_ADDRESS, Ipv6Mode, PortAddress, PortSpec
from unkai_agent.network.guests import Guest
from unkai_wire.ids import uuid_of

Tree = Mapping[str, "Tree | bytes"]
"""Folders and files by name."""

EC2_VERSIONS = ("2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
"""Those that cloud-init asks for; all are the same tree."""
OPENSTACK_VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "latest",
)
_MODES = {
    None: "ipv4",
    Ipv6Mode.SLAAC: "ipv6_slaac",
    Ipv6Mode.DHCPV6_STATELESS: "ipv6_dhcpv6-stateless",
    Ipv6Mode.DHCPV6_STATEFUL: "ipv6",
}
"""Kinds of networks in `network_data.json`, but for the one that a port leases by DHCP."""


def tree_of(guest: Guest) -> Tree:
    """Return all that a guest may read."""
    ec2, openstack = _ec2(guest), _openstack(guest)
    return {
        **dict.fromkeys(EC2_VERSIONS, ec2),
        "openstack": dict.fromkeys(OPENSTACK_VERSIONS, openstack),
    }


def look_up(tree: Tree, path: tuple[str, ...]) -> Tree | bytes | None:
    """Return what is at a path; None: nothing."""
    found: Tree | bytes = tree
    for name in path:
        if isinstance(found, bytes) or name not in found:
            return None
        found = found[name]
    return found


def listing(tree: Tree, path: tuple[str, ...]) -> bytes:
    """Return a folder's listing, a name a line. Keys are listed as EC2 does: `0=name`."""
    if path[-1:] == ("public-keys",):
        return "\n".join(f"{name}=key-{name}" for name in tree).encode()
    folders = path[:1] != ("openstack",)
    return "\n".join(
        f"{name}/" if folders and path and not isinstance(each, bytes) else name
        for name, each in tree.items()
    ).encode()


def _ec2(guest: Guest) -> Tree:
    spec, port = guest.spec, guest.port
    meta: dict[str, Tree | bytes] = {
        "instance-id": spec.instance_id.encode(),
        "hostname": _full_name(guest).encode(),
        "local-hostname": _full_name(guest).encode(),
        "mac": port.mac_address.encode(),
        "network": {"interfaces": {"macs": {p.mac_address: _card(guest, p) for p in spec.ports}}},
    }
    for name, addresses in (("local-ipv4", _of(port, 4)), ("ipv6", _of(port, 6))):
        if addresses:
            meta[name] = addresses[0].encode()
    if spec.seed.public_keys:
        meta["public-keys"] = {
            str(number): {"openssh-key": f"{key}\n".encode()}
            for number, key in enumerate(spec.seed.public_keys)
        }
    tree: dict[str, Tree | bytes] = {
        "dynamic": {"instance-identity": {"document": _identity(guest)}},
        "meta-data": meta,
    }
    if spec.seed.user_data:
        tree["user-data"] = spec.seed.user_data
    return tree


def _card(guest: Guest, port: PortSpec) -> Tree:
    card = {
        "device-number": str(port.position),
        "interface-id": port.port_id,
        "local-hostname": _full_name(guest),
        "local-ipv4s": "\n".join(_of(port, 4)),
        "ipv6s": "\n".join(_of(port, 6)),
        "mac": port.mac_address,
        "owner-id": guest.spec.project_id,
        "subnet-ipv4-cidr-block": "\n".join(
            str(each.interface.network) for each in port.addresses if each.ip.version == 4
        ),
    }
    return {name: text.encode() for name, text in card.items() if text}


def _identity(guest: Guest) -> bytes:
    private = _of(guest.port, 4)
    return _json(
        {
            "accountId": guest.spec.project_id,
            "instanceId": guest.spec.instance_id,
            "privateIp": private[0] if private else None,
            "version": "2017-09-30",
        }
    )


def _openstack(guest: Guest) -> Tree:
    spec = guest.spec
    keys = {f"key-{number}": key for number, key in enumerate(spec.seed.public_keys)}
    tree: dict[str, Tree | bytes] = {
        "meta_data.json": _json(
            {
                "uuid": str(uuid_of(spec.instance_id)),
                "name": spec.name,
                "hostname": _full_name(guest),
                "project_id": spec.project_id,
                "launch_index": 0,
                "meta": {"unkai-instance-id": spec.instance_id},
                "public_keys": keys,
                "keys": [{"name": name, "type": "ssh", "data": key} for name, key in keys.items()],
            }
        ),
        "network_data.json": _json(_network_data(guest)),
        "vendor_data.json": _json({}),
        "vendor_data2.json": _json({}),
    }
    if spec.seed.user_data:
        tree["user_data"] = spec.seed.user_data
    return tree


def _network_data(guest: Guest) -> dict[str, Any]:
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    routed: set[int] = set()
    for port in guest.spec.ports:
        links.append(
            {
                "id": port.device,
                "vif_id": port.interface_id,
                "type": "phy",
                "ethernet_mac_address": port.mac_address,
                "mtu": port.mtu,
            }
        )
        leased = next((each for each in port.addresses if each.dhcp and each.ip.version == 4), None)
        for address in port.addresses:
            if address is leased:
                # By DHCP come the routes, too, with that to here: it is on the link, for which
                # these documents have no word.
                routed.add(4)
                found = _of_network(port, "ipv4_dhcp")
            else:
                found = _network(port, address, routed)
            networks.append(found | {"id": f"network{len(networks)}"})
        # `search` is not Nova's; cloud-init takes it. A guest that does not asks by whole names.
        search = {"search": [port.dns_domain]} if port.dns_domain else {}
        services += [{"type": "dns", "address": each} | search for each in port.dns_servers]
    unique = [each for at, each in enumerate(services) if each not in services[:at]]
    return {"links": links, "networks": networks, "services": unique}


def _of_network(port: PortSpec, kind: str) -> dict[str, Any]:
    return {"link": port.device, "network_id": str(uuid_of(port.network_id)), "type": kind}


def _network(port: PortSpec, address: PortAddress, routed: set[int]) -> dict[str, Any]:
    """Describe an address. `routed`: kinds (4, 6) that have their default route; added to."""
    kind = address.ip.version
    network = _of_network(port, _MODES[address.ipv6_mode] if address.dhcp else f"ipv{kind}")
    if network["type"] in ("ipv4", "ipv6"):
        ways = [] if kind == 6 else _routes(port, address)
        if address.gateway_address and kind not in routed:
            routed.add(kind)
            ways.insert(0, ("0.0.0.0/0" if kind == 4 else "::/0", address.gateway_address))
        network["ip_address"] = address.address
        network["netmask"] = str(address.interface.netmask)
        network["routes"] = [_route(to, via) for to, via in ways]
        network["services"] = [{"type": "dns", "address": each} for each in port.dns_servers]
    return network


def _routes(port: PortSpec, address: PortAddress) -> list[tuple[str, str]]:
    ways = [(route.destination, route.next_hop) for route in port.host_routes]
    near = port.metadata_address_near(address)
    return [*ways, (f"{METADATA_ADDRESS}/32", near)] if near else ways


def _route(to: str, via: str) -> dict[str, str]:
    network = ip_network(to)
    return {
        "network": str(network.network_address),
        "netmask": str(network.netmask),
        "gateway": via,
    }


def _of(port: PortSpec, version: int) -> list[str]:
    return [each.address for each in port.addresses if each.ip.version == version]


def _full_name(guest: Guest) -> str:
    hostname, domain = guest.spec.seed.hostname, guest.port.dns_domain
    return f"{hostname}.{domain}" if domain and "." not in hostname else hostname


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()

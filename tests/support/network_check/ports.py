"""Checks of OVN's ports: their addresses, what they may send, are told and may use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import METADATA, Cloud, in_words, unit_of, version_of
from tests.support.ovsdb_look import Row, members
from tests.support.sights import uuid_of


def check_ports(cloud: Cloud) -> Iterator[Finding]:
    for ident, port in cloud.ports.items():
        if not cloud.is_guests(port):
            continue
        for row in cloud.named("Logical_Switch_Port", uuid_of(ident)):
            yield from _port(cloud, port, row)


def _port(cloud: Cloud, port: Row, row: Row) -> Iterator[Finding]:
    ident, fixed = port["id"], [address for _, address in cloud.fixed[port["id"]]]
    if row["_uuid"] != uuid_of(ident):
        yield Finding(Kind.PORT_AT_ODDS, ident, f"its row is {row['_uuid']}")
    wanted = {_frozen([port["mac_address"], *fixed])}
    pairs = [(p["mac_address"] or port["mac_address"], p["cidr"]) for p in port["pairs"]]
    wanted |= {_frozen([mac]) for mac, _ in pairs if mac != port["mac_address"]}
    wanted |= set() if port["anti_spoofing"] else {_frozen(["unknown"])}
    said = {_frozen(text.split()) for text in members(row["addresses"])}
    if said != wanted:
        yield Finding(
            Kind.PORT_AT_ODDS, ident, f"addresses {in_words(said)}, not {in_words(wanted)}"
        )
    allowed: dict[str, set[str]] = defaultdict(set)
    if port["anti_spoofing"]:
        allowed[port["mac_address"]] |= set(fixed)
        for mac, cidr in pairs:
            allowed[mac].add(cidr.removesuffix("/32" if version_of(cidr) == 4 else "/128"))
        for mac, some in allowed.items():
            some.add(_link_local(mac))
    security = {text.split()[0]: set(text.split()[1:]) for text in members(row["port_security"])}
    if security != dict(allowed) or len(security) != len(members(row["port_security"])):
        yield Finding(Kind.SECURITY_AT_ODDS, ident, f"{security}, not {dict(allowed)}")
    host = row["options"].get("requested-chassis", "")
    enabled = members(row["enabled"]) == {True}  # only what is plugged in somewhere
    if host != cloud.host_of(port) or row["type"] or enabled != (port["owner_kind"] == "INSTANCE"):
        yield Finding(Kind.PORT_AT_ODDS, ident, f"for {host!r}, type {row['type']!r}, {enabled=}")
    for version in (4, 6):
        yield from _told(cloud, port, row, version)


def _told(cloud: Cloud, port: Row, row: Row, version: int) -> Iterator[Finding]:
    """A port is told what one of its subnets says, if one says anything."""
    own = [cloud.subnets[subnet_id] for subnet_id, _ in cloud.fixed[port["id"]]]
    telling = [some for some in own if version_of(some["cidr"]) == version and _has_dhcp(some)]
    stateful = [some for some in telling if some["ipv6_mode"] != "DHCPV6_STATELESS"]
    wanted = {f"subnet:{some['id']}" for some in stateful or telling}
    said = {unit_of(some) for some in cloud.refers(row, f"dhcpv{version}_options")}
    if not said <= wanted or bool(said) != bool(wanted):
        yield Finding(Kind.PORT_AT_ODDS, port["id"], f"DHCPv{version} by {said}, not {wanted}")


def check_limits(cloud: Cloud) -> Iterator[Finding]:
    for ident, port in cloud.ports.items():
        if not cloud.is_guests(port):
            continue
        wanted = {
            (direction, f'{end} == "{uuid_of(ident)}"', *_meter(port, way))
            for way, direction, end in (
                ("egress", "from-lport", "inport"),
                ("ingress", "to-lport", "outport"),
            )
            if port[f"{way}_bits_per_s"]
        }
        said = {
            (row["direction"], row["match"], row["bandwidth"]["rate"], row["bandwidth"]["burst"])
            for row in cloud.of_unit("QoS", "port", ident)
        }
        if said != wanted:
            yield Finding(Kind.LIMIT_AT_ODDS, ident, f"{said}, not {wanted}")


def _meter(port: Row, way: str) -> tuple[int, int]:
    rate, burst = port[f"{way}_bits_per_s"], port[f"{way}_burst_bits"]
    return -(-rate // 1000), max(1, -(-(burst or rate * 4 // 5) // 1000))


def check_dhcp(cloud: Cloud) -> Iterator[Finding]:
    for ident, subnet in cloud.subnets.items():
        found = cloud.of_unit("DHCP_Options", "subnet", ident)
        network = cloud.networks[subnet["network_id"]]
        if len(found) != _has_dhcp(subnet):
            yield Finding(Kind.DHCP_AT_ODDS, ident, f"{len(found)} rows")
        for row in found:
            said = row["options"]
            problems = [] if row["cidr"] == subnet["cidr"] else [f"of {row['cidr']}"]
            for key, value in _wanted_options(network, subnet).items():
                if said.get(key, "").strip('"') != value:
                    problems.append(f"{key}={said.get(key)}, not {value}")
            first = METADATA[0] if version_of(subnet["cidr"]) == 4 else METADATA[1]
            servers = said.get("dns_server", "").strip("{}").split(", ")
            told = [one for one in subnet["dns_servers"] if version_of(one) == version_of(first)]
            if servers[0] != first or (told and servers[1:] != told):
                problems.append(f"name servers {servers}")
            yield from (Finding(Kind.DHCP_AT_ODDS, ident, text) for text in problems)


def _wanted_options(network: Row, subnet: Row) -> dict[str, str]:
    if version_of(subnet["cidr"]) == 6:
        stateless = subnet["ipv6_mode"] == "DHCPV6_STATELESS"
        return {"dhcpv6_stateless": "true" if stateless else ""}
    routes = [f"{METADATA[0]}/32, 0.0.0.0"]
    routes += [f"{one['destination']}, {one['next_hop']}" for one in subnet["host_routes"]]
    if subnet["gateway_address"]:
        routes.append(f"0.0.0.0/0, {subnet['gateway_address']}")
    return {
        "mtu": str(network["mtu"]),
        "router": subnet["gateway_address"],
        "server_id": METADATA[0],
        "domain_name": network["dns_domain"],
        "classless_static_route": "{" + ", ".join(routes) + "}",
    }


def _has_dhcp(subnet: Row) -> bool:
    told = version_of(subnet["cidr"]) == 4 or subnet["ipv6_mode"] != "SLAAC"
    return bool(subnet["dhcp"]) and told


def _link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    parts = [int(part, 16) for part in mac.split(":")]
    parts[0] ^= 2
    value = int.from_bytes(bytes([*parts[:3], 0xFF, 0xFE, *parts[3:]]))
    return str(IPv6Address(0xFE80 << 112 | value))


def _frozen(words: Sequence[str]) -> frozenset[str]:
    return frozenset(words)

"""Checks of OVN's switches: which there are, and what is on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import METADATA, Cloud, resources_of, unit_of
from tests.support.ovsdb_look import members
from tests.support.sights import uuid_of


def check_units(cloud: Cloud) -> Iterator[Finding]:
    """Whatever is ours is of something that there is, and a row that hangs on nothing is none."""
    for table, some in cloud.sight.northbound.items():
        for row in some:
            kind, _, ident = unit_of(row).partition(":")
            if kind and ident not in resources_of(cloud, kind):
                yield Finding(Kind.UNIT_OF_NOTHING, f"{kind}:{ident}", f"{table} {row['_uuid']}")


def check_switches(cloud: Cloud) -> Iterator[Finding]:
    for ident, network in cloud.networks.items():
        found = cloud.of_unit("Logical_Switch", "network", ident)
        if len(found) != 1 or found[0]["name"] != uuid_of(ident):
            yield Finding(Kind.SWITCH_AT_ODDS, ident, f"{[row['name'] for row in found]}")
            continue
        ports = {row["name"]: row for row in cloud.refers(found[0], "ports") if unit_of(row)}
        wanted = _wanted_ports(cloud, ident)
        for name in sorted(wanted ^ ports.keys()):
            text = "is missing" if name in wanted else "is too much"
            yield Finding(Kind.PORT_AT_ODDS, name, f"{text} on {ident}")
        meta = ports.get(f"meta-{uuid_of(ident)}")
        if meta is not None:
            said = next(iter(members(meta["addresses"])), "").split()[1:]
            if meta["type"] != "localport" or set(said) != set(METADATA):
                yield Finding(Kind.PORT_AT_ODDS, meta["name"], f"{meta['type']} with {said}")
        way = ports.get(f"phys-{uuid_of(ident)}")
        if way is not None:
            tag = next(iter(members(way["tag"])), 0)
            led = way["options"].get("network_name"), tag, way["type"]
            if led != (network["physical_network"], network["vlan_id"] or 0, "localnet"):
                yield Finding(Kind.PORT_AT_ODDS, way["name"], f"leads to {led}")


def _wanted_ports(cloud: Cloud, network_id: str) -> set[str]:
    wanted = {f"meta-{uuid_of(network_id)}"}
    if cloud.networks[network_id]["type"] != "OVERLAY":
        wanted.add(f"phys-{uuid_of(network_id)}")
    out = {port["id"] for row in cloud.routers.values() if (port := cloud.way_out(row))}
    for ident, port in cloud.ports.items():
        plugged = cloud.is_guests(port) or port["owner_kind"] == "ROUTER" or ident in out
        if port["network_id"] == network_id and plugged:
            wanted.add(uuid_of(ident))
    return wanted


def check_twice_in_ovn(cloud: Cloud) -> Iterator[Finding]:
    """Whoever made them: no two ports of a switch answer for one address."""
    for switch in cloud.rows("Logical_Switch"):
        if not unit_of(switch):
            continue
        given: Counter[str] = Counter()
        for row in cloud.refers(switch, "ports"):
            words = {word for text in members(row["addresses"]) for word in text.split()}
            given.update(words - {"router", "unknown", "dynamic"})
            peer = row["options"].get("router-port", "")
            for port in cloud.named("Logical_Router_Port", peer) if peer else []:
                given.update(one.partition("/")[0] for one in members(port["networks"]))
                given.update([port["mac"]])
        for word, times in given.items():
            if times > 1:
                yield Finding(Kind.GIVEN_TWICE, switch["name"], f"{word} {times} times in OVN")

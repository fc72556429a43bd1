"""Checks of chassis, bindings, switches and namespaces: what is on which host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import Cloud, HostSight
from tests.support.ovsdb_look import Row, members
from tests.support.sights import uuid_of


def check_chassis(cloud: Cloud) -> Iterator[Finding]:
    for row in (cloud.sight.southbound or {})["Chassis"]:
        if row["name"] not in cloud.hosts:
            yield Finding(Kind.CHASSIS_OF_NOBODY, row["name"], row["hostname"])


def check_bindings(cloud: Cloud) -> Iterator[Finding]:
    southbound = cloud.sight.southbound or {}
    names = {row["_uuid"]: row["name"] for row in southbound["Chassis"]}
    bound = {row["logical_port"]: row for row in southbound["Port_Binding"]}
    for ident, port in cloud.ports.items():
        if not cloud.is_guests(port):
            continue
        wanted = cloud.host_of(port) if cloud.is_running(port) else ""
        row = bound.get(uuid_of(ident))
        if row is None:
            yield Finding(Kind.BINDING_AT_ODDS, ident, "not in the southbound database")
            continue
        on = "".join(names.get(one, "?") for one in members(row["chassis"]))
        is_up = members(row["up"]) == {True}
        if on != wanted or is_up != bool(wanted):
            yield Finding(Kind.BINDING_AT_ODDS, ident, f"on {on!r}, not {wanted!r}; up {is_up}")


def check_hosts(cloud: Cloud) -> Iterator[Finding]:
    seen = {one.host_id for one in cloud.sight.hosts or ()}
    for ident in sorted(set(cloud.claims.values()) - seen):
        yield Finding(Kind.HOST_UNSEEN, ident)
    for one in cloud.sight.hosts or ():
        yield from _interfaces(cloud, one)
        yield from _namespaces(cloud, one)


def _interfaces(cloud: Cloud, seen: HostSight) -> Iterator[Finding]:
    here = [p for p in cloud.ports.values() if cloud.host_of(p) == seen.host_id]
    wanted = {uuid_of(port["id"]): port["id"] for port in here if cloud.is_running(port)}
    meta = {f"meta-{uuid_of(port['network_id'])}" for port in here}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in seen.switch["Interface"]:
        iface = row["external_ids"].get("iface-id", "")
        if iface:
            found[iface].append(row)
        elif row["name"].startswith("tap"):
            yield Finding(Kind.OVS_PORT_OF_NOBODY, seen.host_id, f"{row['name']} says no id")
    for iface, rows in found.items():
        names = [row["name"] for row in rows]
        if iface not in wanted and iface not in meta:
            yield Finding(Kind.OVS_PORT_OF_NOBODY, seen.host_id, f"{names} is {iface}")
        if len(rows) > 1:
            yield Finding(Kind.OVS_PORT_TWICE, seen.host_id, f"{names} are {iface}")
        for row in rows:
            yield from _interface(seen, row, wanted.get(iface, ""))
    for iface in sorted(wanted.keys() - found.keys()):
        yield Finding(Kind.OVS_PORT_MISSING, wanted[iface], f"on {seen.host_id}")


def _interface(seen: HostSight, row: Row, port_id: str) -> Iterator[Finding]:
    opened = members(row["ofport"]) - {-1}
    installed = not port_id or row["external_ids"].get("ovn-installed") == "true"
    if members(row["error"]) - {""} or not opened or not installed:
        text = f"{row['name']}: {row['error'] or ''} ofport {row['ofport']} {installed=}"
        yield Finding(Kind.OVS_PORT_BROKEN, seen.host_id, text)
    if port_id and row["name"] != f"tap{port_id[-12:]}":
        yield Finding(Kind.OVS_PORT_BROKEN, seen.host_id, f"{port_id} is {row['name']}")


def _namespaces(cloud: Cloud, seen: HostSight) -> Iterator[Finding]:
    here = [p for p in cloud.ports.values() if cloud.host_of(p) == seen.host_id]
    may = {f"unkai-{port['network_id']}" for port in here}
    must = {f"unkai-{port['network_id']}" for port in here if cloud.is_running(port)}
    found = {name for name in seen.namespaces if name.startswith("unkai-net-")}
    for name in sorted(found - may):
        yield Finding(Kind.NAMESPACE_LEFT, seen.host_id, name)
    for name in sorted(must - found):
        yield Finding(Kind.NAMESPACE_MISSING, seen.host_id, name)

"""Checks of OVN's load balancers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import Cloud, version_of
from tests.support.ovsdb_look import Row, members
from tests.support.sights import uuid_of


def check_balancers(cloud: Cloud) -> Iterator[Finding]:
    for ident, balancer in cloud.balancers.items():
        found = {row["name"]: row for row in cloud.of_unit("Load_Balancer", "load_balancer", ident)}
        protocols = {one["protocol"] for one in balancer["listeners"]}
        wanted = {f"{uuid_of(ident)}-{one.lower()}": one for one in protocols}
        if found.keys() != wanted.keys():
            yield Finding(Kind.BALANCER_AT_ODDS, ident, f"{set(found)}, not {set(wanted)}")
        for name, protocol in wanted.items():
            if name in found:
                yield from _balancer(cloud, balancer, protocol, found[name])


def _balancer(cloud: Cloud, balancer: Row, protocol: str, row: Row) -> Iterator[Finding]:
    own = cloud.fixed[balancer["port_id"]][0][1]
    leading = [one for one in cloud.floating.values() if one["port_id"] == balancer["port_id"]]
    ends = [own, *(cloud.fixed[one["holder_port_id"]][0][1] for one in leading)]
    wanted: dict[str, set[str]] = {}
    checked: set[str] = set()
    for listener in balancer["listeners"]:
        if listener["protocol"] != protocol:
            continue
        number = listener["port_number"]
        backends, subnets = _backends(cloud, balancer, protocol, number, version_of(own))
        for end in ends:
            if version_of(end) == version_of(own):
                wanted[_end(end, number)] = backends
                if listener["health_check"] and subnets and subnets <= _probed(cloud):
                    checked.add(_end(end, number))
    said = {vip: set(filter(None, to.split(","))) for vip, to in row["vips"].items()}
    if said != wanted or row["protocol"] != protocol.lower():
        yield Finding(Kind.BALANCER_AT_ODDS, balancer["id"], f"{said}, not {wanted}")
    checks = {one["vip"] for one in cloud.refers(row, "health_check")}
    if checks != checked:
        yield Finding(Kind.BALANCER_AT_ODDS, balancer["id"], f"checks {checks}, not {checked}")
    yield from _hung(cloud, balancer, row)


def _backends(
    cloud: Cloud, balancer: Row, protocol: str, number: int, version: int
) -> tuple[set[str], set[str]]:
    """Return a listener's backends, and the subnets that they are on."""
    backends, subnets = set(), set()
    for member in cloud.sight.tables["load_balancer_members"]:
        of = member["load_balancer_id"], member["protocol"], member["listener_port_number"]
        first = cloud.first(member["port_id"], version)
        if of == (balancer["id"], protocol, number) and first:
            backends.add(_end(first[1], member["port_number"] or number))
            subnets.add(first[0])
    return backends, subnets


def _probed(cloud: Cloud) -> set[str]:
    """Return the subnets that keep an address for checks."""
    kept = [port for port in cloud.ports.values() if port["owner_kind"] == "LOAD_BALANCER"]
    return {port["owner_id"] for port in kept} & cloud.subnets.keys()


def _hung(cloud: Cloud, balancer: Row, row: Row) -> Iterator[Finding]:
    """A load balancer is on all routers of its subnet, and all their switches."""
    places = cloud.sight.tables["router_interfaces"]
    routers = {one["router_id"] for one in places if one["subnet_id"] == balancer["subnet_id"]}
    subnets = {one["subnet_id"] for one in places if one["router_id"] in routers}
    networks = {cloud.subnets[one]["network_id"] for one in {*subnets, balancer["subnet_id"]}}
    for table, wanted in (("Logical_Router", routers), ("Logical_Switch", networks)):
        on = {one["name"] for one in cloud.rows(table) if row["_uuid"] in _set(one)}
        if on != {uuid_of(one) for one in wanted}:
            yield Finding(Kind.BALANCER_AT_ODDS, balancer["id"], f"on {table} {on}, not {wanted}")


def _set(row: Row) -> frozenset[str]:
    return members(row["load_balancer"])


def _end(address: str, number: int) -> str:
    return f"[{address}]:{number}" if version_of(address) == 6 else f"{address}:{number}"

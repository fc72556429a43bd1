"""Checks of OVN's routers: where they are, by which hosts, routes and translations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import Cloud, address_of, in_words, version_of
from tests.support.ovsdb_look import Row, members
from tests.support.sights import uuid_of

MOST_GATEWAY_HOSTS = 5


def check_routers(cloud: Cloud) -> Iterator[Finding]:
    for ident, router in cloud.routers.items():
        found = cloud.of_unit("Logical_Router", "router", ident)
        if len(found) != 1 or found[0]["name"] != uuid_of(ident):
            yield Finding(Kind.ROUTER_AT_ODDS, ident, f"{[row['name'] for row in found]}")
            continue
        out = cloud.way_out(router)
        ports = {place["port_id"] for place in cloud.places(ident)} | (
            {out["id"]} if out else set()
        )
        wanted = {
            (f"lrp-{uuid_of(one)}", cloud.ports[one]["mac_address"], _networks(cloud, one))
            for one in ports
        }
        rows = cloud.refers(found[0], "ports")
        said = {(row["name"], row["mac"], members(row["networks"])) for row in rows}
        if said != wanted or len(rows) != len(wanted):
            yield Finding(Kind.ROUTER_AT_ODDS, ident, f"{in_words(said)}, not {in_words(wanted)}")
        for one in ports:
            peers = cloud.named("Logical_Switch_Port", uuid_of(one))
            led = [(row["type"], row["options"].get("router-port")) for row in peers]
            if led != [("router", f"lrp-{uuid_of(one)}")]:
                yield Finding(Kind.ROUTER_AT_ODDS, ident, f"the other end of {one} is {led}")
        yield from _gateways(cloud, router, rows, out)
        yield from _routes(cloud, router, found[0], out)


def _networks(cloud: Cloud, port_id: str) -> frozenset[str]:
    return frozenset(
        f"{address}/{ip_network(cloud.subnets[subnet_id]['cidr']).prefixlen}"
        for subnet_id, address in cloud.fixed[port_id]
    )


def _gateways(cloud: Cloud, router: Row, rows: Sequence[Row], out: Row | None) -> Iterator[Finding]:
    for row in rows:
        groups = cloud.refers(row, "ha_chassis_group")
        hosts = {
            one["chassis_name"] for group in groups for one in cloud.refers(group, "ha_chassis")
        }
        if out is None or row["name"] != f"lrp-{uuid_of(out['id'])}":
            if hosts:
                yield Finding(Kind.ROUTER_AT_ODDS, router["id"], f"{row['name']} is on {hosts}")
            continue
        physical = cloud.networks[out["network_id"]]["physical_network"]
        able = set(cloud.sight.gateway_hosts[physical])
        if not hosts <= able or len(hosts) != min(len(able), MOST_GATEWAY_HOSTS):
            yield Finding(Kind.ROUTER_AT_ODDS, router["id"], f"way out by {hosts} of {able}")


def _routes(cloud: Cloud, router: Row, row: Row, out: Row | None) -> Iterator[Finding]:
    wanted = {(one["destination"], one["next_hop"]) for one in router["routes"]}
    own = {destination for destination, _ in wanted}
    hops: dict[str, str] = {}
    for subnet_id in sorted({subnet_id for subnet_id, _ in cloud.fixed[out["id"]]} if out else ()):
        subnet = cloud.subnets[subnet_id]
        everything = "0.0.0.0/0" if version_of(subnet["cidr"]) == 4 else "::/0"
        if subnet["gateway_address"] and everything not in own:
            hops.setdefault(everything, subnet["gateway_address"])
    wanted |= set(hops.items())
    said = {(one["ip_prefix"], one["nexthop"]) for one in cloud.refers(row, "static_routes")}
    if said != wanted:
        yield Finding(Kind.ROUTE_AT_ODDS, router["id"], f"{said}, not {wanted}")


def check_nat(cloud: Cloud) -> Iterator[Finding]:
    for ident, router in cloud.routers.items():
        wanted = set()
        out = cloud.way_out(router)
        outside = cloud.first(out["id"], 4) if out and router["snat"] else None
        for place in cloud.places(ident) if outside else []:
            cidr = cloud.subnets[place["subnet_id"]]["cidr"]
            if version_of(cidr) == 4:
                wanted.add(("snat", outside[1], cidr))  # type: ignore[index]
        for floating in cloud.floating.values():
            port = cloud.ports.get(floating["port_id"] or "")
            if floating["router_id"] == ident and port and cloud.is_guests(port):
                held = cloud.fixed[floating["holder_port_id"]]
                fixed = address_of(floating["fixed_address"])
                wanted.add(("dnat_and_snat", held[0][1], fixed))
        said: set[tuple[str, str, str]] = set()
        for row in cloud.of_unit("Logical_Router", "router", ident):
            said |= {
                (one["type"], one["external_ip"], one["logical_ip"])
                for one in cloud.refers(row, "nat")
            }
        if said != wanted:
            yield Finding(Kind.NAT_AT_ODDS, ident, f"{said}, not {wanted}")

"""An independent checker of networks: store, OVN and switches, each read as it is, say one thing.

It derives by itself what must be there from the store's rows, and shares no line with what the
product derives: names and UUIDs of rows are read, never reckoned, but for those that the product
promises (a port's UUID, `meta-…`, `lrp-…`, `pg_…`). Compared are contents, as sets. Each kind of
disagreement is a `Kind`, and a test plants each.

It does not look itself, but is given a `Sight`. A cloud at work disagrees: ask until it is settled.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from tests.support.checker import uuid_of
from tests.support.ovsdb_look import Database, Row, members
from tests.support.raw_rows import Tables

UNIT = "unkai_unit"
METADATA = ("169.254.169.254", "fe80::a9fe:a9fe")
MOST_GATEWAY_HOSTS = 5


class Kind(Enum):
    """What must not be."""

    ADDRESS_ASTRAY = "an address that is not of its subnet, or of another network than its port"
    GIVEN_TWICE = "an address or MAC address that two have on one network"
    ROW_DANGLING = "a row about something that is not"
    WORK_LEFT = "a unit that OVN is still to be told of"
    TOMBSTONE_AT_ODDS = "a tombstone of what there is"
    UNIT_OF_NOTHING = "a northbound row of ours about something that is not"
    SWITCH_AT_ODDS = "a network whose switch is missing, doubled or another"
    PORT_AT_ODDS = "a port that OVN has not as the store says"
    SECURITY_AT_ODDS = "a port that may send as somebody it is not, or not as itself"
    GROUP_AT_ODDS = "a security group with other members in OVN"
    RULES_AT_ODDS = "a security group with other rules in OVN"
    DROP_AT_ODDS = "what no rule allows is not dropped for all"
    DHCP_AT_ODDS = "a subnet whose guests are told something else"
    LIMIT_AT_ODDS = "a port with other limits"
    ROUTER_AT_ODDS = "a router that is somewhere else"
    ROUTE_AT_ODDS = "a router with other routes"
    NAT_AT_ODDS = "a router that translates otherwise"
    BALANCER_AT_ODDS = "a load balancer that balances otherwise"
    BINDING_AT_ODDS = "a port on another host than its instance, or up nowhere"
    CHASSIS_OF_NOBODY = "a chassis that is no host"
    OVS_PORT_OF_NOBODY = "a switch's port that is no running machine's of this host"
    OVS_PORT_MISSING = "a running machine whose port is not plugged in"
    OVS_PORT_TWICE = "two of a switch's ports that claim to be one"
    OVS_PORT_BROKEN = "a switch's port without its device, or not installed"
    NAMESPACE_LEFT = "a namespace of a network that no machine of this host is on"
    NAMESPACE_MISSING = "a network of a running machine without its namespace"
    HOST_UNSEEN = "a host with machines that was not looked at"


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement."""

    kind: Kind
    subject: str
    text: str = ""

    def __str__(self) -> str:
        more = f": {self.text}" if self.text else ""
        return f"{self.kind.name} {self.subject}{more}"


@dataclass(frozen=True, slots=True)
class HostSight:
    """What was seen on one host."""

    host_id: str
    switch: Database
    """Of the host's Open_vSwitch database."""
    namespaces: Collection[str] = ()
    """Names under /run/netns."""


@dataclass(frozen=True, slots=True)
class Sight:
    """All that was seen."""

    tables: Tables
    northbound: Database
    southbound: Database | None = None
    """None: nobody looked."""
    hosts: Sequence[HostSight] | None = None
    """None: nobody looked."""
    gateway_hosts: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Physical network to the hosts whose switches are told that they reach it."""


def check(sight: Sight) -> list[Finding]:
    """Return all that disagrees."""
    cloud = _Cloud(sight)
    judges = [
        _addresses,
        _owners,
        _work,
        _units,
        _switches,
        _ports,
        _groups,
        _drops,
        _dhcp,
        _limits,
        _routers,
        _nat,
        _balancers,
        _twice_in_ovn,
    ]
    if sight.southbound is not None:
        judges += [_chassis, _bindings]
    if sight.hosts is not None:
        judges += [_hosts]
    return [finding for judge in judges for finding in judge(cloud)]


class _Cloud:
    """A sight, sorted for asking."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        tables = sight.tables
        self.networks = _by_id(tables["networks"])
        self.subnets = _by_id(tables["subnets"])
        self.ports = _by_id(tables["ports"])
        self.routers = _by_id(tables["routers"])
        self.groups = _by_id(tables["security_groups"])
        self.floating = _by_id(tables["floating_ips"])
        self.balancers = _by_id(tables["load_balancers"])
        self.instances = _by_id(tables["instances"])
        self.hosts = {row["id"] for row in tables["hosts"]}
        self.claims = {row["instance_id"]: row["host_id"] for row in tables["claims"]}
        self.fixed: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in sorted(tables["addresses"], key=lambda row: (row["position"], row["address"])):
            self.fixed[row["port_id"]].append((row["subnet_id"], _address(row["address"])))

    def rows(self, table: str) -> Sequence[Row]:
        return self.sight.northbound[table]

    @cached_property
    def by_uuid(self) -> Mapping[str, Row]:
        return {row["_uuid"]: row for some in self.sight.northbound.values() for row in some}

    def refers(self, row: Row, column: str) -> list[Row]:
        """Return the rows that a column refers to."""
        return [self.by_uuid[one] for one in members(row[column]) if one in self.by_uuid]

    def of_unit(self, table: str, kind: str, ident: str) -> list[Row]:
        return [row for row in self.rows(table) if _unit(row) == f"{kind}:{ident}"]

    def named(self, table: str, name: str) -> list[Row]:
        return [row for row in self.rows(table) if row["name"] == name]

    def is_guests(self, port: Row) -> bool:
        return port["owner_kind"] in {None, "INSTANCE"}

    def host_of(self, port: Row) -> str:
        owned = port["owner_kind"] == "INSTANCE"
        return self.claims.get(port["owner_id"], "") if owned else ""

    def is_running(self, port: Row) -> bool:
        instance = self.instances.get(port["owner_id"])
        return bool(instance) and instance["state"].upper() == "RUNNING"  # type: ignore[index]

    def first(self, port_id: str, version: int) -> tuple[str, str] | None:
        """Return the first subnet and address of a version that a port has."""
        return next((one for one in self.fixed[port_id] if _version(one[1]) == version), None)

    def places(self, router_id: str) -> list[Row]:
        return [r for r in self.sight.tables["router_interfaces"] if r["router_id"] == router_id]

    def way_out(self, router: Row) -> Row | None:
        """Return the port of a router's gateway, if some host reaches its network."""
        port = self.ports.get(router["gateway_port_id"] or "")
        network = self.networks.get(port["network_id"]) if port else None
        if network and self.sight.gateway_hosts.get(network["physical_network"]):
            return port
        return None


# The store alone.


def _addresses(cloud: _Cloud) -> Iterator[Finding]:
    for row in cloud.sight.tables["addresses"]:
        subnet, port = cloud.subnets.get(row["subnet_id"]), cloud.ports.get(row["port_id"])
        address = _address(row["address"])
        if subnet is None or port is None:
            yield Finding(Kind.ROW_DANGLING, address, "an address of no subnet or port")
            continue
        said = {row["network_id"], subnet["network_id"], port["network_id"]}
        if len(said) > 1 or ip_address(address) not in ip_network(subnet["cidr"]):
            yield Finding(Kind.ADDRESS_ASTRAY, port["id"], f"{address} of {subnet['cidr']}")
    for table, columns in (("addresses", "address"), ("ports", "mac_address")):
        given = Counter((r["network_id"], r[columns]) for r in cloud.sight.tables[table])
        for (network_id, value), times in given.items():
            if times > 1:
                yield Finding(Kind.GIVEN_TWICE, network_id, f"{value} {times} times")


def _owners(cloud: _Cloud) -> Iterator[Finding]:
    places = {row["port_id"] for row in cloud.sight.tables["router_interfaces"]}
    ways_out = {row["gateway_port_id"] for row in cloud.routers.values()}
    holders = {row["holder_port_id"] for row in cloud.floating.values()}
    balanced = {row["port_id"] for row in cloud.balancers.values()}
    holding = {
        "ROUTER": places,
        "GATEWAY": ways_out,
        "FLOATING_IP": holders,
        "LOAD_BALANCER": balanced,
    }
    owners: Mapping[str, Collection[str]] = {
        "INSTANCE": cloud.instances,
        "ROUTER": cloud.routers,
        "GATEWAY": cloud.routers,
        "FLOATING_IP": cloud.floating,
        "LOAD_BALANCER": {*cloud.balancers, *cloud.subnets},
    }
    for ident, port in cloud.ports.items():
        kind, owner = port["owner_kind"], port["owner_id"]
        if kind and owner not in owners[kind]:
            yield Finding(Kind.ROW_DANGLING, ident, f"port of {kind} {owner}")
        elif kind in holding and ident not in holding[kind] and owner not in cloud.subnets:
            yield Finding(Kind.ROW_DANGLING, ident, f"{kind} {owner} has it no more")
        if kind and not cloud.fixed[ident] and kind != "INSTANCE":
            yield Finding(Kind.ROW_DANGLING, ident, f"port of {kind} without an address")


def _work(cloud: _Cloud) -> Iterator[Finding]:
    for row in cloud.sight.tables["ovn_work"]:
        key = f"{row['kind']}:{row['id']}"
        yield Finding(Kind.WORK_LEFT, key, f"attempt {row['attempt']}, {row['reason']}")
    for row in cloud.sight.tables["ovn_tombstones"]:
        if row["id"] in _resources(cloud, row["kind"]):
            yield Finding(Kind.TOMBSTONE_AT_ODDS, f"{row['kind']}:{row['id']}")


def _resources(cloud: _Cloud, kind: str) -> Collection[str]:
    kinds: Mapping[str, Collection[str]] = {
        "cloud": {"base"},
        "network": cloud.networks,
        "subnet": cloud.subnets,
        "port": {i for i, port in cloud.ports.items() if cloud.is_guests(port)},
        "security_group": cloud.groups,
        "router": cloud.routers,
        "floating_ip": cloud.floating,
        "load_balancer": cloud.balancers,
    }
    return kinds.get(kind, ())


# The northbound database.


def _units(cloud: _Cloud) -> Iterator[Finding]:
    """Whatever is ours is of something that there is, and a row that hangs on nothing is none."""
    for table, some in cloud.sight.northbound.items():
        for row in some:
            kind, _, ident = _unit(row).partition(":")
            if kind and ident not in _resources(cloud, kind):
                yield Finding(Kind.UNIT_OF_NOTHING, f"{kind}:{ident}", f"{table} {row['_uuid']}")


def _switches(cloud: _Cloud) -> Iterator[Finding]:
    for ident, network in cloud.networks.items():
        found = cloud.of_unit("Logical_Switch", "network", ident)
        if len(found) != 1 or found[0]["name"] != uuid_of(ident):
            yield Finding(Kind.SWITCH_AT_ODDS, ident, f"{[row['name'] for row in found]}")
            continue
        ports = {row["name"]: row for row in cloud.refers(found[0], "ports") if _unit(row)}
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


def _wanted_ports(cloud: _Cloud, network_id: str) -> set[str]:
    wanted = {f"meta-{uuid_of(network_id)}"}
    if cloud.networks[network_id]["type"] != "OVERLAY":
        wanted.add(f"phys-{uuid_of(network_id)}")
    out = {port["id"] for row in cloud.routers.values() if (port := cloud.way_out(row))}
    for ident, port in cloud.ports.items():
        plugged = cloud.is_guests(port) or port["owner_kind"] == "ROUTER" or ident in out
        if port["network_id"] == network_id and plugged:
            wanted.add(uuid_of(ident))
    return wanted


def _ports(cloud: _Cloud) -> Iterator[Finding]:
    for ident, port in cloud.ports.items():
        if not cloud.is_guests(port):
            continue
        for row in cloud.named("Logical_Switch_Port", uuid_of(ident)):
            yield from _port(cloud, port, row)


def _port(cloud: _Cloud, port: Row, row: Row) -> Iterator[Finding]:
    ident, fixed = port["id"], [address for _, address in cloud.fixed[port["id"]]]
    if row["_uuid"] != uuid_of(ident):
        yield Finding(Kind.PORT_AT_ODDS, ident, f"its row is {row['_uuid']}")
    wanted = {_frozen([port["mac_address"], *fixed])}
    pairs = [(p["mac_address"] or port["mac_address"], p["cidr"]) for p in port["pairs"]]
    wanted |= {_frozen([mac]) for mac, _ in pairs if mac != port["mac_address"]}
    wanted |= set() if port["anti_spoofing"] else {_frozen(["unknown"])}
    said = {_frozen(text.split()) for text in members(row["addresses"])}
    if said != wanted:
        yield Finding(Kind.PORT_AT_ODDS, ident, f"addresses {_text(said)}, not {_text(wanted)}")
    allowed: dict[str, set[str]] = defaultdict(set)
    if port["anti_spoofing"]:
        allowed[port["mac_address"]] |= set(fixed)
        for mac, cidr in pairs:
            allowed[mac].add(cidr.removesuffix("/32" if _version(cidr) == 4 else "/128"))
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


def _told(cloud: _Cloud, port: Row, row: Row, version: int) -> Iterator[Finding]:
    """A port is told what one of its subnets says, if one says anything."""
    own = [cloud.subnets[subnet_id] for subnet_id, _ in cloud.fixed[port["id"]]]
    telling = [some for some in own if _version(some["cidr"]) == version and _has_dhcp(some)]
    stateful = [some for some in telling if some["ipv6_mode"] != "DHCPV6_STATELESS"]
    wanted = {f"subnet:{some['id']}" for some in stateful or telling}
    said = {_unit(some) for some in cloud.refers(row, f"dhcpv{version}_options")}
    if not said <= wanted or bool(said) != bool(wanted):
        yield Finding(Kind.PORT_AT_ODDS, port["id"], f"DHCPv{version} by {said}, not {wanted}")


def _groups(cloud: _Cloud) -> Iterator[Finding]:
    inside: dict[str, set[str]] = defaultdict(set)
    for row in cloud.sight.tables["port_security_groups"]:
        port = cloud.ports[row["port_id"]]
        if port["anti_spoofing"] and cloud.is_guests(port):
            inside[row["group_id"]].add(uuid_of(row["port_id"]))
    for ident in cloud.groups:
        found = cloud.named("Port_Group", _group_name(ident))
        if len(found) != 1:
            yield Finding(Kind.GROUP_AT_ODDS, ident, f"{len(found)} port groups")
            continue
        ports = {one["name"] for one in cloud.refers(found[0], "ports")}
        if ports != inside[ident]:
            yield Finding(Kind.GROUP_AT_ODDS, ident, f"differs by {ports ^ inside[ident]}")
        rules = [r for r in cloud.sight.tables["security_group_rules"] if r["group_id"] == ident]
        wanted = Counter(rule for row in rules for rule in _acls(ident, row))
        said = Counter(_acl(row) for row in cloud.refers(found[0], "acls"))
        if set(said) != set(wanted) or said - wanted:
            yield Finding(
                Kind.RULES_AT_ODDS,
                ident,
                f"missing {_text(wanted - said)}, too much {_text(said - wanted)}",
            )


_Acl = tuple[str, int, str, frozenset[str]]


def _acl(row: Row) -> _Acl:
    conditions = frozenset(part.strip() for part in row["match"].split("&&"))
    return row["direction"], row["priority"], row["action"], conditions


def _acls(group_id: str, rule: Row) -> Iterator[_Acl]:
    """Yield what a rule is in OVN, for each version that it is about."""
    comes_in = rule["direction"] == "INGRESS"
    end, other = ("outport", "src") if comes_in else ("inport", "dst")
    for version in (4, 6):
        if rule["ip_version"] not in {0, version}:
            continue
        if rule["remote_cidr"] and _version(rule["remote_cidr"]) != version:
            continue
        parts = [f"{end} == @{_group_name(group_id)}", f"ip{version}"]
        if rule["remote_cidr"] and ip_network(rule["remote_cidr"]).prefixlen:
            parts.append(f"ip{version}.{other} == {rule['remote_cidr']}")
        if rule["remote_group_id"]:
            name = _group_name(rule["remote_group_id"])
            parts.append(f"ip{version}.{other} == ${name}_ip{version}")
        parts += _protocol(rule, version)
        direction = "to-lport" if comes_in else "from-lport"
        yield direction, 1002, "allow-related", frozenset(parts)


def _protocol(rule: Row, version: int) -> list[str]:
    if rule["protocol"] is None:
        return []
    if rule["protocol"] == "ICMP":
        name = f"icmp{version}"
        kinds = [("type", rule["icmp_type"]), ("code", rule["icmp_code"])]
        return [name, *(f"{name}.{word} == {n}" for word, n in kinds if n is not None)]
    name = rule["protocol"].lower()
    first = rule["port_first"]
    last = rule["port_last"] or first
    if not first or (first, last) == (1, 65535):
        return [name]
    if first == last:
        return [name, f"{name}.dst == {first}"]
    return [name, f"{name}.dst >= {first}", f"{name}.dst <= {last}"]


def _drops(cloud: _Cloud) -> Iterator[Finding]:
    """All ports that may not spoof are in one group, whose last word is to drop."""
    found = cloud.named("Port_Group", "unkai_drop")
    guests = [port for port in cloud.ports.values() if cloud.is_guests(port)]
    wanted = {uuid_of(port["id"]) for port in guests if port["anti_spoofing"]}
    if len(found) != 1:
        if wanted:
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"{len(found)} port groups")
        return
    ports = {one["name"] for one in cloud.refers(found[0], "ports")}
    if ports != wanted:
        yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"differs by {ports ^ wanted}")
    acls = [_acl(row) for row in cloud.refers(found[0], "acls")]
    for direction, end in (("to-lport", "outport"), ("from-lport", "inport")):
        if (direction, 1000, "drop", frozenset([f"{end} == @unkai_drop", "ip"])) not in acls:
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"nothing drops {direction}")
    for direction, priority, action, conditions in acls:
        opens = action != "drop" and (direction, priority) != ("from-lport", 1010)
        served = {"tcp.dst == 80", "udp.dst == 53", "tcp.dst == 53", "udp.dst == 67"}
        served |= {"udp.dst == 547"}
        if opens or (action != "drop" and not conditions & served):
            yield Finding(Kind.DROP_AT_ODDS, "unkai_drop", f"lets {_text(conditions)} pass")


def _dhcp(cloud: _Cloud) -> Iterator[Finding]:
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
            first = METADATA[0] if _version(subnet["cidr"]) == 4 else METADATA[1]
            servers = said.get("dns_server", "").strip("{}").split(", ")
            told = [one for one in subnet["dns_servers"] if _version(one) == _version(first)]
            if servers[0] != first or (told and servers[1:] != told):
                problems.append(f"name servers {servers}")
            yield from (Finding(Kind.DHCP_AT_ODDS, ident, text) for text in problems)


def _wanted_options(network: Row, subnet: Row) -> dict[str, str]:
    if _version(subnet["cidr"]) == 6:
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
    told = _version(subnet["cidr"]) == 4 or subnet["ipv6_mode"] != "SLAAC"
    return bool(subnet["dhcp"]) and told


def _limits(cloud: _Cloud) -> Iterator[Finding]:
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


def _routers(cloud: _Cloud) -> Iterator[Finding]:
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
            yield Finding(Kind.ROUTER_AT_ODDS, ident, f"{_text(said)}, not {_text(wanted)}")
        for one in ports:
            peers = cloud.named("Logical_Switch_Port", uuid_of(one))
            led = [(row["type"], row["options"].get("router-port")) for row in peers]
            if led != [("router", f"lrp-{uuid_of(one)}")]:
                yield Finding(Kind.ROUTER_AT_ODDS, ident, f"the other end of {one} is {led}")
        yield from _gateways(cloud, router, rows, out)
        yield from _routes(cloud, router, found[0], out)


def _networks(cloud: _Cloud, port_id: str) -> frozenset[str]:
    return frozenset(
        f"{address}/{ip_network(cloud.subnets[subnet_id]['cidr']).prefixlen}"
        for subnet_id, address in cloud.fixed[port_id]
    )


def _gateways(
    cloud: _Cloud, router: Row, rows: Sequence[Row], out: Row | None
) -> Iterator[Finding]:
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


def _routes(cloud: _Cloud, router: Row, row: Row, out: Row | None) -> Iterator[Finding]:
    wanted = {(one["destination"], one["next_hop"]) for one in router["routes"]}
    own = {destination for destination, _ in wanted}
    hops: dict[str, str] = {}
    for subnet_id in sorted({subnet_id for subnet_id, _ in cloud.fixed[out["id"]]} if out else ()):
        subnet = cloud.subnets[subnet_id]
        everything = "0.0.0.0/0" if _version(subnet["cidr"]) == 4 else "::/0"
        if subnet["gateway_address"] and everything not in own:
            hops.setdefault(everything, subnet["gateway_address"])
    wanted |= set(hops.items())
    said = {(one["ip_prefix"], one["nexthop"]) for one in cloud.refers(row, "static_routes")}
    if said != wanted:
        yield Finding(Kind.ROUTE_AT_ODDS, router["id"], f"{said}, not {wanted}")


def _nat(cloud: _Cloud) -> Iterator[Finding]:
    for ident, router in cloud.routers.items():
        wanted = set()
        out = cloud.way_out(router)
        outside = cloud.first(out["id"], 4) if out and router["snat"] else None
        for place in cloud.places(ident) if outside else []:
            cidr = cloud.subnets[place["subnet_id"]]["cidr"]
            if _version(cidr) == 4:
                wanted.add(("snat", outside[1], cidr))  # type: ignore[index]
        for floating in cloud.floating.values():
            port = cloud.ports.get(floating["port_id"] or "")
            if floating["router_id"] == ident and port and cloud.is_guests(port):
                held = cloud.fixed[floating["holder_port_id"]]
                fixed = _address(floating["fixed_address"])
                wanted.add(("dnat_and_snat", held[0][1], fixed))
        said: set[tuple[str, str, str]] = set()
        for row in cloud.of_unit("Logical_Router", "router", ident):
            said |= {
                (one["type"], one["external_ip"], one["logical_ip"])
                for one in cloud.refers(row, "nat")
            }
        if said != wanted:
            yield Finding(Kind.NAT_AT_ODDS, ident, f"{said}, not {wanted}")


def _balancers(cloud: _Cloud) -> Iterator[Finding]:
    for ident, balancer in cloud.balancers.items():
        found = {row["name"]: row for row in cloud.of_unit("Load_Balancer", "load_balancer", ident)}
        protocols = {one["protocol"] for one in balancer["listeners"]}
        wanted = {f"{uuid_of(ident)}-{one.lower()}": one for one in protocols}
        if found.keys() != wanted.keys():
            yield Finding(Kind.BALANCER_AT_ODDS, ident, f"{set(found)}, not {set(wanted)}")
        for name, protocol in wanted.items():
            if name in found:
                yield from _balancer(cloud, balancer, protocol, found[name])


def _balancer(cloud: _Cloud, balancer: Row, protocol: str, row: Row) -> Iterator[Finding]:
    own = cloud.fixed[balancer["port_id"]][0][1]
    leading = [one for one in cloud.floating.values() if one["port_id"] == balancer["port_id"]]
    ends = [own, *(cloud.fixed[one["holder_port_id"]][0][1] for one in leading)]
    wanted: dict[str, set[str]] = {}
    checked: set[str] = set()
    for listener in balancer["listeners"]:
        if listener["protocol"] != protocol:
            continue
        number = listener["port_number"]
        backends, subnets = _backends(cloud, balancer, protocol, number, _version(own))
        for end in ends:
            if _version(end) == _version(own):
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
    cloud: _Cloud, balancer: Row, protocol: str, number: int, version: int
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


def _probed(cloud: _Cloud) -> set[str]:
    """Return the subnets that keep an address for checks."""
    kept = [port for port in cloud.ports.values() if port["owner_kind"] == "LOAD_BALANCER"]
    return {port["owner_id"] for port in kept} & cloud.subnets.keys()


def _hung(cloud: _Cloud, balancer: Row, row: Row) -> Iterator[Finding]:
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


def _twice_in_ovn(cloud: _Cloud) -> Iterator[Finding]:
    """Whoever made them: no two ports of a switch answer for one address."""
    for switch in cloud.rows("Logical_Switch"):
        if not _unit(switch):
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


# The southbound database.


def _chassis(cloud: _Cloud) -> Iterator[Finding]:
    for row in (cloud.sight.southbound or {})["Chassis"]:
        if row["name"] not in cloud.hosts:
            yield Finding(Kind.CHASSIS_OF_NOBODY, row["name"], row["hostname"])


def _bindings(cloud: _Cloud) -> Iterator[Finding]:
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


# The hosts.


def _hosts(cloud: _Cloud) -> Iterator[Finding]:
    seen = {one.host_id for one in cloud.sight.hosts or ()}
    for ident in sorted(set(cloud.claims.values()) - seen):
        yield Finding(Kind.HOST_UNSEEN, ident)
    for one in cloud.sight.hosts or ():
        yield from _interfaces(cloud, one)
        yield from _namespaces(cloud, one)


def _interfaces(cloud: _Cloud, seen: HostSight) -> Iterator[Finding]:
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


def _namespaces(cloud: _Cloud, seen: HostSight) -> Iterator[Finding]:
    here = [p for p in cloud.ports.values() if cloud.host_of(p) == seen.host_id]
    may = {f"unkai-{port['network_id']}" for port in here}
    must = {f"unkai-{port['network_id']}" for port in here if cloud.is_running(port)}
    found = {name for name in seen.namespaces if name.startswith("unkai-net-")}
    for name in sorted(found - may):
        yield Finding(Kind.NAMESPACE_LEFT, seen.host_id, name)
    for name in sorted(must - found):
        yield Finding(Kind.NAMESPACE_MISSING, seen.host_id, name)


# What these share.


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}


def _unit(row: Row) -> str:
    return str(row.get("external_ids", {}).get(UNIT, ""))


def _address(key: str) -> str:
    """Return the address of 4 or 16 bytes in hexadecimal."""
    return str(ip_address(bytes.fromhex(key)))


def _version(text: str) -> int:
    return 6 if ":" in text else 4


def _end(address: str, number: int) -> str:
    return f"[{address}]:{number}" if _version(address) == 6 else f"{address}:{number}"


def _group_name(ident: str) -> str:
    return "pg_" + uuid_of(ident).replace("-", "_")


def _link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    parts = [int(part, 16) for part in mac.split(":")]
    parts[0] ^= 2
    value = int.from_bytes(bytes([*parts[:3], 0xFF, 0xFE, *parts[3:]]))
    return str(IPv6Address(0xFE80 << 112 | value))


def _frozen(words: Sequence[str]) -> frozenset[str]:
    return frozenset(words)


def _text(some: Collection[Any]) -> str:
    return "; ".join(
        sorted(" ".join(map(str, one)) if not isinstance(one, str) else one for one in some)
    )

"""What was seen of a cloud's networks, sorted for asking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Any

from tests.support.ovsdb_look import Database, Row, members
from tests.support.raw_rows import Tables

UNIT = "unkai_unit"
METADATA = ("169.254.169.254", "fe80::a9fe:a9fe")


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


class Cloud:
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
            self.fixed[row["port_id"]].append((row["subnet_id"], address_of(row["address"])))

    def rows(self, table: str) -> Sequence[Row]:
        return self.sight.northbound[table]

    @cached_property
    def by_uuid(self) -> Mapping[str, Row]:
        return {row["_uuid"]: row for some in self.sight.northbound.values() for row in some}

    def refers(self, row: Row, column: str) -> list[Row]:
        """Return the rows that a column refers to."""
        return [self.by_uuid[one] for one in members(row[column]) if one in self.by_uuid]

    def of_unit(self, table: str, kind: str, ident: str) -> list[Row]:
        return [row for row in self.rows(table) if unit_of(row) == f"{kind}:{ident}"]

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
        return next((one for one in self.fixed[port_id] if version_of(one[1]) == version), None)

    def places(self, router_id: str) -> list[Row]:
        return [r for r in self.sight.tables["router_interfaces"] if r["router_id"] == router_id]

    def way_out(self, router: Row) -> Row | None:
        """Return the port of a router's gateway, if some host reaches its network."""
        port = self.ports.get(router["gateway_port_id"] or "")
        network = self.networks.get(port["network_id"]) if port else None
        if network and self.sight.gateway_hosts.get(network["physical_network"]):
            return port
        return None


def resources_of(cloud: Cloud, kind: str) -> Collection[str]:
    """Return the ids of what there is of a kind of units."""
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


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}


def unit_of(row: Row) -> str:
    """Return the unit that a row of OVN says to be of; empty: it is not ours."""
    return str(row.get("external_ids", {}).get(UNIT, ""))


def address_of(key: str) -> str:
    """Return the address of 4 or 16 bytes in hexadecimal."""
    return str(ip_address(bytes.fromhex(key)))


def version_of(text: str) -> int:
    """Return the IP version of an address or prefix."""
    return 6 if ":" in text else 4


def in_words(some: Collection[Any]) -> str:
    """Return sets and tuples as a finding shows them."""
    return "; ".join(
        sorted(" ".join(map(str, one)) if not isinstance(one, str) else one for one in some)
    )

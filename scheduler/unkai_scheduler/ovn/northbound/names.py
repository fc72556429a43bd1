"""Names and UUIDs of rows, as far as rows of other units say them. Pure.

A logical switch, router or port is named by the UUID of its resource. A port's row has the port's
UUID too; other rows have UUIDv5(resource, name within the unit): ovn-northd shortens a row's UUID
to its first 8 digits where it hints at it, and those of a UUIDv7 are a clock.

Those of networks and groups are asked for by each of their ports, so they are remembered.
"""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

from unkai_scheduler.ovn.rows import Place, child_uuid
from unkai_wire.ids import uuid_of

CLOUD = UUID("8a4f1c0e-6b0d-5f57-9a39-2c6e7d4b1f90")
"""Stands for the cloud itself, whose rows are made of no resource; never changes."""
DROP_GROUP = "unkai_drop"


@lru_cache(maxsize=8192)
def row_uuid(resource_id: str, name: str) -> UUID:
    """Return the UUID of a row of a resource."""
    return child_uuid(uuid_of(resource_id), name)


@lru_cache(maxsize=8192)
def name_of(resource_id: str) -> str:
    """Return the name of a resource's switch, router or port."""
    return str(uuid_of(resource_id))


def switch_uuid(network_id: str) -> UUID:
    """Return the UUID of a network's row."""
    return row_uuid(network_id, "switch")


def in_switch(network_id: str, column: str) -> Place:
    """Return a column of a network's row."""
    return Place("Logical_Switch", switch_uuid(network_id), column)


def in_router(router_id: str, column: str) -> Place:
    """Return a column of a router's row."""
    return Place("Logical_Router", row_uuid(router_id, "router"), column)


def dhcp_uuid(subnet_id: str) -> UUID:
    """Return the UUID of a subnet's DHCP row."""
    return row_uuid(subnet_id, "dhcp")


def group_name(group_id: str) -> str:
    """Return the name of a security group's port group; OVN takes no hyphen there."""
    return "pg_" + name_of(group_id).replace("-", "_")


def group_place(group_id: str, column: str) -> Place:
    """Return a column of a security group's port group."""
    return Place("Port_Group", row_uuid(group_id, "group"), column)


def drop_place(column: str) -> Place:
    """Return a column of the port group of all ports that have rules."""
    return Place("Port_Group", child_uuid(CLOUD, DROP_GROUP), column)


def rule_uuid(group_id: str, rule_id: str, version: int) -> UUID:
    """Return the UUID of what a rule says of IPv4 or IPv6."""
    return row_uuid(group_id, f"rule:{rule_id}:{version}")


def router_port_name(port_id: str) -> str:
    """Return the name of the router's end of a port; the switch's end is named as the port."""
    return f"lrp-{name_of(port_id)}"


def metadata_name(network_id: str) -> str:
    """Return the name of the port by which each host serves metadata and names on a network."""
    return f"meta-{name_of(network_id)}"


def metadata_mac(network_id: str) -> str:
    """Return that port's MAC address: the same on all hosts, so that a machine may move.

    It begins with `06`, which is nobody's product and not `02`, as the addresses given out do.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x06" + row_uuid(network_id, "mac").bytes[:5])

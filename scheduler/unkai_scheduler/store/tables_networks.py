"""The tables of networks. A change here needs a migration; a test compares the two.

Unique constraints, not programs, keep two schedulers from giving one address or MAC out twice: an
address in use is a row of `addresses`, whatever holds it (routers, load balancers and floating
addresses have ports too). Addresses that are looked up are text of fixed width, 4 or 16 bytes in
hexadecimal, which sorts as the addresses do (`domain.addresses.key_of`).

What must be deleted with its parent cascades; every other reference refuses.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Table, UniqueConstraint

from unkai_scheduler.store.columns import Int64, Name, Short, Text, UtcTime, of_project
from unkai_scheduler.store.metadata import MARIADB, metadata

networks = Table(
    "networks",
    metadata,
    *of_project(
        Column("type", Short, nullable=False),
        Column("mtu", Int64, nullable=False),
        Column("dns_domain", Text, nullable=False),
        Column("physical_network", Name),
        Column("vlan_id", Int64, nullable=False),
        Column("external", Boolean, nullable=False),
        Column("shared", Boolean, nullable=False),
        Column("default_of", Short),
    ),
    UniqueConstraint("default_of"),
    UniqueConstraint("physical_network", "vlan_id"),
    **MARIADB,
)
"""`default_of`: the project, where it is that one's default network, else NULL. A unique column may
have many NULLs on every database, so this is "at most one" without a partial index, which MariaDB
does not know. So with `physical_network`, NULL for overlays: a flat network or a VLAN of the
operator's is one network here, because two would each give out its addresses."""

subnets = Table(
    "subnets",
    metadata,
    Column("id", Short, primary_key=True),
    Column("project_id", Short, ForeignKey("projects.id"), nullable=False),
    Column("network_id", Short, ForeignKey("networks.id"), nullable=False, index=True),
    Column("name", Name, nullable=False),
    Column("cidr", Name, nullable=False),
    Column("gateway_address", Name, nullable=False),
    Column("ranges", JSON, nullable=False),
    Column("dhcp", Boolean, nullable=False),
    Column("ipv6_mode", Short),
    Column("dns_servers", JSON, nullable=False),
    Column("host_routes", JSON, nullable=False),
    Column("next_hint", Short, nullable=False),
    Column("etag", Short, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("labels", JSON, nullable=False),
    UniqueConstraint("project_id", "name"),
    Index(None, "name"),
    **MARIADB,
)
"""`next_hint`: where the next address is looked for first; `addresses` alone writes it."""

ports = Table(
    "ports",
    metadata,
    Column("id", Short, primary_key=True),
    Column("project_id", Short, ForeignKey("projects.id"), nullable=False),
    Column("network_id", Short, ForeignKey("networks.id"), nullable=False),
    Column("name", Name, nullable=False),
    Column("mac_address", Short, nullable=False),
    Column("pairs", JSON, nullable=False),
    Column("anti_spoofing", Boolean, nullable=False),
    Column("egress_bits_per_s", Int64, nullable=False),
    Column("egress_burst_bits", Int64, nullable=False),
    Column("ingress_bits_per_s", Int64, nullable=False),
    Column("ingress_burst_bits", Int64, nullable=False),
    Column("owner_kind", Short),
    Column("owner_id", Short, nullable=False),
    Column("position", Int64, nullable=False),
    Column("delete_with_owner", Boolean, nullable=False),
    Column("state", Short, nullable=False),
    Column("etag", Short, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("labels", JSON, nullable=False),
    UniqueConstraint("project_id", "name"),
    UniqueConstraint("network_id", "mac_address"),
    Index(None, "name"),
    Index(None, "owner_id", "position"),
    **MARIADB,
)
"""No foreign key to the owner: it is of one of several kinds."""

addresses = Table(
    "addresses",
    metadata,
    Column("network_id", Short, primary_key=True),
    Column("address", Short, primary_key=True),
    Column("subnet_id", Short, ForeignKey("subnets.id"), nullable=False, index=True),
    Column("port_id", Short, ForeignKey("ports.id", ondelete="CASCADE"), nullable=False),
    Column("position", Int64, nullable=False),
    Index(None, "port_id"),
    **MARIADB,
)
"""Every address in use; its place among those of its port. The subnet names the network."""

security_groups = Table(
    "security_groups",
    metadata,
    *of_project(
        Column("description", Text, nullable=False),
    ),
    **MARIADB,
)

security_group_rules = Table(
    "security_group_rules",
    metadata,
    Column("id", Short, primary_key=True),
    Column("group_id", Short, ForeignKey("security_groups.id", ondelete="CASCADE"), nullable=False),
    Column("position", Int64, nullable=False),
    Column("direction", Short, nullable=False),
    Column("ip_version", Int64, nullable=False),
    Column("protocol", Short),
    Column("port_first", Int64, nullable=False),
    Column("port_last", Int64, nullable=False),
    Column("icmp_type", Int64),
    Column("icmp_code", Int64),
    Column("remote_cidr", Name, nullable=False),
    Column("remote_group_id", Short, ForeignKey("security_groups.id")),
    Column("description", Text, nullable=False),
    Index(None, "group_id"),
    Index(None, "remote_group_id"),
    **MARIADB,
)

port_security_groups = Table(
    "port_security_groups",
    metadata,
    Column("port_id", Short, ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", Short, ForeignKey("security_groups.id"), primary_key=True),
    Column("position", Int64, nullable=False),
    Index(None, "group_id"),
    **MARIADB,
)

routers = Table(
    "routers",
    metadata,
    *of_project(
        Column("gateway_port_id", Short, ForeignKey("ports.id")),
        Column("snat", Boolean, nullable=False),
        Column("routes", JSON, nullable=False),
    ),
    UniqueConstraint("gateway_port_id"),
    **MARIADB,
)
"""Where its gateway is, and with which addresses, the gateway's port says."""

router_interfaces = Table(
    "router_interfaces",
    metadata,
    Column("router_id", Short, ForeignKey("routers.id", ondelete="CASCADE"), primary_key=True),
    Column("subnet_id", Short, ForeignKey("subnets.id"), primary_key=True),
    Column("port_id", Short, ForeignKey("ports.id"), nullable=False),
    Column("position", Int64, nullable=False),
    Index(None, "subnet_id"),
    Index(None, "port_id"),
    **MARIADB,
)

floating_ips = Table(
    "floating_ips",
    metadata,
    *of_project(
        Column("holder_port_id", Short, ForeignKey("ports.id"), nullable=False),
        Column("port_id", Short, ForeignKey("ports.id")),
        Column("fixed_address", Short, nullable=False),
        Column("router_id", Short, ForeignKey("routers.id")),
    ),
    UniqueConstraint("holder_port_id"),
    UniqueConstraint("port_id", "fixed_address"),
    Index(None, "router_id"),
    **MARIADB,
)
"""One at most leads to an address of a port: what that sends out has one address outside."""

load_balancers = Table(
    "load_balancers",
    metadata,
    *of_project(
        Column("subnet_id", Short, ForeignKey("subnets.id"), nullable=False, index=True),
        Column("port_id", Short, ForeignKey("ports.id"), nullable=False),
        Column("listeners", JSON, nullable=False),
    ),
    UniqueConstraint("port_id"),
    **MARIADB,
)
"""Listeners without their members, which are rows."""

load_balancer_members = Table(
    "load_balancer_members",
    metadata,
    Column(
        "load_balancer_id",
        Short,
        ForeignKey("load_balancers.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("protocol", Short, primary_key=True),
    Column("listener_port_number", Int64, primary_key=True, autoincrement=False),
    Column("port_id", Short, ForeignKey("ports.id"), primary_key=True),
    Column("port_number", Int64, primary_key=True, autoincrement=False),
    Column("position", Int64, nullable=False),
    Index(None, "port_id"),
    **MARIADB,
)

ovn_work = Table(
    "ovn_work",
    metadata,
    Column("kind", Short, primary_key=True),
    Column("id", Short, primary_key=True),
    Column("number", Int64, nullable=False),
    Column("due_time", UtcTime, nullable=False),
    Column("attempt", Int64, nullable=False),
    Column("reason", Text, nullable=False),
    Index(None, "due_time"),
    **MARIADB,
)
"""What of OVN is not yet as the store says: a row a unit, from its change until OVN has it."""

ovn_tombstones = Table(
    "ovn_tombstones",
    metadata,
    Column("kind", Short, primary_key=True),
    Column("id", Short, primary_key=True),
    Column("remove_time", UtcTime, nullable=False),
    Index(None, "remove_time"),
    **MARIADB,
)
"""Units whose removal the store knows of. Only what has one is removed from OVN."""

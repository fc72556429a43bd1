"""Networks: their rows, the addresses in use, and what of OVN is not yet as the rows say."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, Name, Short, Text, UtcTime

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

_MARIADB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Bring the schema to this revision."""
    _create_networks()
    _create_subnets()
    _create_ports()
    _create_addresses()
    _create_security_groups()
    _create_security_group_rules()
    _create_port_security_groups()
    _create_routers()
    _create_router_interfaces()
    _create_floating_ips()
    _create_load_balancers()
    _create_load_balancer_members()
    _create_ovn_work()
    _create_ovn_tombstones()


def downgrade() -> None:
    """Take the schema back to the revision before."""
    for name in (
        "ovn_tombstones",
        "ovn_work",
        "load_balancer_members",
        "load_balancers",
        "floating_ips",
        "router_interfaces",
        "routers",
        "port_security_groups",
        "security_group_rules",
        "security_groups",
        "addresses",
        "ports",
        "subnets",
        "networks",
    ):
        op.drop_table(name)


def _create_networks() -> None:
    op.create_table(
        "networks",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("type", Short, nullable=False),
        sa.Column("mtu", Int64, nullable=False),
        sa.Column("dns_domain", Text, nullable=False),
        sa.Column("physical_network", Name),
        sa.Column("vlan_id", Int64, nullable=False),
        sa.Column("external", sa.Boolean(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("default_of", Short),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_networks_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_networks"),
        sa.UniqueConstraint("default_of", name="uq_networks_default_of"),
        sa.UniqueConstraint(
            "physical_network", "vlan_id", name="uq_networks_physical_network_vlan_id"
        ),
        sa.UniqueConstraint("project_id", "name", name="uq_networks_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_networks_name", "networks", ["name"])


def _create_subnets() -> None:
    op.create_table(
        "subnets",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("network_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("cidr", Name, nullable=False),
        sa.Column("gateway_address", Name, nullable=False),
        sa.Column("ranges", sa.JSON(), nullable=False),
        sa.Column("dhcp", sa.Boolean(), nullable=False),
        sa.Column("ipv6_mode", Short),
        sa.Column("dns_servers", sa.JSON(), nullable=False),
        sa.Column("host_routes", sa.JSON(), nullable=False),
        sa.Column("next_hint", Short, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_subnets_network_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_subnets_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_subnets"),
        sa.UniqueConstraint("project_id", "name", name="uq_subnets_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_subnets_name", "subnets", ["name"])
    op.create_index("ix_subnets_network_id", "subnets", ["network_id"])


def _create_ports() -> None:
    op.create_table(
        "ports",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("network_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("mac_address", Short, nullable=False),
        sa.Column("pairs", sa.JSON(), nullable=False),
        sa.Column("anti_spoofing", sa.Boolean(), nullable=False),
        sa.Column("egress_bits_per_s", Int64, nullable=False),
        sa.Column("egress_burst_bits", Int64, nullable=False),
        sa.Column("ingress_bits_per_s", Int64, nullable=False),
        sa.Column("ingress_burst_bits", Int64, nullable=False),
        sa.Column("owner_kind", Short),
        sa.Column("owner_id", Short, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.Column("delete_with_owner", sa.Boolean(), nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_ports_network_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_ports_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_ports"),
        sa.UniqueConstraint("network_id", "mac_address", name="uq_ports_network_id_mac_address"),
        sa.UniqueConstraint("project_id", "name", name="uq_ports_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_ports_name", "ports", ["name"])
    op.create_index("ix_ports_owner_id_position", "ports", ["owner_id", "position"])


def _create_addresses() -> None:
    op.create_table(
        "addresses",
        sa.Column("network_id", Short, nullable=False),
        sa.Column("address", Short, nullable=False),
        sa.Column("subnet_id", Short, nullable=False),
        sa.Column("port_id", Short, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.ForeignKeyConstraint(
            ["port_id"], ["ports.id"], name="fk_addresses_port_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnets.id"], name="fk_addresses_subnet_id"),
        sa.PrimaryKeyConstraint("network_id", "address", name="pk_addresses"),
        **_MARIADB,
    )
    op.create_index("ix_addresses_port_id", "addresses", ["port_id"])
    op.create_index("ix_addresses_subnet_id", "addresses", ["subnet_id"])


def _create_security_groups() -> None:
    op.create_table(
        "security_groups",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("description", Text, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_security_groups_project_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_security_groups"),
        sa.UniqueConstraint("project_id", "name", name="uq_security_groups_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_security_groups_name", "security_groups", ["name"])


def _create_security_group_rules() -> None:
    op.create_table(
        "security_group_rules",
        sa.Column("id", Short, nullable=False),
        sa.Column("group_id", Short, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.Column("direction", Short, nullable=False),
        sa.Column("ip_version", Int64, nullable=False),
        sa.Column("protocol", Short),
        sa.Column("port_first", Int64, nullable=False),
        sa.Column("port_last", Int64, nullable=False),
        sa.Column("icmp_type", Int64),
        sa.Column("icmp_code", Int64),
        sa.Column("remote_cidr", Name, nullable=False),
        sa.Column("remote_group_id", Short),
        sa.Column("description", Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["security_groups.id"],
            name="fk_security_group_rules_group_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["remote_group_id"],
            ["security_groups.id"],
            name="fk_security_group_rules_remote_group_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_security_group_rules"),
        **_MARIADB,
    )
    op.create_index("ix_security_group_rules_group_id", "security_group_rules", ["group_id"])
    op.create_index(
        "ix_security_group_rules_remote_group_id", "security_group_rules", ["remote_group_id"]
    )


def _create_port_security_groups() -> None:
    op.create_table(
        "port_security_groups",
        sa.Column("port_id", Short, nullable=False),
        sa.Column("group_id", Short, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["security_groups.id"], name="fk_port_security_groups_group_id"
        ),
        sa.ForeignKeyConstraint(
            ["port_id"], ["ports.id"], name="fk_port_security_groups_port_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("port_id", "group_id", name="pk_port_security_groups"),
        **_MARIADB,
    )
    op.create_index("ix_port_security_groups_group_id", "port_security_groups", ["group_id"])


def _create_routers() -> None:
    op.create_table(
        "routers",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("gateway_port_id", Short),
        sa.Column("snat", sa.Boolean(), nullable=False),
        sa.Column("routes", sa.JSON(), nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["gateway_port_id"], ["ports.id"], name="fk_routers_gateway_port_id"
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_routers_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_routers"),
        sa.UniqueConstraint("gateway_port_id", name="uq_routers_gateway_port_id"),
        sa.UniqueConstraint("project_id", "name", name="uq_routers_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_routers_name", "routers", ["name"])


def _create_router_interfaces() -> None:
    op.create_table(
        "router_interfaces",
        sa.Column("router_id", Short, nullable=False),
        sa.Column("subnet_id", Short, nullable=False),
        sa.Column("port_id", Short, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name="fk_router_interfaces_port_id"),
        sa.ForeignKeyConstraint(
            ["router_id"], ["routers.id"], name="fk_router_interfaces_router_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["subnet_id"], ["subnets.id"], name="fk_router_interfaces_subnet_id"
        ),
        sa.PrimaryKeyConstraint("router_id", "subnet_id", name="pk_router_interfaces"),
        **_MARIADB,
    )
    op.create_index("ix_router_interfaces_port_id", "router_interfaces", ["port_id"])
    op.create_index("ix_router_interfaces_subnet_id", "router_interfaces", ["subnet_id"])


def _create_floating_ips() -> None:
    op.create_table(
        "floating_ips",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("holder_port_id", Short, nullable=False),
        sa.Column("port_id", Short),
        sa.Column("fixed_address", Short, nullable=False),
        sa.Column("router_id", Short),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["holder_port_id"], ["ports.id"], name="fk_floating_ips_holder_port_id"
        ),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name="fk_floating_ips_port_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_floating_ips_project_id"),
        sa.ForeignKeyConstraint(["router_id"], ["routers.id"], name="fk_floating_ips_router_id"),
        sa.PrimaryKeyConstraint("id", name="pk_floating_ips"),
        sa.UniqueConstraint("holder_port_id", name="uq_floating_ips_holder_port_id"),
        sa.UniqueConstraint(
            "port_id", "fixed_address", name="uq_floating_ips_port_id_fixed_address"
        ),
        sa.UniqueConstraint("project_id", "name", name="uq_floating_ips_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_floating_ips_name", "floating_ips", ["name"])
    op.create_index("ix_floating_ips_router_id", "floating_ips", ["router_id"])


def _create_load_balancers() -> None:
    op.create_table(
        "load_balancers",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("subnet_id", Short, nullable=False),
        sa.Column("port_id", Short, nullable=False),
        sa.Column("listeners", sa.JSON(), nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name="fk_load_balancers_port_id"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_load_balancers_project_id"
        ),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnets.id"], name="fk_load_balancers_subnet_id"),
        sa.PrimaryKeyConstraint("id", name="pk_load_balancers"),
        sa.UniqueConstraint("port_id", name="uq_load_balancers_port_id"),
        sa.UniqueConstraint("project_id", "name", name="uq_load_balancers_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_load_balancers_name", "load_balancers", ["name"])
    op.create_index("ix_load_balancers_subnet_id", "load_balancers", ["subnet_id"])


def _create_load_balancer_members() -> None:
    op.create_table(
        "load_balancer_members",
        sa.Column("load_balancer_id", Short, nullable=False),
        sa.Column("protocol", Short, nullable=False),
        sa.Column("listener_port_number", Int64, autoincrement=False, nullable=False),
        sa.Column("port_id", Short, nullable=False),
        sa.Column("port_number", Int64, autoincrement=False, nullable=False),
        sa.Column("position", Int64, nullable=False),
        sa.ForeignKeyConstraint(
            ["load_balancer_id"],
            ["load_balancers.id"],
            name="fk_load_balancer_members_load_balancer_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name="fk_load_balancer_members_port_id"),
        sa.PrimaryKeyConstraint(
            "load_balancer_id",
            "protocol",
            "listener_port_number",
            "port_id",
            "port_number",
            name="pk_load_balancer_members",
        ),
        **_MARIADB,
    )
    op.create_index("ix_load_balancer_members_port_id", "load_balancer_members", ["port_id"])


def _create_ovn_work() -> None:
    op.create_table(
        "ovn_work",
        sa.Column("kind", Short, nullable=False),
        sa.Column("id", Short, nullable=False),
        sa.Column("number", Int64, nullable=False),
        sa.Column("due_time", UtcTime, nullable=False),
        sa.Column("attempt", Int64, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_ovn_work"),
        **_MARIADB,
    )
    op.create_index("ix_ovn_work_due_time", "ovn_work", ["due_time"])


def _create_ovn_tombstones() -> None:
    op.create_table(
        "ovn_tombstones",
        sa.Column("kind", Short, nullable=False),
        sa.Column("id", Short, nullable=False),
        sa.Column("remove_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_ovn_tombstones"),
        **_MARIADB,
    )
    op.create_index("ix_ovn_tombstones_remove_time", "ovn_tombstones", ["remove_time"])

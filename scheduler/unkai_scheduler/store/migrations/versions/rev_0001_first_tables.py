"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, LongText, Name, Serial, Short, Text, UtcTime

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_MARIADB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Bring the schema to this revision."""
    _create_leader_term()
    _create_history()
    _create_projects()
    _create_flavors()
    _create_key_pairs()
    _create_images()
    _create_hosts()
    _create_instances()
    _create_instance_labels()
    _create_claims()
    _create_tombstones()
    _create_operations()
    _create_events()
    _create_requests()


def downgrade() -> None:
    """Take the schema back to the revision before."""
    for name in (
        "requests",
        "events",
        "operations",
        "tombstones",
        "claims",
        "instance_labels",
        "instances",
        "hosts",
        "images",
        "key_pairs",
        "flavors",
        "projects",
        "history",
        "leader_term",
    ):
        op.drop_table(name)


def _create_leader_term() -> None:
    op.create_table(
        "leader_term",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("term", Int64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_leader_term"),
        **_MARIADB,
    )


def _create_history() -> None:
    op.create_table(
        "history",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("epoch", Int64, nullable=False),
        sa.Column("newest_number", Int64, nullable=False),
        sa.Column("pruned_number", Int64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_history"),
        **_MARIADB,
    )


def _create_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("description", LongText, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
        **_MARIADB,
    )


def _create_flavors() -> None:
    op.create_table(
        "flavors",
        sa.Column("id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("vcpus", Int64, nullable=False),
        sa.Column("memory_bytes", Int64, nullable=False),
        sa.Column("disk_bytes", Int64, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_flavors"),
        sa.UniqueConstraint("name", name="uq_flavors_name"),
        **_MARIADB,
    )


def _create_key_pairs() -> None:
    op.create_table(
        "key_pairs",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", Text, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_key_pairs_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_key_pairs"),
        sa.UniqueConstraint("project_id", "name", name="uq_key_pairs_project_id_name"),
        **_MARIADB,
    )


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("visibility", Short, nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("format", Short),
        sa.Column("size_bytes", Int64, nullable=False),
        sa.Column("virtual_size_bytes", Int64, nullable=False),
        sa.Column("sha256", Text, nullable=False),
        sa.Column("state_reason", sa.JSON(none_as_null=True)),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_images_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("project_id", "name", name="uq_images_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_images_name", "images", ["name"])


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("address", Text, nullable=False),
        sa.Column("tls_name", Text, nullable=False),
        sa.Column("cpus", Int64, nullable=False),
        sa.Column("memory_bytes", Int64, nullable=False),
        sa.Column("disk_bytes", Int64, nullable=False),
        sa.Column("accelerator", Short, nullable=False),
        sa.Column("traits", sa.JSON(), nullable=False),
        sa.Column("boot_id", Text, nullable=False),
        sa.Column("agent_version", Text, nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("cordoned", sa.Boolean(), nullable=False),
        sa.Column("cordon_reason", LongText, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
        sa.UniqueConstraint("name", name="uq_hosts_name"),
        **_MARIADB,
    )


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("image_id", Short, nullable=False),
        sa.Column("flavor_id", Short, nullable=False),
        sa.Column("vcpus", Int64, nullable=False),
        sa.Column("memory_bytes", Int64, nullable=False),
        sa.Column("disk_bytes", Int64, nullable=False),
        sa.Column("key_pair_ids", sa.JSON(), nullable=False),
        sa.Column("required_traits", sa.JSON(), nullable=False),
        sa.Column("placement_policy", Short),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("state_reason", sa.JSON(none_as_null=True)),
        sa.Column("desired_power", Short, nullable=False),
        sa.Column("generation", Int64, nullable=False),
        sa.Column("observed_generation", Int64, nullable=False),
        sa.Column("run_epoch", Int64, nullable=False),
        sa.Column("has_run", sa.Boolean(), nullable=False),
        sa.Column("delete_requested", sa.Boolean(), nullable=False),
        sa.Column("reboot_serial", Int64, nullable=False),
        sa.Column("reboot_force", sa.Boolean(), nullable=False),
        sa.Column("stop_grace_s", sa.Float(precision=53), nullable=False),
        sa.Column("accelerator", Short, nullable=False),
        sa.Column("start_time", UtcTime),
        sa.Column("operation_id", Short, nullable=False),
        sa.Column("due_time", UtcTime),
        sa.Column("attempt", Int64, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("user_data", sa.LargeBinary(length=65536), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_instances_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("project_id", "name", name="uq_instances_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_instances_due_time", "instances", ["due_time"])
    op.create_index("ix_instances_image_id", "instances", ["image_id"])
    op.create_index("ix_instances_name", "instances", ["name"])


def _create_instance_labels() -> None:
    op.create_table(
        "instance_labels",
        sa.Column("instance_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["instances.id"],
            name="fk_instance_labels_instance_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_id", "name", name="pk_instance_labels"),
        **_MARIADB,
    )
    op.create_index("ix_instance_labels_name_value", "instance_labels", ["name", "value"])


def _create_claims() -> None:
    op.create_table(
        "claims",
        sa.Column("instance_id", Short, nullable=False),
        sa.Column("host_id", Short, nullable=False),
        sa.Column("vcpus", Int64, nullable=False),
        sa.Column("memory_bytes", Int64, nullable=False),
        sa.Column("disk_bytes", Int64, nullable=False),
        sa.Column("run_epoch", Int64, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_claims_host_id"),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_claims_instance_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("instance_id", name="pk_claims"),
        **_MARIADB,
    )
    op.create_index("ix_claims_host_id", "claims", ["host_id"])


def _create_tombstones() -> None:
    op.create_table(
        "tombstones",
        sa.Column("instance_id", Short, nullable=False),
        sa.Column("host_id", Short, nullable=False),
        sa.Column("generation", Int64, nullable=False),
        sa.Column("run_epoch", Int64, nullable=False),
        sa.Column("remove_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "host_id", name="pk_tombstones"),
        **_MARIADB,
    )


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("verb", Short, nullable=False),
        sa.Column("resource_kind", Short, nullable=False),
        sa.Column("resource_id", Short, nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("progress_message", LongText, nullable=False),
        sa.Column("progress_percent", Int64, nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("queue_position", Int64, nullable=False),
        sa.Column("request_id", Text, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("deadline_time", UtcTime, nullable=False),
        sa.Column("capacity_deadline_time", UtcTime, nullable=False),
        sa.Column("cancel_requested_time", UtcTime),
        sa.Column("end_time", UtcTime),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
        **_MARIADB,
    )
    op.create_index(
        "ix_operations_end_time_deadline_time", "operations", ["end_time", "deadline_time"]
    )
    op.create_index("ix_operations_project_id", "operations", ["project_id"])
    op.create_index("ix_operations_resource_id", "operations", ["resource_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", Serial, autoincrement=True, nullable=False),
        sa.Column("id", Short, nullable=False),
        sa.Column("epoch", Int64),
        sa.Column("number", Int64),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("resource_kind", Short, nullable=False),
        sa.Column("resource_id", Short, nullable=False),
        sa.Column("resource_name", Text, nullable=False),
        sa.Column("type", Short, nullable=False),
        sa.Column("actor", Text, nullable=False),
        sa.Column("state", Short, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("message", LongText, nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("request_id", Text, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
        sa.UniqueConstraint("id", name="uq_events_id"),
        sa.UniqueConstraint("number", name="uq_events_number"),
        **_MARIADB,
    )
    op.create_index("ix_events_project_id_number", "events", ["project_id", "number"])
    op.create_index("ix_events_resource_id_number", "events", ["resource_id", "number"])


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("principal", Text, nullable=False),
        sa.Column("request_id", Text, nullable=False),
        sa.Column("method", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("principal", "request_id", name="pk_requests"),
        **_MARIADB,
    )
    op.create_index("ix_requests_create_time", "requests", ["create_time"])

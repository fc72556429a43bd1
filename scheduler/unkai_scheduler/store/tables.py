"""The tables. A change here needs a migration; a test compares the two.

Instances name their image, flavor, aggregate and keys without a foreign key, because an instance
adopted from a host's ledger may outlive them. Operations and events have none either: they stay
when what they tell of is gone. `due_time` and `attempt` are columns, so a crash forgets no work.
Networks have a page of their own (`tables_networks`).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as UnboundedText

from unkai_scheduler.domain.instances import MAX_USER_DATA_BYTES
from unkai_scheduler.store import tables_networks as _networks  # noqa: F401 - all tables are here
from unkai_scheduler.store.columns import (
    Int64,
    LongText,
    Name,
    Serial,
    Short,
    Text,
    UtcTime,
    of_project,
    versioned,
)
from unkai_scheduler.store.metadata import MARIADB
from unkai_scheduler.store.metadata import metadata as metadata  # noqa: PLC0414 - with all tables

leader_term = Table(
    "leader_term",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("term", Int64, nullable=False),
    **MARIADB,
)
"""One row: the fence that every write of the leader locks first."""

history = Table(
    "history",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("epoch", Int64, nullable=False),
    Column("newest_number", Int64, nullable=False),
    Column("pruned_number", Int64, nullable=False),
    **MARIADB,
)
"""One row: the epoch, the newest number stamped, and the newest one no longer kept."""

projects = Table(
    "projects",
    metadata,
    Column("id", Short, primary_key=True),
    Column("name", Name, nullable=False),
    Column("description", LongText, nullable=False),
    *versioned(),
    UniqueConstraint("name"),
    **MARIADB,
)

flavors = Table(
    "flavors",
    metadata,
    Column("id", Short, primary_key=True),
    Column("name", Name, nullable=False),
    Column("vcpus", Int64, nullable=False),
    Column("memory_bytes", Int64, nullable=False),
    Column("disk_bytes", Int64, nullable=False),
    *versioned(),
    UniqueConstraint("name"),
    **MARIADB,
)

key_pairs = Table(
    "key_pairs",
    metadata,
    Column("id", Short, primary_key=True),
    Column("project_id", Short, ForeignKey("projects.id"), nullable=False),
    Column("name", Name, nullable=False),
    Column("public_key", UnboundedText, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("etag", Short, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("labels", JSON, nullable=False),
    UniqueConstraint("project_id", "name"),
    **MARIADB,
)

placement_groups = Table(
    "placement_groups",
    metadata,
    *of_project(
        Column("policy", Short, nullable=False),
        Column("strictness", Short, nullable=False),
        Column("scope", Short, nullable=False),
        Column("max_per_place", Int64, nullable=False),
    ),
    **MARIADB,
)

images = Table(
    "images",
    metadata,
    *of_project(
        Column("visibility", Short, nullable=False),
        Column("state", Short, nullable=False),
        Column("format", Short),
        Column("size_bytes", Int64, nullable=False),
        Column("virtual_size_bytes", Int64, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("bytes_key", Name, nullable=False),
        Column("state_reason", JSON(none_as_null=True)),
    ),
    **MARIADB,
)

uploads = Table(
    "uploads",
    metadata,
    Column("key", Name, primary_key=True),
    Column("image_id", Short, nullable=False, index=True),
    Column("beat", Int64, nullable=False),
    **MARIADB,
)
"""Uploads under way. No foreign key: one outlives its image until its bytes are gone."""

hosts = Table(
    "hosts",
    metadata,
    Column("id", Short, primary_key=True),
    Column("name", Name, nullable=False),
    Column("state", Short, nullable=False),
    Column("address", Text, nullable=False),
    Column("tls_name", Text, nullable=False),
    Column("cpus", Int64, nullable=False),
    Column("memory_bytes", Int64, nullable=False),
    Column("disk_bytes", Int64, nullable=False),
    Column("accelerator", Short, nullable=False),
    Column("traits", JSON, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("features", JSON, nullable=False),
    Column("physical_networks", JSON(none_as_null=True)),
    Column("network_problem", LongText),
    Column("zone", Name),
    Column("cordoned", Boolean, nullable=False),
    Column("cordon_reason", LongText, nullable=False),
    Column("etag", Short, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    UniqueConstraint("name"),
    **MARIADB,
)

aggregates = Table(
    "aggregates",
    metadata,
    Column("id", Short, primary_key=True),
    Column("name", Name, nullable=False),
    Column("description", LongText, nullable=False),
    Column("traits", JSON, nullable=False),
    Column("cpu_ratio", Float(53)),
    Column("memory_ratio", Float(53)),
    Column("disk_ratio", Float(53)),
    *versioned(),
    UniqueConstraint("name"),
    **MARIADB,
)

aggregate_hosts = Table(
    "aggregate_hosts",
    metadata,
    Column("aggregate_id", Short, ForeignKey("aggregates.id"), primary_key=True),
    Column("host_id", Short, ForeignKey("hosts.id"), primary_key=True),
    Index(None, "host_id"),
    **MARIADB,
)

aggregate_projects = Table(
    "aggregate_projects",
    metadata,
    Column("aggregate_id", Short, ForeignKey("aggregates.id"), primary_key=True),
    Column("project_id", Short, ForeignKey("projects.id"), primary_key=True),
    Index(None, "project_id"),
    **MARIADB,
)
"""To whom an aggregate is dedicated; a project stays while any is to it."""

instances = Table(
    "instances",
    metadata,
    Column("id", Short, primary_key=True),
    Column("project_id", Short, ForeignKey("projects.id"), nullable=False),
    Column("name", Name, nullable=False),
    Column("image_id", Short, nullable=False),
    Column("flavor_id", Short, nullable=False),
    Column("vcpus", Int64, nullable=False),
    Column("memory_bytes", Int64, nullable=False),
    Column("disk_bytes", Int64, nullable=False),
    Column("key_pair_ids", JSON, nullable=False),
    Column("required_traits", JSON, nullable=False),
    Column("placement_policy", Short),
    Column("labels", JSON, nullable=False),
    Column("state", Short, nullable=False),
    Column("state_reason", JSON(none_as_null=True)),
    Column("desired_power", Short, nullable=False),
    Column("generation", Int64, nullable=False),
    Column("observed_generation", Int64, nullable=False),
    Column("run_epoch", Int64, nullable=False),
    Column("has_run", Boolean, nullable=False),
    Column("delete_requested", Boolean, nullable=False),
    Column("reboot_serial", Int64, nullable=False),
    Column("reboot_force", Boolean, nullable=False),
    Column("stop_grace_s", Float(53), nullable=False),
    Column("accelerator", Short, nullable=False),
    Column("start_time", UtcTime),
    Column("operation_id", Short, nullable=False),
    Column("due_time", UtcTime),
    Column("attempt", Int64, nullable=False),
    Column("etag", Short, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("seed", Short),
    Column("zone", Name),
    Column("preferred_traits", JSON(none_as_null=True)),
    Column("forbidden_traits", JSON(none_as_null=True)),
    Column("priority", Int64, nullable=False, server_default="0"),
    Column("gang_id", Short),
    Column("aggregate_id", Short),
    Column("placement_group_id", Short),
    # Last, because they are large and read seldom.
    Column("user_data", LargeBinary(MAX_USER_DATA_BYTES), nullable=False),
    Column("decision", UnboundedText, nullable=False),
    UniqueConstraint("project_id", "name"),
    Index(None, "name"),
    Index(None, "due_time"),
    Index(None, "image_id"),
    Index(None, "flavor_id"),
    Index(None, "gang_id"),
    Index(None, "aggregate_id"),
    Index(None, "placement_group_id"),
    **MARIADB,
)

instance_labels = Table(
    "instance_labels",
    metadata,
    Column("instance_id", Short, ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Name, primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "name", "value"),
    **MARIADB,
)
"""The labels once more, for selecting by them without SQL that one database alone knows."""

instance_key_pairs = Table(
    "instance_key_pairs",
    metadata,
    Column("instance_id", Short, ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
    Column("key_pair_id", Short, primary_key=True),
    Index(None, "key_pair_id"),
    **MARIADB,
)
"""The key pairs once more, for finding who names one; the row's list keeps their order."""

claims = Table(
    "claims",
    metadata,
    Column("instance_id", Short, ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
    Column("host_id", Short, ForeignKey("hosts.id"), nullable=False),
    Column("vcpus", Int64, nullable=False),
    Column("memory_bytes", Int64, nullable=False),
    Column("disk_bytes", Int64, nullable=False),
    Column("run_epoch", Int64, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Index(None, "host_id"),
    **MARIADB,
)
"""At most one per instance: two hosts can never hold the same one."""

tombstones = Table(
    "tombstones",
    metadata,
    Column("instance_id", Short, primary_key=True),
    Column("host_id", Short, primary_key=True),
    Column("generation", Int64, nullable=False),
    Column("run_epoch", Int64, nullable=False),
    Column("remove_time", UtcTime, nullable=False),
    Index(None, "remove_time"),
    **MARIADB,
)

operations = Table(
    "operations",
    metadata,
    Column("id", Short, primary_key=True),
    Column("project_id", Short, nullable=False),
    Column("verb", Short, nullable=False),
    Column("resource_kind", Short, nullable=False),
    Column("resource_id", Short, nullable=False),
    Column("state", Short, nullable=False),
    Column("progress_message", LongText, nullable=False),
    Column("progress_percent", Int64, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("queue_position", Int64, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("deadline_time", UtcTime, nullable=False),
    Column("capacity_deadline_time", UtcTime, nullable=False),
    Column("cancel_requested_time", UtcTime),
    Column("end_time", UtcTime),
    Column("traceparent", Name),
    Index(None, "resource_id"),
    Index(None, "project_id"),
    Index(None, "end_time", "deadline_time"),
    **MARIADB,
)

events = Table(
    "events",
    metadata,
    Column("sequence", Serial, primary_key=True, autoincrement=True),
    Column("id", Short, nullable=False),
    Column("epoch", Int64),
    Column("number", Int64),
    Column("project_id", Short, nullable=False),
    Column("resource_kind", Short, nullable=False),
    Column("resource_id", Short, nullable=False),
    Column("resource_name", Text, nullable=False),
    Column("type", Short, nullable=False),
    Column("actor", Text, nullable=False),
    Column("state", Short, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", LongText, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    UniqueConstraint("id"),
    UniqueConstraint("number"),
    Index(None, "resource_id", "number"),
    Index(None, "project_id", "number"),
    **MARIADB,
)
"""`number` is empty until the leader stamps it; `sequence` is the order of insertion."""

requests = Table(
    "requests",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Index(None, "create_time"),
    **MARIADB,
)

settlements = Table(
    "settlements",
    metadata,
    Column("slot", Short, primary_key=True),
    Column("token", Int64, nullable=False),
    Column("update_time", UtcTime, nullable=False, index=True),
    **MARIADB,
)
"""The last transaction of each writer's slot, for one whose COMMIT was never answered."""

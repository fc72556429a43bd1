"""Aggregates of hosts, and the one that an instance asks for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import LongText, Name, Short, UtcTime

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None

_MARIADB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "aggregates",
        sa.Column("id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("description", LongText, nullable=False),
        sa.Column("traits", sa.JSON(), nullable=False),
        *(sa.Column(f"{name}_ratio", sa.Float(53)) for name in ("cpu", "memory", "disk")),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_aggregates"),
        sa.UniqueConstraint("name", name="uq_aggregates_name"),
        **_MARIADB,
    )
    for part, parts in (("host", "hosts"), ("project", "projects")):
        _create_parts(f"aggregate_{parts}", f"{part}_id", f"{parts}.id")
    op.add_column("instances", sa.Column("aggregate_id", Short))
    op.create_index("ix_instances_aggregate_id", "instances", ["aggregate_id"])


def _create_parts(table: str, column: str, of: str) -> None:
    op.create_table(
        table,
        sa.Column("aggregate_id", Short, nullable=False),
        sa.Column(column, Short, nullable=False),
        sa.PrimaryKeyConstraint("aggregate_id", column, name=f"pk_{table}"),
        sa.ForeignKeyConstraint(
            ["aggregate_id"], ["aggregates.id"], name=f"fk_{table}_aggregate_id"
        ),
        sa.ForeignKeyConstraint([column], [of], name=f"fk_{table}_{column}"),
        **_MARIADB,
    )
    op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_instances_aggregate_id", "instances")
    op.drop_column("instances", "aggregate_id")
    for name in ("aggregate_projects", "aggregate_hosts", "aggregates"):
        op.drop_table(name)

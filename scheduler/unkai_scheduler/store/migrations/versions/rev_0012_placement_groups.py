"""Placement groups: instances near each other, or apart."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, Name, Short, UtcTime

revision: str = "0012"
down_revision: str | None = "0011"
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
        "placement_groups",
        sa.Column("id", Short, nullable=False),
        sa.Column("project_id", Short, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("policy", Short, nullable=False),
        sa.Column("strictness", Short, nullable=False),
        sa.Column("scope", Short, nullable=False),
        sa.Column("max_per_place", Int64, nullable=False),
        sa.Column("etag", Short, nullable=False),
        sa.Column("create_time", UtcTime, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_placement_groups_project_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_placement_groups"),
        sa.UniqueConstraint("project_id", "name", name="uq_placement_groups_project_id_name"),
        **_MARIADB,
    )
    op.create_index("ix_placement_groups_name", "placement_groups", ["name"])
    op.add_column("instances", sa.Column("placement_group_id", Short))
    op.create_index("ix_instances_placement_group_id", "instances", ["placement_group_id"])


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_instances_placement_group_id", "instances")
    op.drop_column("instances", "placement_group_id")
    op.drop_table("placement_groups")

"""Instances have a priority, and may get their hosts together or not at all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, Short

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("instances", sa.Column("priority", Int64, nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("gang_id", Short))
    op.create_index("ix_instances_gang_id", "instances", ["gang_id"])


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_instances_gang_id", "instances")
    op.drop_column("instances", "gang_id")
    op.drop_column("instances", "priority")

"""Hosts say which physical networks they reach; an instance, how its guest learns who it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Short

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("hosts", sa.Column("physical_networks", sa.JSON(none_as_null=True)))
    op.add_column("instances", sa.Column("seed", Short))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("instances", "seed")
    op.drop_column("hosts", "physical_networks")

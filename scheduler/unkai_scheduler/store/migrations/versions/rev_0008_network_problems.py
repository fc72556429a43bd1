"""Hosts say why their switch does not belong to OVN just now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import LongText

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("hosts", sa.Column("network_problem", LongText))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("hosts", "network_problem")

"""Hosts are in zones; instances ask for one, and prefer and forbid traits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Name

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("hosts", sa.Column("zone", Name))
    op.add_column("instances", sa.Column("zone", Name))
    for name in ("preferred_traits", "forbidden_traits"):
        op.add_column("instances", sa.Column(name, sa.JSON(none_as_null=True)))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    for name in ("forbidden_traits", "preferred_traits", "zone"):
        op.drop_column("instances", name)
    op.drop_column("hosts", "zone")

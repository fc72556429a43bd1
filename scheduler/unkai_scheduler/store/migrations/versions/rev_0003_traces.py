"""An operation keeps the trace of the call that began it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Name

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("operations", sa.Column("traceparent", Name))


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_column("operations", "traceparent")

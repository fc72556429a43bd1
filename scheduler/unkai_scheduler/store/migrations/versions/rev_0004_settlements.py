"""Whether a transaction was committed whose answer got lost is read from a row of its writer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, Short, UtcTime

revision: str = "0004"
down_revision: str | None = "0003"
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
        "settlements",
        sa.Column("slot", Short, nullable=False),
        sa.Column("token", Int64, nullable=False),
        sa.Column("update_time", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_settlements"),
        **_MARIADB,
    )


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_table("settlements")

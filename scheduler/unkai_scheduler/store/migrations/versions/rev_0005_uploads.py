"""Each upload has a row and a key of its own; an image says under which key its bytes are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Int64, Name, Short

revision: str = "0005"
down_revision: str | None = "0004"
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
        "uploads",
        sa.Column("key", Name, nullable=False),
        sa.Column("image_id", Short, nullable=False),
        sa.Column("beat", Int64, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_uploads"),
        **_MARIADB,
    )
    op.create_index("ix_uploads_image_id", "uploads", ["image_id"])
    op.add_column("images", sa.Column("bytes_key", Name, nullable=False, server_default=""))
    op.create_index("ix_settlements_update_time", "settlements", ["update_time"])


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_settlements_update_time", "settlements")
    op.drop_column("images", "bytes_key")
    op.drop_table("uploads")

"""Who names a key pair or a flavor, and which removals are old, is looked up in an index."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from unkai_scheduler.store.columns import Short

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

_MARIADB: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_BATCH = 1000


def upgrade() -> None:
    """Bring the schema to this revision."""
    named = op.create_table(
        "instance_key_pairs",
        sa.Column("instance_id", Short, nullable=False),
        sa.Column("key_pair_id", Short, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["instances.id"],
            name="fk_instance_key_pairs_instance_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_id", "key_pair_id", name="pk_instance_key_pairs"),
        **_MARIADB,
    )
    _fill(named)
    op.create_index("ix_instance_key_pairs_key_pair_id", "instance_key_pairs", ["key_pair_id"])
    op.create_index("ix_instances_flavor_id", "instances", ["flavor_id"])
    op.create_index("ix_tombstones_remove_time", "tombstones", ["remove_time"])


def downgrade() -> None:
    """Take the schema back to the revision before."""
    op.drop_index("ix_tombstones_remove_time", "tombstones")
    op.drop_index("ix_instances_flavor_id", "instances")
    op.drop_table("instance_key_pairs")


def _fill(named: sa.Table) -> None:
    """Write what the instances that are there name."""
    instances = sa.table("instances", sa.column("id", Short), sa.column("key_pair_ids", sa.JSON))
    rows = [
        {"instance_id": ident, "key_pair_id": key_pair_id}
        for ident, key_pair_ids in op.get_bind().execute(sa.select(instances))
        for key_pair_id in dict.fromkeys(key_pair_ids)
    ]
    for start in range(0, len(rows), _BATCH):
        op.bulk_insert(named, rows[start : start + _BATCH])

"""For developers: write the migration from the head to what `tables.py` says now."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from unkai_scheduler.store import migrations


def main(arguments: list[str]) -> int:
    """Write a migration named by its message into `versions/`; return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write('usage: python -m unkai_scheduler.store.migrations "what changes"\n')
        return 2
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'empty.db'}"
        migrations.upgrade(url)
        config = migrations.config()
        config.set_main_option("sqlalchemy.url", url)
        number = f"{int(migrations.head_revision()) + 1:04}"
        command.revision(config, message=arguments[0], autogenerate=True, rev_id=number)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

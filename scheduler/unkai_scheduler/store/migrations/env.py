"""Alembic's entry: run the migrations on the connection, or the URL, that the caller gave.

A connection whose transaction is open keeps it open: the caller commits schema and seed at once.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from unkai_scheduler.store import sqlite
from unkai_scheduler.store.tables import metadata


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    url = context.config.get_main_option("sqlalchemy.url") or context.get_x_argument(
        as_dictionary=True
    ).get("url", "")
    engine = sqlite.writer_engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            _migrate(connection)
    finally:
        engine.dispose()


_run()

"""What a new database holds: its one-row tables, the `default` project, and five flavors.

It is done once, when the database is made: a flavor that somebody deletes never comes back.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, insert

from unkai_scheduler.domain.resources import DEFAULT_PROJECT, Flavor, Project
from unkai_scheduler.store import flavors, history, projects
from unkai_scheduler.store.tables import leader_term
from unkai_wire.ids import NewId

_MIB = 1 << 20
_GIB = 1 << 30
FLAVORS = {
    "nano": (1, 128 * _MIB, 0),
    "micro": (1, 256 * _MIB, 2 * _GIB),
    "small": (1, 1 * _GIB, 10 * _GIB),
    "medium": (2, 4 * _GIB, 20 * _GIB),
    "large": (4, 8 * _GIB, 40 * _GIB),
}
"""vCPUs, bytes of memory, bytes of disk; no disk means the image's own size."""


def seed_if_new(conn: Connection, now: datetime, new_id: NewId) -> None:
    """Fill a database that has just been made; leave any other alone."""
    if not history.begin(conn):
        return
    conn.execute(insert(leader_term).values(id=1, term=0))
    project_id = new_id("project")
    project = Project(
        project_id, DEFAULT_PROJECT, "Made with the cloud", _first_etag(project_id), now, now
    )
    projects.insert(conn, project)
    for name, (vcpus, memory_bytes, disk_bytes) in FLAVORS.items():
        ident = new_id("flavor")
        etag = _first_etag(ident)
        flavors.insert(conn, Flavor(ident, name, vcpus, memory_bytes, disk_bytes, etag, now, now))


def _first_etag(ident: str) -> str:
    return hashlib.sha256(ident.encode()).hexdigest()[:16]

"""Labs for stories about the control plane: on each database, with as many schedulers as it takes.

SQLite means one scheduler. On a server two share the database; `shared_file` makes two share an
SQLite file, which is no supported set-up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.fire import upload
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.user import tiny_image
from unkai_lab.lab import Lab
from unkai_lab.spec import DATABASES, MARIADB, POSTGRESQL, SQLITE, LabSpec

SERVERS = (POSTGRESQL, MARIADB)


def databases(*, only_servers: bool = False) -> list[Any]:
    """Return the databases to parametrise a story with."""
    return [
        pytest.param(name, marks=[] if _is_supported(name) else [_UNSUPPORTED])
        for name in (SERVERS if only_servers else DATABASES)
    ]


_UNSUPPORTED = pytest.mark.skip(reason="the store does not know this database")


def _is_supported(name: str) -> bool:
    if name == SQLITE:
        return True
    return importlib.util.find_spec("unkai_scheduler.store.servers") is not None


@contextmanager
def a_lab_on(
    database: str, *, hosts: int, simulated: int, etcd_members: int = 1, shared_file: bool = False
) -> Iterator[Lab]:
    """Run a lab with the image `tiny`; two schedulers where the database allows it."""
    skip_without_a_lab_machine()
    several = database != SQLITE or shared_file
    spec = LabSpec(
        name=f"{database[:3]}{'2' if shared_file else ''}",
        hosts=hosts,
        simulated=simulated,
        etcd_members=etcd_members,
        schedulers=2 if several else 1,
        database=database,
        shares_file=shared_file,
    )
    with running_lab(unique(spec)) as lab:
        upload(lab, "tiny", tiny_image())
        yield lab

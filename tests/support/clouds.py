"""Labs for stories about the control plane: on each database, with as many schedulers as it takes.

SQLite means one scheduler. On a server two share the database; `shared_file` makes two share an
SQLite file, which is no supported set-up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.acceptance import full_counts
from tests.support.databases import KIND_VARIABLE
from tests.support.fire import upload
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.user import tiny_image
from unkai_lab.lab import Lab
from unkai_lab.spec import DATABASES, MARIADB, POSTGRESQL, SQLITE, LabSpec

SERVERS = (POSTGRESQL, MARIADB)


def databases(*, only_servers: bool = False) -> list[Any]:
    """Return the databases to parametrise a story with; `UNKAI_TEST_DATABASE` picks one.

    A lab for each takes minutes: without the full counts one server stands for both.
    """
    chosen = os.environ.get(KIND_VARIABLE, "")
    kinds = SERVERS if only_servers else DATABASES
    return [
        pytest.param(
            kind, marks=[] if full_counts() or chosen or kind != MARIADB else [_IN_FULL_COUNTS]
        )
        for kind in kinds
        if chosen in ("", kind)
    ]


_IN_FULL_COUNTS = pytest.mark.skip(reason="the other server stands for it without the full counts")


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

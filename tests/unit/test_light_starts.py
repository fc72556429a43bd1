"""What a daemon imports before it does anything: each library costs every host its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOWN_NOWHERE = {"rich", "pygments"}
"""For terminals: a daemon has none."""
WHEN_CONFIGURED = {"asyncpg", "asyncmy", "opentelemetry"}
"""Drivers and exporters of a set-up that says so."""
TEST_TOOLS = {"pytest", "hypothesis", "unkai_lab", "unkai_cli"}
OTHERS = {
    "unkai_agent.main": {
        *("numpy", "sqlalchemy", "alembic", "obstore", "cryptography", "joserfc", "argon2"),
        *("pycdlib", "libvirt", "etcd3"),  # when first used
        *("pydantic", "pydantic_core", "pydantic_settings"),  # in a process that ends
        "unkai_scheduler",
    },
    "unkai_scheduler.main": {"alembic", "mako", "libvirt", "pycdlib", "unkai_agent"},
}


@pytest.mark.parametrize("main", OTHERS)
def test_a_daemon_starts_without_what_it_may_never_need(main: str) -> None:
    code = f"import sys, {main}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}

    assert main.partition(".")[0] in imported
    unwanted = SHOWN_NOWHERE | WHEN_CONFIGURED | TEST_TOOLS | OTHERS[main]
    assert not imported & unwanted


@pytest.mark.parametrize("package", ["unkai_agent", "unkai_scheduler"])
def test_who_wants_rich_gets_it_after_a_daemon_s_package(package: str) -> None:
    code = f"import {package}, structlog.dev, rich.table; print(structlog.dev.rich)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "None"

"""Real daemons whose log's disk is full, or whose standard error is closed, go on as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows
from tests.support.daemons import LOCAL, Cloud, Daemon, cloud_of_daemons, until

pytestmark = pytest.mark.e2e


def _log_to_a_full_disk(daemon: Daemon) -> None:
    daemon.log.symlink_to("/dev/full")


def _close_standard_error(daemon: Daemon) -> None:
    daemon.command = ["sh", "-c", 'exec "$@" 2>&- >&-', "sh", *daemon.command]


def said(cloud: Cloud, scheduler: Daemon, *words: str) -> str:
    """Run the command against a scheduler; return what it prints."""
    files = cloud.admin
    environment = {
        "UNKAI_ADDRESS": f"{LOCAL}:{scheduler.grpc_port}",
        "UNKAI_CA": str(files.ca),
        "UNKAI_CERTIFICATE": str(files.certificate),
        "UNKAI_KEY": str(files.key),
    }
    command = [sys.executable, "-m", "unkai_cli", *words]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("spoil", [_log_to_a_full_disk, _close_standard_error])
def test_daemons_whose_log_cannot_be_written_make_and_delete_instances(
    tmp_path: Path, spoil: Any, shows: Shows
) -> None:
    with cloud_of_daemons(tmp_path) as cloud:
        scheduler, fleet = cloud.scheduler("s1"), cloud.fleet("f1", 2)
        for daemon in (scheduler, fleet):
            spoil(daemon)
            daemon.start()
        image = tmp_path / "raw.img"
        image.write_bytes(b"\1" * (1 << 20))
        until(lambda: said(cloud, scheduler, "host", "list").count(" UP ") == 2, "2 hosts are UP")
        said(cloud, scheduler, "image", "upload", "raw", str(image))
        figures = ("--vcpus", "1", "--memory", "64MiB", "--wait")
        said(cloud, scheduler, "instance", "create", "raw", "web", *figures)
        assert "RUNNING" in said(cloud, scheduler, "instance", "list")
        said(cloud, scheduler, "instance", "delete", "web", "--wait")
        assert "web" not in said(cloud, scheduler, "instance", "list")
        for daemon in (scheduler, fleet):
            assert daemon.process is not None
            assert daemon.process.poll() is None
        name = spoil.__name__.strip("_").replace("_", " ")
        shows("solid 7 full disk, logs", f"{name}: an instance was made and deleted")

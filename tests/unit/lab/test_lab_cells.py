"""The shell text that makes a cell, and the commands that enter one."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from unkai_lab.cells import Cell, PrivateMount, clean_environment, start_program
from unkai_lab.cgroups import CellGroups
from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId


def _cell(tmp_path: Path, *mounts: PrivateMount) -> Cell:
    groups = CellGroups(tmp_path / "u", (("memory", tmp_path / "m"),))
    for folder in groups.folders():
        folder.mkdir()
    return Cell("h1", groups, mounts)


def test_a_program_is_in_every_group_before_it_begins(tmp_path: Path) -> None:
    cell = _cell(tmp_path)
    command = cell.join(["cat", str(tmp_path / "u/cgroup.procs"), str(tmp_path / "m/cgroup.procs")])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # 0 stands for the writer itself (cgroups(7)).
    assert done.stdout == "0\n0\n"


def test_a_program_does_not_begin_when_a_group_is_gone(tmp_path: Path) -> None:
    cell = _cell(tmp_path)
    (tmp_path / "m").rmdir()
    done = subprocess.run(cell.join(["echo", "ran"]), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""


def test_arguments_reach_a_program_as_they_are(tmp_path: Path) -> None:
    arguments = ["a b", "$HOME", "'", '"', "*", "-n", ""]
    command = _cell(tmp_path).join(["printf", "%s|", *arguments])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{argument}|" for argument in arguments)


def test_a_cell_that_is_down_cannot_be_entered(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="h1 is not up"):
        _cell(tmp_path).enter(ProcessId(2**22 + 1, 1), ["true"])


def test_the_holder_mounts_privately_before_anything_else(tmp_path: Path) -> None:
    cell = _cell(tmp_path, PrivateMount("/run"), PrivateMount("/etc/libvirt", "/lab/it's here"))
    script = cell.holder_script()
    lines = script.splitlines()
    assert lines.index("mount --make-rprivate /") < lines.index(
        "mount -t proc -o nosuid,nodev,noexec proc /proc"
    )
    assert "mount --bind '/lab/it'\"'\"'s here' /etc/libvirt" in lines
    assert lines.index('echo "ready $outside"') > max(
        number for number, line in enumerate(lines) if line.startswith("mount ")
    )
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0


def test_settings_of_another_cloud_do_not_reach_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNKAI_AGENT_LISTEN", "LIBVIRT_DEFAULT_URI", "ETCDCTL_API", "GRPC_VERBOSITY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = clean_environment()
    assert environment["LANG"] == "C.UTF-8"
    assert not {n for n in environment if n.startswith(("UNKAI_", "LIBVIRT_", "ETCD", "GRPC_"))}


def test_a_program_that_ends_at_once_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert start_program(["false"], log, clean_environment()) is None


def test_the_program_counts_and_not_who_waits_for_it(tmp_path: Path) -> None:
    started = start_program(
        ["sh", "-c", "sleep infinity & wait"], tmp_path / "log", clean_environment()
    )
    assert started is not None
    try:
        assert started.process.pid != started.waiter.pid
        assert Path(f"/proc/{started.process.pid}/comm").read_text() in ("sleep\n", "sh\n")
    finally:
        started.process.kill(signal.SIGKILL)
        started.waiter.kill()
        started.waiter.wait()

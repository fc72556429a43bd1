"""The systemd units, by systemd's own judgement."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import confined

_ROOT = Path(__file__).parents[3]
UNITS = {
    "unkai-scheduler": _ROOT / "scheduler/systemd/unkai-scheduler.service",
    "unkai-agent": _ROOT / "agent/systemd/unkai-agent.service",
}
NETWORKS = _ROOT / "agent/systemd/unkai-agent-networks.conf"
EXPOSURE = {"unkai-scheduler": 20, "unkai-agent": 32, NETWORKS.stem: 41}
"""Tenths, as systemd counts them: 0 is shut off from everything, 100 is a bare root process."""

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _system(folder: Path, name: str, text: str) -> None:
    """Make a root in which the unit's program and what it comes after are installed."""
    units = folder / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / f"{name}.service").write_text(text)
    # systemd's own targets, and the parent of services.
    shutil.copytree("/usr/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True)
    program = folder / "opt/unkai/bin" / name
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)


def _verify(folder: Path, name: str) -> str:
    done = _analyze("verify", f"--root={folder}", "--recursive-errors=no", f"{name}.service")
    return done.stderr + done.stdout + (f"exit {done.returncode}" if done.returncode else "")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    _system(tmp_path, name, UNITS[name].read_text())
    assert _verify(tmp_path, name) == ""


@pytest.mark.parametrize("name", UNITS)
def test_systemd_would_find_a_misspelt_setting(name: str, tmp_path: Path) -> None:
    _system(tmp_path, name, UNITS[name].read_text().replace("ProtectHome", "ProtectHouse"))
    assert "ProtectHouse" in _verify(tmp_path, name)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_not_more_exposed_than_promised(name: str) -> None:
    limit = EXPOSURE[name]
    done = _analyze("security", "--offline=yes", f"--threshold={limit}", str(UNITS[name]))
    assert done.returncode == 0, done.stdout[-200:]


@pytest.fixture
def with_networks(tmp_path: Path) -> Path:
    """The agent's unit with what goes beside it."""
    unit = tmp_path / "unkai-agent.service"
    unit.write_text(UNITS["unkai-agent"].read_text() + "\n" + NETWORKS.read_text())
    return unit


def test_systemd_finds_nothing_wrong_with_what_goes_beside_a_unit(
    with_networks: Path, tmp_path: Path
) -> None:
    _system(tmp_path / "root", "unkai-agent", with_networks.read_text())
    assert _verify(tmp_path / "root", "unkai-agent") == ""


def test_the_agent_with_networks_is_not_more_exposed_than_promised(with_networks: Path) -> None:
    limit = EXPOSURE[NETWORKS.stem]
    done = _analyze("security", "--offline=yes", f"--threshold={limit}", str(with_networks))
    assert done.returncode == 0, done.stdout[-200:]


def test_guests_outlive_the_agent_and_its_restart() -> None:
    assert confined.settings(UNITS["unkai-agent"])["KillMode"] == ["process"]


def test_the_scheduler_has_no_capability_at_all() -> None:
    assert confined.settings(UNITS["unkai-scheduler"])["CapabilityBoundingSet"] == [""]

"""What is built to be installed: complete, the same from a clone and from the sdist."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support import distribution

PACKAGES = ("unkai", "unkai_wire", "unkai_scheduler", "unkai_agent", "unkai_cli", "unkai_lab")
SHIPPED = (
    *(f"{package}/py.typed" for package in PACKAGES),
    "unkai_scheduler/systemd/unkai-scheduler.service",
    "unkai_scheduler/systemd/etcd.conf",
    "unkai_scheduler/store/migrations/script.py.mako",
    "unkai_agent/systemd/unkai-agent.service",
    "unkai_agent/systemd/unkai-agent-networks.conf",
    "unkai_agent/systemd/agent.toml",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel, from a copy of the sources; and the wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("distribution")
    sources = distribution.copy_sources(folder / "sources")
    sdist = distribution.build(sources, folder / "sdist", "sdist")[0]
    wheel = distribution.build(sources, folder / "wheel", "wheel")[0]
    # Not by tarfile: Debian's 3.11.2 has no filters yet, later ones ask for one.
    shutil.unpack_archive(sdist, folder / "unpacked")
    unpacked = next((folder / "unpacked").iterdir())
    again = distribution.build(unpacked, folder / "again", "wheel")[0]
    return {"sdist": sdist, "wheel": wheel, "again": again}


def test_the_wheel_has_every_module_and_file_that_is_needed(built: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    assert [name for name in SHIPPED if name not in names] == []
    roots = [
        distribution.ROOT / part for part in ("scheduler", "agent", "cli", "lab", "proto/python")
    ]
    modules = {str(path.relative_to(root)) for root in roots for path in root.rglob("*.py")}
    assert sorted(modules - names) == []


def test_the_wheel_has_nothing_of_tests_images_and_caches(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops - set(PACKAGES) == {"unkai-0.1.0.dist-info", "unkai-0.1.0.data"}
    assert [name for name in names if "__pycache__" in name or name.endswith(".qcow2")] == []


def test_the_sdist_builds_the_same_wheel(built: dict[str, Path]) -> None:
    first, again = (zipfile.ZipFile(built[name]) for name in ("wheel", "again"))
    assert {i.filename: i.CRC for i in first.infolist()} == {
        i.filename: i.CRC for i in again.infolist()
    }


def test_without_its_extra_a_daemon_says_which_to_install(
    built: dict[str, Path], tmp_path: Path
) -> None:
    subprocess.run(["python3", "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(tmp_path / "installed")
    for role in ("scheduler", "agent"):
        done = subprocess.run(
            [python, "-m", f"unkai_{role}", "--version"],
            cwd=tmp_path / "installed",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert f"pip install 'unkai[{role}]'" in done.stderr
        assert "Traceback" not in done.stderr

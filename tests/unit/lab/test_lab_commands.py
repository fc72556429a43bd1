"""The commands on labs that are not there, or down: no root is needed to be told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from unkai_lab.commands import lab
from unkai_lab.journal import Journal
from unkai_lab.spec import LabPaths, LabSpec
from unkai_wire.errors import InvalidArgument, NotFound


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where labs are looked for; empty."""
    monkeypatch.setenv("UNKAI_LAB_ROOT", str(tmp_path))
    monkeypatch.delenv("UNKAI_LAB", raising=False)
    return tmp_path


def _write_down(root: Path, spec: LabSpec) -> LabPaths:
    """Write a lab's spec, as `up` does first, and nothing else."""
    paths = LabPaths.of(spec.name, root)
    paths.folder.mkdir()
    paths.spec.write_text(spec.to_json())
    return paths


@pytest.mark.parametrize(
    "arguments", [["status"], ["env"], ["exec", "h1", "--", "true"], ["reboot", "h1"]]
)
def test_a_lab_that_is_not_there_is_named(root: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(lab, arguments)
    assert isinstance(result.exception, NotFound)
    assert result.exception.reason == "LAB_NOT_FOUND"
    assert result.exception.metadata == {"lab": "lab"}


def test_down_of_a_lab_that_is_not_there_is_no_error(root: Path) -> None:
    result = CliRunner().invoke(lab, ["down", "--name", "nothing"])
    assert result.exit_code == 0
    assert "there is no lab nothing" in result.stderr


def test_a_name_that_leads_out_of_the_root_is_refused(root: Path) -> None:
    result = CliRunner().invoke(lab, ["down", "--name", "../../etc"])
    assert isinstance(result.exception, InvalidArgument)


def test_env_points_the_command_line_at_the_lab(root: Path) -> None:
    paths = _write_down(root, LabSpec(name="x"))
    result = CliRunner().invoke(lab, ["env", "--name", "x"])
    assert result.stdout.splitlines() == [
        "export UNKAI_LAB=x",
        f"export UNKAI_SOCKET={paths.scheduler_socket}",
    ]


def test_status_of_a_lab_whose_up_was_killed_early_says_down(root: Path) -> None:
    _write_down(root, LabSpec(name="x", hosts=2))
    result = CliRunner().invoke(lab, ["status", "--name", "x", "-o", "json"])
    status = json.loads(result.stdout)
    assert status["state"] == "DEGRADED"
    assert {cell["name"]: cell["state"] for cell in status["cells"]} == {
        "control": "DOWN",
        "h1": "DOWN",
        "h2": "DOWN",
    }
    assert (status["hosts_registered"], status["hosts_wanted"]) == (0, 2)


def test_a_host_that_is_down_cannot_be_entered(root: Path) -> None:
    _write_down(root, LabSpec(name="x"))
    result = CliRunner().invoke(lab, ["exec", "--name", "x", "h1", "--", "true"])
    assert getattr(result.exception, "reason", "") == "LAB_CELL_DOWN"


def test_a_cell_that_the_lab_lacks_is_refused(root: Path) -> None:
    _write_down(root, LabSpec(name="x", hosts=1))
    result = CliRunner().invoke(lab, ["exec", "--name", "x", "h2", "--", "true"])
    assert getattr(result.exception, "reason", "") == "NO_SUCH_CELL"


def test_down_removes_the_folder_of_an_up_that_made_nothing_else(root: Path) -> None:
    paths = _write_down(root, LabSpec(name="x"))
    Journal(paths.journal).will_make_group(root / "cgroup" / "never-made")
    result = CliRunner().invoke(lab, ["down", "--name", "x"])
    assert result.exit_code == 0, result.exception
    assert not paths.folder.exists()
    assert root.exists(), "the root was there before the lab"

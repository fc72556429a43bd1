"""Completion as the shells ask for it: a process for each key press."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import unkai
from tests.support.served_api import ServedApi


def offered_by(shell: str, line: str) -> list[str]:
    """Return what a shell's script is given for the last word of a line."""
    words = line.split(" ")
    asked = {
        "_UNKAI_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "unkai_cli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    if shell == "zsh":
        return lines[1::3]
    return [entry.partition(",")[2].partition("\t")[0] for entry in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_commands_and_live_names(shell: str, cloud: ServedApi) -> None:
    assert offered_by(shell, "unkai im") == ["image"]
    assert offered_by(shell, "unkai flavor show m") == ["medium", "micro"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_with_the_script(cloud: ServedApi, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(unkai("completion", "bash").out)
    caller = tmp_path / "unkai"
    caller.write_text(f'#!/bin/sh\nexec {sys.executable} -m unkai_cli "$@"\n')
    caller.chmod(0o755)
    program = (
        f"source {script}; COMP_WORDS=(unkai flavor show sm); COMP_CWORD=3; "
        '_unkai_completion unkai; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "small\n"

"""Completion in the shells: commands, options, live names; never a trace, never a wait."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from tests.support.api import an_ssh_key
from tests.support.builders import a_key_pair
from tests.support.command_line import unkai
from tests.support.served_api import ServedApi
from unkai_cli.main import cli
from unkai_scheduler.store import key_pairs


def offered(line: str) -> list[str]:
    """Return what is offered for the last word of a line."""
    *words, last = line.split(" ")[1:]
    kind = get_completion_class("bash")
    assert kind is not None
    completion = kind(cli, {}, "unkai", "_UNKAI_COMPLETE")
    return [item.value for item in completion.get_completions(words, last)]


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
def test_the_script_of_each_shell_calls_the_command_back(shell: str) -> None:
    outcome = unkai("completion", shell)
    assert outcome.code == 0
    assert f"_UNKAI_COMPLETE={shell}_complete" in outcome.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_commands_and_live_names(shell: str, cloud: ServedApi) -> None:
    assert offered_by(shell, "unkai im") == ["image"]
    assert offered_by(shell, "unkai flavor show m") == ["medium", "micro"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("unkai flavor sh", ["show"]),
        ("unkai host show h", ["h1"]),
        ("unkai project show de", ["default"]),
        ("unkai instance show w", ["web"]),
        ("unkai instance stop web w", ["web"]),
        ("unkai launch image-of-w", ["image-of-web"]),
        ("unkai launch tiny x --flavor na", ["nano"]),
        ("unkai launch tiny x --key la", ["laptop"]),
        ("unkai instance list --state STOPP", ["stopping", "stopped"]),
        ("unkai instance list --host h", ["h1"]),
        ("unkai instance list --all", ["--all-projects"]),
        ("unkai flavor list -o j", ["json"]),
        ("unkai -p de", ["default"]),
        ("unkai nothing like th", []),
    ],
)
def test_live_names_are_offered_where_a_name_belongs(
    line: str, found: list[str], cloud: ServedApi
) -> None:
    key = a_key_pair(name="laptop", public_key=an_ssh_key())
    cloud.lead(lambda conn: key_pairs.insert(conn, key))
    cloud.do(cloud.api.create("web"))
    assert offered(line) == found


def test_contexts_are_offered_without_any_cloud() -> None:
    unkai("context", "add", "one", "--socket", "/nowhere/one.sock")
    assert offered("unkai context use o") == ["one"]
    assert offered("unkai --context o") == ["one"]


def test_without_a_scheduler_nothing_is_offered_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNKAI_SOCKET", "/nowhere/api.sock")
    assert offered("unkai instance show w") == []


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

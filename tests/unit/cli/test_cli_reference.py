"""The reference page says what the command does; hints across the product name what exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click
import pytest

from unkai_cli.main import cli
from unkai_wire.errors import NotFound
from unkai_wire.ids import PREFIXES

ROOT = Path(__file__).parents[3]
_HINT = re.compile(r"['`]unkai ([a-z]+(?:-[a-z]+)*(?: [a-z]+(?:-[a-z]+)*)*)")
_SOURCES = sorted(
    path
    for folder in (
        "scheduler",
        "agent",
        "cli",
        "lab",
        "proto/python/unkai_wire",
        "docs/howto",
        "docs/reference",
    )
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md")
)


def _tool() -> object:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools/cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_command_tree_says() -> None:
    tool = _tool()
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert page == tool.reference(), "renew it: python tools/cli_reference.py"  # type: ignore[attr-defined]


def test_every_command_that_a_hint_names_exists() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: unkai {words}"
        for path in _SOURCES
        for words in _HINT.findall(path.read_text())
        if not _exists(words.split())
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", [*PREFIXES, "context", "service", "domain", "machine"])
def test_what_is_not_found_is_looked_for_with_a_command_that_exists(kind: str) -> None:
    for words in _HINT.findall(NotFound.of(kind, "web").fix):
        assert _exists(words.split()), words


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("instance list", True),
        ("instance logs web", True),
        ("security-group rule add", True),
        ("host get x", False),
        ("vm", False),
    ],
)
def test_the_check_of_hints_tells_right_from_wrong(words: str, known: bool) -> None:
    assert _exists(words.split()) is known


def _exists(words: list[str]) -> bool:
    command: click.Command | None = cli
    with click.Context(cli) as ctx:
        for word in words:
            if not isinstance(command, click.Group):
                return True  # an argument
            if word not in command.list_commands(ctx):
                return False
            command = command.get_command(ctx, word)
    return True

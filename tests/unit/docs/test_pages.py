"""The pages say what is there: commands with their options, targets of make, links."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import unkai_agent.main
import unkai_cli.main
import unkai_scheduler.main
from tests.support import pages
from tests.support.pages import PAGES, ROOT, Shown

PROGRAMS: dict[str, click.Command] = {
    "unkai": unkai_cli.main.cli,
    "unkai-scheduler": unkai_scheduler.main.main,
    "unkai-agent": unkai_agent.main.main,
}
COMMANDS = [shown for page in PAGES for shown in pages.commands_of(page)]


def test_commands_are_found_in_the_pages() -> None:
    assert len(COMMANDS) > 100
    assert {shown.program for shown in COMMANDS} == set(PROGRAMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_commands_that_exist_with_the_options_shown(page: Path) -> None:
    wrong = {
        shown.text: problem
        for shown in pages.commands_of(page)
        if (problem := pages.problem_of(PROGRAMS[shown.program], pages.words_of(shown)))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("unkai instance list --host h1 -o json", ""),
        ("unkai instance NAME", ""),
        ("unkai instance explode web", "instance has no command explode"),
        ("unkai instance delete web --now", "delete has no --now"),
        ("unkai-scheduler db backup FILE", ""),
        ("unkai-scheduler db freeze", "db has no command freeze"),
    ],
)
def test_what_is_not_there_is_found(text: str, problem: str) -> None:
    shown = Shown("page", text)
    assert pages.problem_of(PROGRAMS[shown.program], pages.words_of(shown)) == problem


def test_targets_of_make_that_pages_name_exist() -> None:
    there = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {name for line in there for name in line.split()}
    named = {page: pages.targets_of(page) - targets for page in PAGES}
    assert not {page: missing for page, missing in named.items() if missing}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = [link.split("#")[0] for link in pages.links_of(page) if "://" not in link]
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_both_readmes_show_the_same() -> None:
    """All that needs no translation is the same: commands, output, links, figures."""
    english, chinese = (ROOT / name for name in ("README.md", "README.zh-CN.md"))

    def shape(page: Path) -> tuple[object, ...]:
        text = page.read_text()
        lines = [line.split("  # ")[0].split("   #")[0].rstrip() for line in pages.code_of(page)]
        links = [link for link in pages.links_of(page) if not link.startswith("README")]
        return (
            lines,
            sorted(re.findall(r"\d[\d.,]*\d|\d", text)),
            links,
            len(re.findall(r"^\|", text, re.MULTILINE)),
            len(re.findall(r"^- ", text, re.MULTILINE)),
            len(re.findall(r"^## ", text, re.MULTILINE)),
        )

    assert shape(english) == shape(chinese)

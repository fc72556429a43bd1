"""Every rule is right by promtool; every alert has cases for and against it, and help."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "observe" / "rules"
HELP = (ROOT / "docs" / "howto" / "alerts.md").read_text()
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def cases() -> list[dict[str, Any]]:
    tests = yaml.safe_load((RULES / "tests" / "alerts.yml").read_text())["tests"]
    return [case for test in tests for case in test["alert_rule_test"]]


def promtool(*words: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_are_right() -> None:
    promtool("check", "rules", *sorted(RULES.glob("*.yml")))


@needs_promtool
def test_each_rule_does_what_its_cases_say() -> None:
    promtool("test", "rules", *sorted((RULES / "tests").glob("*.yml")))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    names = {rule["alert"] for rule in rules()}
    assert {c["alertname"] for c in cases() if c.get("exp_alerts")} == names
    assert {c["alertname"] for c in cases() if not c.get("exp_alerts")} == names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_and_where_the_help_is(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["for"]
    assert all(rule["annotations"][key] for key in ("summary", "description"))
    assert rule["annotations"]["runbook"] == f"docs/howto/alerts.md#{name.lower()}"
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", HELP, re.MULTILINE | re.DOTALL)
    assert section, f"docs/howto/alerts.md has no section {name}"
    assert "**Means:**" in section[1]
    assert "**Do:**" in section[1]


def test_the_help_has_no_alert_that_there_is_not() -> None:
    assert set(re.findall(r"^### (\w+)$", HELP, re.MULTILINE)) == {
        rule["alert"] for rule in rules()
    }

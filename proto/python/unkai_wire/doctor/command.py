"""The `diagnose` command of a role: settings first, then the checks, then the report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import click

from unkai_wire.doctor.findings import Checks, Finding, Report, Severity

S = TypeVar("S")
SETTINGS = "settings"
SETTINGS_ASKS = "the settings can be read, and hold nothing unknown"
EXIT_WARN, EXIT_FAIL = 1, 2


def diagnosis(
    checks: Checks[S],
    make_scene: Callable[[], tuple[str, S]],
    version: str,
    *,
    only: Sequence[str],
    timeout_s: float,
    file: str,
) -> Report:
    """Examine a role. `make_scene` returns who it is and what the checks look at.

    It raises an error with `problems` when the settings cannot be used: then they are the finding.
    """
    names = {check.name for check in checks.all} | {SETTINGS}
    if unknown := [name for name in only if name not in names]:
        raise click.BadParameter(
            f"there is no check {unknown[0]}; see --list", param_hint="--check"
        )
    try:
        where, scene = make_scene()
    except Exception as error:
        problems = getattr(error, "problems", None)
        if problems is None:
            raise
        return Report("settings", version, 1, tuple(_unusable(line, file) for line in problems))
    count, found = checks.run(scene, only=only, timeout_s=timeout_s)
    findings = tuple(replace(finding, where=where) for finding in found)
    return Report(where, version, count + (not only or SETTINGS in only), findings)


def _unusable(problem: str, file: str) -> Finding:
    return Finding(
        SETTINGS,
        Severity.FAIL,
        problem,
        "the daemon does not start with them",
        f"mend {file}; the settings are listed in docs/reference/settings.md",
    )


def listing(checks: Checks[S]) -> str:
    """Return all names with what they look at."""
    rows = [(SETTINGS, SETTINGS_ASKS), *((check.name, check.asks) for check in checks.all)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {asks}" for name, asks in rows)


def finish(report: Report, form: str) -> None:
    """Print the report and end the process, whatever thread still hangs."""
    if form == "json":
        sys.stdout.write(report.to_json() + "\n")
    else:
        for finding in report.findings:
            sys.stdout.write(
                f"{finding.severity.value}  {finding.check}: {finding.what}\n"
                f"      why: {finding.why}\n      fix: {finding.fix}\n"
            )
        sys.stderr.write(f"{report.checks} checks, {len(report.findings)} findings\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code(report.findings))


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 where nothing was found, 1 for warnings, 2 where something fails."""
    if any(finding.severity is Severity.FAIL for finding in findings):
        return EXIT_FAIL
    return EXIT_WARN if findings else 0

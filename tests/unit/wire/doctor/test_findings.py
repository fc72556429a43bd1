"""How checks are run: side by side, each under a deadline, none hiding another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest

from unkai_wire.doctor import child, command
from unkai_wire.doctor.findings import Checks, Finding, Probe, Report, Severity


def a_finding(**changes: object) -> Finding:
    values = {"check": "", "severity": Severity.FAIL, "what": "w", "why": "y", "fix": "f"}
    return Finding(**{**values, **changes})  # type: ignore[arg-type]


def checks_with(**looks: object) -> Checks[str]:
    made: Checks[str] = Checks()
    for name, look in looks.items():
        made.add(name, f"asks {name}")(look)  # type: ignore[arg-type]
    return made


def fine(scene: str) -> Iterable[Finding]:
    return ()


def broken(scene: str) -> Iterable[Finding]:
    yield a_finding(what=f"{scene} is broken")


def hanging(scene: str) -> Iterable[Finding]:
    threading.Event().wait(30)
    return ()


def raising(scene: str) -> Iterable[Finding]:
    raise RuntimeError("no such luck")


def test_what_is_fine_says_nothing() -> None:
    assert checks_with(fine=fine).run("h1") == (1, [])


def test_a_finding_bears_the_name_of_its_check() -> None:
    _, found = checks_with(fine=fine, broken=broken).run("h1")
    assert [(f.check, f.what) for f in found] == [("broken", "h1 is broken")]


def test_a_check_that_hangs_costs_its_own_and_no_other() -> None:
    begun = time.monotonic()
    count, found = checks_with(hanging=hanging, broken=broken).run("h1", timeout_s=0.2)
    assert count == 2
    assert [f.check for f in found] == ["hanging", "broken"]
    assert "no answer within 0.2 s" in found[0].what
    assert time.monotonic() - begun < 5


def test_a_check_that_fails_is_a_finding_and_hides_no_other() -> None:
    _, found = checks_with(raising=raising, broken=broken).run("h1")
    assert "no such luck" in found[0].what
    assert found[1].check == "broken"


def test_only_the_checks_named_are_run() -> None:
    assert checks_with(fine=fine, broken=broken).run("h1", only=["fine"]) == (1, [])


def test_a_probe_asks_once_however_many_want_to_know() -> None:
    asked: list[int] = []
    probe = Probe(lambda: asked.append(1) or "answer", within_s=5, late="late")
    assert [probe(), probe()] == ["answer", "answer"]
    assert asked == [1]


def test_a_probe_that_hangs_gives_what_stands_for_no_answer() -> None:
    probe = Probe(lambda: str(threading.Event().wait(30)), within_s=0.1, late="late")
    assert probe() == "late"


def test_a_probe_raises_what_asking_raised() -> None:
    def ask() -> str:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Probe(ask, within_s=5, late="")()


def test_a_report_survives_its_way_through_json() -> None:
    report = Report("agent h1", "0.1.0", 35, (a_finding(check="kvm", where="agent h1"),))
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"findings": [1]}'])
def test_what_is_no_report_becomes_a_finding_of_its_own(text: str) -> None:
    report = child.read("agent", text, "unkai-agent: kaputt\n  fix: mend it\n")
    assert [(f.check, f.fix) for f in report.findings] == [("checks-run", "mend it")]
    assert "kaputt" in report.findings[0].what


def test_a_missing_module_is_called_that() -> None:
    words = "unkai-agent: the Python module structlog is not installed\n  fix: pip install x\n"
    assert child.read("agent", "", words).findings[0].check == "python-modules"


@pytest.mark.parametrize(
    ("severities", "code"),
    [([], 0), ([Severity.WARN], 1), ([Severity.WARN, Severity.FAIL], 2)],
)
def test_the_exit_code_is_that_of_the_worst(severities: list[Severity], code: int) -> None:
    assert command.exit_code([a_finding(severity=s) for s in severities]) == code

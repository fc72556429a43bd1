"""The scheduler's doctor looks at every certificate in its folder, not at its own alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from click.testing import CliRunner

from unkai_scheduler import certificates
from unkai_scheduler.doctor.checks import certificate_dates
from unkai_scheduler.doctor.scene import Scene
from unkai_scheduler.main import main
from unkai_scheduler.settings import load_settings


def test_a_monitor_s_certificate_that_ends_soon_is_told_with_what_makes_it_anew(
    tmp_path: Path,
) -> None:
    made = CliRunner().invoke(main, ["init", "--dir", str(tmp_path), "--name", "s1"])
    assert made.exit_code == 0, made.output
    settings, pki = load_settings(tmp_path / "scheduler.toml"), tmp_path / "pki"
    assert not list(certificate_dates(Scene(settings)))

    short = certificates.load(pki, lifetime=timedelta(days=10))
    certificate, *_ = short.issue_monitor("prometheus").write(pki)
    (found,) = certificate_dates(Scene(settings))

    assert found.what.startswith(f"{certificate} ends ")
    assert f"unkai-scheduler cert monitor prometheus --out {pki}" in found.fix
    assert f"move {certificate} and its key away" in found.fix

"""Filters of other packages: the one of the how-to is in force once its package is installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.fleets import NOW, WEIGHTS, a_fleet, a_host, a_request
from unkai_scheduler import filter_plugins
from unkai_scheduler.placement.pipeline import Engine
from unkai_wire.errors import FailedPrecondition

ROOT = Path(__file__).parents[3]
HOWTO = ROOT / "docs" / "howto" / "write-a-filter.md"


def blocks() -> tuple[str, str]:
    """Return the module and the project file of the how-to."""
    code, project = re.findall(r"```(?:python|toml)\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    return code, project


def install(folder: Path, module: str, entry: str) -> None:
    """Lay a distribution out as an installer does."""
    (folder / "spare_cpus.py").write_text(module)
    info = folder / "spare_cpus-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spare-cpus\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{filter_plugins.GROUP}]\nspare_cpus = {entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks into for packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "spare_cpus", raising=False)
    return tmp_path


def test_the_filter_of_the_howto_keeps_hosts_out_and_says_why(site: Path) -> None:
    code, project = blocks()
    assert len(code.splitlines()) <= 20
    (entry,) = re.findall(r'^spare_cpus = "(.*)"$', project, re.MULTILINE)
    assert f'[project.entry-points."{filter_plugins.GROUP}"]' in project
    install(site, code, entry)
    # 4 CPUs, of which 16 may be claimed, and 14 by this filter.
    fleet = a_fleet([a_host("h1", claimed_vcpus=13), a_host("h2", claimed_vcpus=12)])
    engine = Engine(fleet, WEIGHTS, filter_plugins.load())

    first, second = engine.decide(
        [a_request("a", vcpus=2), a_request("b", vcpus=2)], now=NOW, now_s=100.0
    )

    assert first.host_name == "h2"
    assert (first.filters[-1].name, first.filters[-1].rejected_hosts) == ("spare_cpus", ("h1",))
    assert second.summary == (
        "no host fits: 2 of 2 keep their last CPUs free (nearest: h1 keeps an eighth of its CPUs "
        "free)"
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("FILTER = 3", "spare_cpus:FILTER is no Filter"),
        (blocks()[0].replace('"spare_cpus"', '"memory"'), "two filters have one name"),
    ],
)
def test_a_filter_that_cannot_be_used_stops_the_start(site: Path, code: str, why: str) -> None:
    install(site, code, "spare_cpus:FILTER")

    with pytest.raises(FailedPrecondition, match="cannot be used") as told:
        filter_plugins.load()

    assert why in told.value.message


def test_without_packages_there_are_ours_alone() -> None:
    book = filter_plugins.load()

    assert [rule.name for rule in book.filters][:2] == ["excluded", "state"]
    assert book.nobody == len(book.filters)

"""The dashboards are what the code makes, fit Grafana's schema, and help who reads them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from tools import dashboards

FILES = dashboards.files()
WIDTH = 24


def panels(text: str) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


def test_the_files_are_current() -> None:
    written = {path.name: path.read_text() for path in dashboards.TARGET.glob("*")}
    assert written == FILES, "run 'python -m tools.dashboards' and commit what it changes"


def test_cluster_host_instance_and_decisions_have_one_each() -> None:
    assert set(FILES) == {
        f"unkai-{what}.json" for what in ("cluster", "host", "instance", "decisions")
    }


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_grafanas_own_library_reads_what_is_written(text: str) -> None:
    read = models.Dashboard.from_json(json.loads(text))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(text)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_every_panel_says_what_it_means_in_which_unit_of_the_source_picked(text: str) -> None:
    for panel in panels(text):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    titles = [panel["title"] for panel in panels(text)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_no_panel_lies_on_another_or_beside_the_page(text: str) -> None:
    taken: set[tuple[int, int]] = set()
    numbers = set()
    for panel in json.loads(text)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        numbers.add(panel["id"])
    assert len(numbers) == len(json.loads(text)["panels"])


def test_links_lead_to_dashboards_that_there_are() -> None:
    uids = {json.loads(text)["uid"] for text in FILES.values()}
    linked = set(re.findall(r'"/d/([\w-]+)\?', "".join(FILES.values())))
    assert linked
    assert linked <= uids


def test_each_variable_that_is_used_is_there() -> None:
    found: set[str] = set()
    for text in FILES.values():
        board = json.loads(text)
        known = {variable["name"] for variable in board["templating"]["list"]}
        expressions = " ".join(t["expr"] for p in panels(text) for t in p["targets"])
        used = set(re.findall(r"\$(\w+)", expressions)) - {"__rate_interval"}
        assert used <= known, board["title"]
        found |= used
    assert found

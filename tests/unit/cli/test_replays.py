"""`unkai placement replay`: what it prints, and codes that scripts can use."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.support.builders import an_image, an_instance
from tests.support.command_line import check_golden, unkai
from tests.support.fleets import NOW, WEIGHTS, a_fleet, a_host, a_request
from tests.support.served_api import ServedApi
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.segments import Segment, seal
from unkai_scheduler.store import images, instances

SAME, DIFFERS, WRONG, GONE, NOT_LOGGED = 0, 1, 2, 3, 4
TIME = NOW.isoformat()


def shown(text: str) -> str:
    """Return what is shown without the filters' names, which others add to."""
    return re.sub(r"(?<=^filters that kept no host out: ).*", "...", text, flags=re.MULTILINE)


def logged(cloud: ServedApi, fleet: Fleet, segment: Segment) -> None:
    """Put a segment into the log."""
    cloud.api.decisions.kept[str(segment.header.name)] = seal(segment)


@pytest.fixture
def ident(cloud: ServedApi) -> str:
    """An instance `web` of which a decision was logged: among h1, h2 and a cordoned h3."""
    fleet = a_fleet([a_host("h1", claimed_vcpus=8), a_host("h2"), a_host("h3", cordoned=True)])
    fleet.journal = Journal(fleet, WEIGHTS)
    image = an_image()
    row = an_instance(name="web", image_id=image.id)
    wanted = replace(a_request(), instance_id=row.id)
    (decision,) = Engine(fleet, WEIGHTS).decide([wanted], now=NOW, now_s=100.0)
    cloud.lead(lambda conn: images.insert(conn, image))
    cloud.lead(lambda conn: instances.insert(conn, row))
    cloud.lead(lambda conn: instances.save_decision(conn, decision))
    logged(cloud, fleet, fleet.journal.so_far())
    return row.id


@pytest.mark.parametrize("form", ["table", "name"])
def test_a_decision_is_made_again_as_the_golden_files_say(ident: str, form: str) -> None:
    found = unkai("placement", "replay", "web", "-o", form)

    assert (found.code, found.err) == (SAME, "")
    check_golden(f"placement-replay.{form}", shown(found.out))


def test_under_another_policy_it_is_said_what_differs(ident: str) -> None:
    found = unkai("placement", "replay", "web", "--policy", "pack")

    assert (found.code, found.err) == (SAME, "")
    check_golden("placement-replay-pack.table", shown(found.out))


def test_programs_read_all_of_it(ident: str) -> None:
    found = json.loads(unkai("placement", "replay", "web", "-o", "json").out)
    other = json.loads(
        unkai("placement", "replay", "web", "--weight", "policy=0", "-o", "json").out
    )

    assert found["identical"] is True
    assert found["differences"] == []
    assert found["replayed"]["host_name"] == found["logged"]["host_name"] == "h2"
    assert other["identical"] is False
    assert {t["name"]: t["weight"] for t in other["replayed"]["candidates"][0]["terms"]}[
        "spread"
    ] == 0


def test_a_decision_that_does_not_come_out_the_same_is_told_by_the_exit_code(
    cloud: ServedApi, ident: str
) -> None:
    fleet = a_fleet([a_host("h1"), a_host("h2")])
    fleet.journal = Journal(fleet, WEIGHTS)
    wanted = replace(a_request(), instance_id=ident)
    Engine(fleet, WEIGHTS).decide([wanted], now=NOW, now_s=100.0)
    segment = fleet.journal.so_far()
    header = replace(segment.header, weights={**segment.header.weights, "policy": 200})
    cloud.api.decisions.kept.clear()
    logged(cloud, fleet, Segment(header, segment.records))

    found = unkai("placement", "replay", "web")

    assert found.code == DIFFERS
    assert "and now has" in found.out


def test_an_instance_that_is_gone_is_replayed_by_id_and_time(cloud: ServedApi, ident: str) -> None:
    cloud.lead(lambda conn: instances.delete(conn, ident))

    assert unkai("placement", "replay", ident, "--time", TIME).code == SAME
    assert unkai("placement", "replay", ident).code == GONE
    late = unkai("placement", "replay", ident, "--time", "2026-11-23T12:00:00Z")
    assert late.code == NOT_LOGGED
    assert "is not in the log" in late.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--weight policy", "is not a weight"),
        ("--weight policy=256", "is not a weight"),
        ("--time yesterday", "is not a time"),
        ("--time 2026-11-23T12:00:00", "is not a time"),
        ("--weight love=3", "there is no weight 'love'"),
        ("--policy none", "is not one of"),
    ],
)
def test_what_is_said_wrongly_is_told(ident: str, words: str, told: str) -> None:
    found = unkai("placement", "replay", "web", *words.split())

    assert (found.code, told in found.err) == (WRONG, True), found.err

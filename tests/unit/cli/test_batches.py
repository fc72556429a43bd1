"""`unkai launch --count`: several instances, their progress and their failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Outcome, unkai
from tests.support.served_api import ServedApi
from unkai_wire.errors import NoCapacity


@pytest.fixture
def tiny(cloud: ServedApi, tmp_path: Path) -> str:
    """The name of an image."""
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\x01" * (1 << 20))
    assert unkai("image", "upload", "tiny", str(image)).code == 0
    return "tiny"


def launch(image: str, *more: str, verb: str = "launch") -> Outcome:
    words = [*verb.split(), image, "web", "-c", "1", "-m", "64M", "--network", "none"]
    return unkai(*words, *more)


@pytest.mark.parametrize("verb", ["launch", "instance create"])
def test_all_of_a_batch_are_waited_for_and_shown(tiny: str, verb: str) -> None:
    outcome = launch(tiny, "--count", "3", "--priority", "5", "-o", "json", verb=verb)
    assert outcome.code == 0, outcome.err
    shown = json.loads(outcome.out)
    assert [(row["name"], row["state"], row["priority"]) for row in shown] == [
        (f"web-{number}", "RUNNING", 5) for number in (1, 2, 3)
    ]
    assert "0 of 3 running; create instance: " in outcome.err
    assert "2 of 3 running; create instance: " in outcome.err


def test_one_alone_has_its_number_too(tiny: str) -> None:
    outcome = launch(tiny, "--count", "1", "--all-or-nothing")
    assert outcome.code == 0, outcome.err
    assert unkai("instance", "list", "-o", "name").out.split() == ["web-1"]


def test_without_waiting_all_are_accepted(tiny: str) -> None:
    outcome = launch(tiny, "--count", "4", "--no-wait")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 5
    assert outcome.err == "4 operations accepted; 'unkai operation list' shows them\n"


def test_what_all_failed_with_is_said_once(tiny: str, cloud: ServedApi) -> None:
    cloud.leader.capacity = 0
    cloud.leader.failures.extend([NoCapacity("no host fits", reasons={"vcpus": 1})] * 3)
    outcome = launch(tiny, "--count", "3")
    assert outcome.code == 5
    assert outcome.out.count("FAILED") == 3
    assert outcome.err.count("NO_CAPACITY") == 1
    assert "3 of 3 instances do not run" in outcome.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--all-or-nothing", "say --count N too"),
        ("--count 2 --floating-ip new", "leave out --count"),
        ("--count 0", "0 is not in the range"),
        ("--priority 1001", "1001 is not in the range"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny: str, words: str, problem: str) -> None:
    outcome = launch(tiny, *words.split())
    assert outcome.code == 2
    assert problem in outcome.err


def test_a_name_that_is_taken_refuses_all(tiny: str) -> None:
    assert launch(tiny, "--count", "2").code == 0
    outcome = launch(tiny, "--count", "5")
    assert outcome.code != 0
    assert "web-1" in outcome.err
    assert len(unkai("instance", "list", "-o", "name").out.split()) == 2

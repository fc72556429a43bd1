"""`unkai launch` with networks: what it asks for, on the real services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Outcome, unkai
from tests.support.served_api import ServedApi


@pytest.fixture
def tiny(cloud: ServedApi, tmp_path: Path) -> str:
    """The name of an image; there is an inner network with two subnets too, and a way out."""
    image = tmp_path / "tiny.raw"
    image.write_bytes(b"\x01" * (1 << 20))
    assert unkai("image", "upload", "tiny", str(image)).code == 0
    for words in (
        "network create outside --physical-network public --external --subnet 192.0.2.0/24",
        "network create back --subnet 10.1.0.0/24 --subnet fd00:1::/64",
        "network create front --subnet 10.2.0.0/24",
        "router create edge --gateway outside --subnet back --subnet front",
    ):
        outcome = unkai(*words.split())
        assert outcome.code == 0, outcome.err
    return "tiny"


def launch(image: str, *more: str) -> Outcome:
    return unkai("launch", image, "shop", "-c", "1", "-m", "64M", *more)


def launched(image: str, *more: str) -> dict[str, Any]:
    """Launch an instance; return its record."""
    outcome = launch(image, *more, "-o", "json")
    assert outcome.code == 0, outcome.err
    (record,) = json.loads(outcome.out)
    return dict(record)


def addresses(record: dict[str, Any]) -> list[str]:
    return [fixed["address"] for one in record["interfaces"] for fixed in one["fixed_addresses"]]


def test_who_says_nothing_is_on_the_default_network(tiny: str) -> None:
    record = launched(tiny)
    assert [":" in each for each in addresses(record)] == [False, True]
    row = unkai("instance", "list").out.splitlines()[-1]
    assert ",".join(addresses(record)) in row
    shown = unkai("instance", "show", "shop").out
    assert record["interfaces"][0]["mac_address"] in shown


def test_zone_and_traits_are_as_asked(tiny: str) -> None:
    record = launched(
        tiny,
        *("--network", "none", "--zone", "room-2", "--trait", "KVM"),
        *("--prefer-trait", "SSD", "--prefer-trait", "FAST", "--forbid-trait", "OLD"),
    )
    assert (record["zone"], record["required_traits"]) == ("room-2", ["KVM"])
    assert record["preferred_traits"] == ["SSD", "FAST"]
    assert record["forbidden_traits"] == ["OLD"]


def test_none_is_no_network(tiny: str) -> None:
    assert launched(tiny, "--network", "none")["interfaces"] == []


def test_networks_addresses_and_groups_are_as_asked(tiny: str) -> None:
    assert unkai("security-group", "create", "web").code == 0
    record = launched(
        tiny,
        *("--network", "back", "--network", "front"),
        *("--ip", "front=10.2.0.77", "--ip", "back=10.1.0.50", "--ip", "back=back-2"),
        *("--security-group", "web"),
    )
    first, second, third = addresses(record)
    assert (first, third) == ("10.1.0.50", "10.2.0.77")
    assert second.startswith("fd00:1::")
    groups = {ident for one in record["interfaces"] for ident in one["security_group_ids"]}
    assert len(groups) == 1


def test_an_address_alone_is_on_the_only_network(tiny: str) -> None:
    record = launched(tiny, "--network", "back", "--ip", "10.1.0.9", "--seed", "metadata")
    assert (addresses(record), record["seed"]) == (["10.1.0.9"], "METADATA")


def test_a_port_that_is_there_is_plugged_in(tiny: str) -> None:
    assert unkai("port", "create", "eth0", "--network", "back", "--ip", "10.1.0.20").code == 0
    record = launched(tiny, "--port", "eth0")
    assert addresses(record) == ["10.1.0.20"]
    again = launch(tiny, "--port", "eth0")
    assert again.code != 0


def test_a_floating_address_is_made_or_taken(tiny: str) -> None:
    outcome = launch(tiny, "--network", "back", "--floating-ip", "new")
    assert outcome.code == 0, outcome.err
    (floating,) = json.loads(unkai("floating-ip", "list", "-o", "json").out)
    assert f"{floating['address']} leads to shop" in outcome.err
    assert floating["instance_id"]
    refused = unkai(
        *("launch", tiny, "two", "-c", "1", "-m", "64M"),
        *("--network", "back", "--floating-ip", floating["address"]),
    )
    assert (refused.code, "FLOATING_IP_IN_USE" in refused.err) == (4, True)
    assert "two" not in unkai("instance", "list").out  # it is refused before it is made
    assert unkai("floating-ip", "disassociate", floating["address"]).code == 0
    assert unkai("instance", "delete", "shop").code == 0
    assert launch(tiny, "--network", "back", "--floating-ip", floating["address"]).code == 0
    (now,) = json.loads(unkai("floating-ip", "list", "-o", "json").out)
    assert now["fixed_address"].startswith("10.1.0.")


def test_without_a_way_out_no_floating_address_and_no_instance_is_made(tiny: str) -> None:
    for words in ("router delete edge", "network delete outside"):
        assert unkai(*words.split()).code == 0
    refused = launch(tiny, "--network", "back", "--floating-ip", "new")
    assert (refused.code, "NO_EXTERNAL_NETWORK" in refused.err) == (4, True), refused.err
    assert "shop" not in unkai("instance", "list").out


def test_a_new_floating_address_is_given_back_when_the_instance_is_refused(tiny: str) -> None:
    assert launch(tiny, "--network", "back").code == 0
    again = launch(tiny, "--network", "back", "--floating-ip", "new")
    assert again.code != 0
    assert json.loads(unkai("floating-ip", "list", "-o", "json").out) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--network none --network back", "goes with no other"),
        ("--network none --ip 10.1.0.5", "goes with no other"),
        ("--network none --floating-ip new", "nothing to be reached by"),
        ("--network none --seed metadata", "nothing to be reached by"),
        ("--network back --network front --ip 10.1.0.5", "say which: --ip back=10.1.0.5"),
        ("--network back --ip front=10.2.0.5", "front is not among --network"),
        ("--port eth0 --security-group web", "has its own"),
    ],
)
def test_what_cannot_be_said_together_is_refused(tiny: str, words: str, problem: str) -> None:
    refused = launch(tiny, *words.split())
    assert (refused.code, problem in refused.err) == (2, True), refused.err
    assert "shop" not in unkai("instance", "list").out

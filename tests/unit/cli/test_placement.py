"""`unkai placement simulate` and `losses`: what they print, and codes that scripts can use."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.support.builders import a_claim, a_host, an_image, an_instance
from tests.support.command_line import check_golden, unkai
from tests.support.served_api import ServedApi
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.store import claims, hosts, images, instances

FORMS = ("table", "wide", "name")
GIB = 1 << 30
FITS, LACKS, WRONG = 0, 5, 2


@pytest.fixture
def three(cloud: ServedApi) -> ServedApi:
    """A cloud of hosts h1, h2 and h3 of 16 GiB; on each are two instances of 6 GiB."""
    more = [a_host(name="h2"), a_host(name="h3", traits=("SSD",))]
    every: list[Host] = [cloud.host, *more]
    image = an_image()

    def work(conn: Any) -> None:
        images.insert(conn, image)
        for host in more:
            hosts.insert(conn, host)
        for host in every:
            for n in (1, 2):
                row = an_instance(
                    name=f"{host.name}-{n}",
                    image_id=image.id,
                    memory_bytes=6 * GIB,
                    required_traits=("SSD",) if n == 1 and host.name == "h3" else (),
                )
                instances.insert(conn, row)
                claims.insert(conn, [a_claim(row, host)])

    cloud.lead(work)
    return cloud


PLACE = ("placement", "simulate", "--network", "none", "-c", "1", "-m", "1G", "--disk", "4G")


@pytest.mark.parametrize("form", FORMS)
def test_what_ifs_print_as_their_golden_files_say(three: ServedApi, form: str) -> None:
    wanted = ("--place", "20", "--add", "1", "--like", "h1", "--lose", "h3")
    found = unkai(*PLACE, *wanted, "-o", form)
    losses = unkai("placement", "losses", "-o", form)

    assert (found.code, losses.code) == (LACKS, LACKS), found.err + losses.err
    check_golden(f"placement-simulate.{form}", found.out)
    check_golden(f"placement-losses.{form}", losses.out + losses.err)


def test_programs_read_all_of_it(three: ServedApi) -> None:
    found = json.loads(unkai(*PLACE, "--place", "13", "-o", "json").out)
    losses = yaml.safe_load(unkai("placement", "losses", "-o", "yaml").out)

    (outcome,) = found["outcomes"]
    assert (outcome["asked_count"], outcome["placed_count"]) == (13, 12)
    decision = outcome["refusals"][0]["decision"]
    assert {f["name"]: f["rejected_count"] for f in decision["filters"]}["memory"] == 3
    assert found["after"]["claimed"]["memory_bytes"] == 48 * GIB
    assert [change["placed_count"] for change in found["changes"]] == [4, 4, 4]
    assert [loss["outcome"]["asked_count"] for loss in losses] == [2, 2, 2]


def test_scripts_can_tell_what_fits_from_what_does_not(three: ServedApi) -> None:
    fits = unkai(*PLACE, "--place", "12")
    assert (fits.code, fits.out.splitlines()[0]) == (
        FITS,
        "12 of 12 placed on 3 hosts; not one more would fit",
    )
    some = unkai(*PLACE, "--place", "11")
    assert some.out.splitlines()[0] == "11 of 11 placed on 3 hosts; 1 more would fit"
    lacks = unkai(*PLACE, "--place", "13", "-o", "value=outcomes")
    assert lacks.code == LACKS
    assert '"placed_count": 12' in lacks.out
    assert unkai(*PLACE, "--place", "13", "--add", "1", "--like", "h1").code == FITS
    own = ("--add", "1", "--host-cpus", "2", "--host-memory", "1G", "--host-disk", "4G")
    assert unkai(*PLACE, "--place", "13", *own).code == FITS
    assert unkai(*PLACE, "--place", "14", *own, "--host-trait", "SSD").code == LACKS
    assert unkai(*PLACE, "--place", "4", "--trait", "SSD").code == FITS
    assert unkai(*PLACE, "--place", "5", "--trait", "SSD").code == LACKS
    assert unkai(*PLACE, "--place", "9", "--forbid-trait", "SSD").code == LACKS
    assert unkai(*PLACE, "--place", "1", "--zone", "moon").code == LACKS
    assert unkai("placement", "losses", "h1").code == LACKS
    assert unkai("placement-group", "create", "apart", "--policy", "anti-affinity").code == 0
    assert unkai(*PLACE, "--place", "3", "--group", "apart").code == FITS
    assert unkai(*PLACE, "--place", "4", "--group", "apart").code == LACKS


def test_an_empty_host_can_be_lost(cloud: ServedApi) -> None:
    one = unkai("placement", "losses", "h1")
    assert (one.code, one.err) == (FITS, "")
    found = unkai("placement", "simulate", "--lose", "h1")
    assert found.code == FITS
    assert found.out.splitlines()[0] == "no instances of the lost host"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "say what is supposed"),
        ("--place 3", "say --flavor F, or both"),
        ("--zone a --lose h1", "say how many instances"),
        ("--like h1", "say how many hosts"),
        ("--add 2", "say --like HOST, or all of"),
        ("--add 2 --like h1 --host-cpus 4", "not both"),
        ("--place 1 --flavor nano --network none --network x", "goes with no other network"),
        ("--place 0", "Invalid value for '--place'"),
    ],
)
def test_what_is_said_wrongly_is_told(cloud: ServedApi, words: str, told: str) -> None:
    found = unkai("placement", "simulate", *words.split())

    assert (found.code, told in found.err) == (WRONG, True), found.err


def test_a_host_that_is_not_there_is_named(cloud: ServedApi) -> None:
    for words in (("simulate", "--lose", "h9"), ("losses", "h9")):
        found = unkai("placement", *words)
        assert found.code == 3
        assert "host h9 does not exist" in found.err

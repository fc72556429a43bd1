"""Story: somebody damages OVN's northbound database by hand; the cloud puts it right, and says so.

Each row of ours is removed, altered, and stripped of the mark that makes it ours; rows with a mark
of ours are planted; all goes at once; and some of it while nobody leads. Each time the whole
database, other people's rows included, is within 30 s as it was before, read by OVN's own tool, and
an event names the unit that was mended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from tests.support.acceptance import Shows, full_counts, seeded
from tests.support.evidence import tables_of
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.network_evidence import northbound_of, wait_agreed
from tests.support.northbound_damage import (
    DERIVED,
    UNIT,
    Damage,
    each_damage,
    every_row_altered,
    every_row_removed,
    planted,
)
from tests.support.one_of_everything import make_one_of_everything
from tests.support.ovsdb_look import Database, Row
from tests.support.user import User
from unkai_lab.lab import Lab
from unkai_lab.ovn import NORTHBOUND
from unkai_lab.spec import LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
WHOLE_S = 30.0
"""The claim."""
PATIENCE_S = 120.0
LATER = {
    "Logical_Switch_Port": {"up", "dynamic_addresses"},
    "Logical_Router_Port": {"ipv6_prefix"},
}
"""Columns that OVN's own daemons write."""
FOREIGN = [
    *("ls-add", "foreign", "--", "lsp-add", "foreign", "f1"),
    *("--", "acl-add", "foreign", "to-lport", "1", "ip", "drop"),
    *("--", "lr-add", "foreign-router"),
    *("--", "lrp-add", "foreign-router", "frp", "02:00:00:00:00:0f", "10.250.0.1/24"),
    *("--", "lb-add", "foreign-lb", "10.250.0.9:80", "10.250.0.10:80"),
    *("--", "create", "DHCP_Options", "cidr=10.250.0.0/24"),
    *("--", "pg-add", "foreign_group", "f1"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab with one of everything, and rows in its OVN that are somebody else's."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="damage", hosts=1, networks=True))) as made:
        user = User(made.socket())
        try:
            wait_agreed(made)
            assert _repairs(made) == Counter(), "a first start mends nothing"
            make_one_of_everything(user)
        finally:
            user.close()
        made.control.ovn.ctl(NORTHBOUND, *FOREIGN)
        wait_agreed(made)
        yield made


def _rows(lab: Lab) -> Mapping[str, Row]:
    """Return all rows but the one with the term, by UUID, as far as people write them."""
    return {
        row["_uuid"]: {key: row[key] for key in row if key not in LATER.get(table, ())}
        for table, some in northbound_of(lab).items()
        if table != "NB_Global"
        for row in some
    }


def _repairs(lab: Lab) -> Counter[str]:
    """Return how many events say of each unit that it was mended."""
    rows = tables_of(lab)["events"]
    return Counter(
        f"{row['resource_kind']}:{row['resource_id']}"
        for row in rows
        if row["reason"] == "OVN_REPAIRED"
    )


def _wait_mended(lab: Lab, damage: Damage, before: Mapping[str, Row], told: Counter[str]) -> float:
    """Wait until all is as it was and told; return how many seconds the former took."""
    begun_s, whole_s = time.monotonic(), 0.0
    while True:
        over = time.monotonic() > begun_s + PATIENCE_S
        now = _rows(lab)
        if now == before:
            whole_s = whole_s or time.monotonic() - begun_s
            silent = [unit for unit in damage.units if _repairs(lab)[unit] <= told[unit]]
            if not silent:
                assert whole_s <= WHOLE_S, f"{damage}: whole after {whole_s:.1f} s"
                return whole_s
            assert not over, f"{damage}: no event says that {silent} were mended"
        assert not over, f"{damage}: not whole: {_difference(before, now)}"
        time.sleep(0.05)


def _difference(before: Mapping[str, Row], now: Mapping[str, Row]) -> str:
    uuids = [uuid for uuid in before.keys() | now.keys() if before.get(uuid) != now.get(uuid)]
    return "\n".join(f"{before.get(uuid)}\n  is now {now.get(uuid)}" for uuid in uuids)


def _of_ours(database: Database) -> Counter[str]:
    return Counter(
        {table: sum(UNIT in row["external_ids"] for row in database[table]) for table in DERIVED}
    )


def test_damage_by_hand_is_mended_told_and_touches_nothing_foreign(lab: Lab, shows: Shows) -> None:
    database, before = northbound_of(lab), _rows(lab)
    ours = _of_ours(database)
    assert all(ours[table] for table in DERIVED), f"rows to damage: {ours}"
    damages = each_damage(database)
    rng = seeded("damage")
    rng.shuffle(damages)
    if not full_counts():  # one of each kind to each table
        damages = list({(one.kind, one.table): one for one in damages}.values())
    worst_s, told = 0.0, _repairs(lab)
    for damage in damages:
        lab.control.ovn.ctl(NORTHBOUND, *damage.command)
        worst_s = max(worst_s, _wait_mended(lab, damage, before, told))
        told = _repairs(lab)
    wait_agreed(lab)
    kinds = Counter(one.kind.value for one in damages)
    shows(
        "networks 6 damage",
        f"{dict(kinds)}, each of the {ours.total()} rows in the {len(DERIVED)} tables that are"
        f" ours: {'all' if full_counts() else 'one a table'} whole again, {worst_s:.1f} s at worst;"
        f" {told.total()} events name what was mended; rows of others as they were",
    )


def test_all_of_it_removed_at_once_is_whole_again(lab: Lab, shows: Shows) -> None:
    before, told = _rows(lab), _repairs(lab)
    damage = every_row_removed(northbound_of(lab))
    lab.control.ovn.ctl(NORTHBOUND, *damage.command)
    took_s = _wait_mended(lab, damage, before, told)
    wait_agreed(lab)
    shows(
        "networks 6 everything removed",
        f"all rows of {len(damage.units)} units removed at once: whole after {took_s:.1f} s, an"
        " event each; rows of others as they were",
    )


def test_damage_while_nobody_leads_is_mended_by_who_leads_next(lab: Lab, shows: Shows) -> None:
    before, told = _rows(lab), _repairs(lab)
    damage = every_row_altered(northbound_of(lab))
    lab.kill_scheduler()
    lab.control.ovn.ctl(NORTHBOUND, *damage.command)
    assert _rows(lab) != before
    lab.start_scheduler()
    took_s = _wait_mended(lab, damage, before, told)
    wait_agreed(lab)
    shows(
        "networks 6 damage while nobody leads",
        f"all rows of {len(damage.units)} units altered: whole {took_s:.1f} s after the scheduler"
        " serves, an event each",
    )


def test_rows_planted_with_a_mark_of_ours_go_and_foreign_ones_among_ours_stay(
    lab: Lab, shows: Shows
) -> None:
    told, database = _repairs(lab), northbound_of(lab)
    switch = next(row["name"] for row in database["Logical_Switch"] if row["name"] != "foreign")
    lab.control.ovn.ctl(NORTHBOUND, "lsp-add", switch, "stranger")
    lab.control.ovn.ctl(NORTHBOUND, "acl-add", "unkai_drop", "to-lport", "5", "ip4", "drop")
    before = _rows(lab)
    for damage in planted(database):
        lab.control.ovn.ctl(NORTHBOUND, *damage.command)
        _wait_mended(lab, damage, before, told)
        told = _repairs(lab)
    names = {row["name"] for row in northbound_of(lab)["Logical_Switch_Port"]}
    assert "stranger" in names
    lab.control.ovn.ctl(NORTHBOUND, "lsp-del", "stranger")
    lab.control.ovn.ctl(NORTHBOUND, "acl-del", "unkai_drop", "to-lport", "5", "ip4")
    wait_agreed(lab)
    shows("networks 6 planted", "rows with our mark went, a stranger's among ours stayed")

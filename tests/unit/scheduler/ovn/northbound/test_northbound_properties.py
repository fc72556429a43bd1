"""What is true of the northbound rows of any cloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.northbound_worlds import Changes, World
from unkai_scheduler.ovn.fake import FakeOvn
from unkai_scheduler.ovn.fake_schema import UNIQUE_NAMES, northbound_schema
from unkai_scheduler.ovn.northbound.affected import affected
from unkai_scheduler.ovn.northbound.units import keys_of, unit_of_key
from unkai_scheduler.ovn.northbound.view import View
from unkai_scheduler.ovn.rows import Outcome, Row, Unit
from unkai_scheduler.ovn.schema import OPEN_MAPS

_SEEDS = st.integers(0, 2**32)
"""Of clouds: drawn choice by choice they would be too poor to show anything."""
_SCHEMA = northbound_schema()
_FOR_OTHERS = {"ACL": {"name", "log", "severity", "meter", "label"}}
"""What passes does not depend on them: an operator may log what a rule meets."""


def _grown(random: Random) -> World:
    world = World(random)
    world.grow()
    return world


def _units(view: View) -> list[Unit]:
    return [unit_of_key(view, key) for key in keys_of(view)]


def _rows(view: View) -> list[Row]:
    return [row for unit in _units(view) for row in unit.rows]


@settings(max_examples=40, deadline=None)
@given(_SEEDS)
def test_a_change_alters_no_unit_but_those_that_are_said_to_be_affected(seed: int) -> None:
    world = _grown(Random(seed))
    before = world.view()
    units = {unit.key: unit for unit in _units(before)}
    for _ in range(10):
        changes = world.change()
        after = world.view()
        told = _told(changes, before, after)
        changed = {unit.key: unit for unit in _units(after)}
        for key in {*units, *changed} - told:
            assert units.get(key, Unit(key)) == changed.get(key, Unit(key)), changes
        before, units = after, changed


def _told(changes: Changes, *views: View) -> set[str]:
    return {key for some in changes for view in views for key in affected(view, *some)}


@settings(max_examples=25, deadline=None)
@given(_SEEDS)
def test_no_two_rows_have_one_uuid_and_no_two_names_that_must_be_unique_are_equal(
    seed: int,
) -> None:
    rows = _rows(_grown(Random(seed)).view())
    names = Counter((row.table, row.columns["name"]) for row in rows if row.table in UNIQUE_NAMES)
    assert len({row.uuid for row in rows}) == len(rows)
    assert set(names.values()) <= {1}


@settings(max_examples=25, deadline=None)
@given(_SEEDS)
def test_every_row_says_all_columns_but_those_that_are_for_others_to_say(seed: int) -> None:
    for row in _rows(_grown(Random(seed)).view()):
        columns = {
            name
            for name, column in _SCHEMA[row.table].columns.items()
            if name not in OPEN_MAPS and not column.is_set_of_references
        }
        assert row.columns.keys() >= columns - _FOR_OTHERS.get(row.table, set()), row


@settings(max_examples=25, deadline=None)
@given(_SEEDS)
def test_every_reference_is_to_a_row_of_some_unit(seed: int) -> None:
    rows = _rows(_grown(Random(seed)).view())
    there = {(row.table, row.uuid) for row in rows}
    assert {reference for row in rows for reference in _references(row)} <= there


def _references(row: Row) -> Iterator[tuple[str, UUID]]:
    if row.parent:
        yield row.parent.table, row.parent.uuid
    for place in row.member_of:
        yield place.table, place.uuid
    for name, value in row.columns.items():
        if isinstance(value, UUID):
            yield _SCHEMA[row.table].columns[name].key.refers_to, value


@settings(max_examples=25, deadline=None)
@given(_SEEDS)
def test_every_value_fits_its_column_and_every_row_its_place(seed: int) -> None:
    for row in _rows(_grown(Random(seed)).view()):
        table = _SCHEMA[row.table]
        assert table.is_root == (row.parent is None)
        for name, value in row.columns.items():
            assert not table.columns[name].is_set_of_references
            table.columns[name].normal(value)
        for place in [*row.member_of, *([row.parent] if row.parent else [])]:
            held = _SCHEMA[place.table].columns[place.column]
            assert held.key.refers_to == row.table
            assert held.key.strong == (place is row.parent)


@settings(max_examples=10, deadline=None)
@given(_SEEDS)
def test_names_in_matches_are_of_port_groups_that_there_are(seed: int) -> None:
    rows = _rows(_grown(Random(seed)).view())
    groups = {row.columns["name"] for row in rows if row.table == "Port_Group"}
    named = {
        word.strip("@$").removesuffix("_ip4").removesuffix("_ip6")
        for row in rows
        if row.table == "ACL"
        for word in str(row.columns["match"]).split()
        if word[0] in "@$"
    }
    assert named <= groups


async def test_a_database_takes_a_cloud_that_changes_by_its_affected_units_alone() -> None:
    world, northbound = _grown(Random(4)), FakeOvn().member()
    assert set((await northbound.apply(1, _units(world.view()))).values()) == {Outcome.DONE}
    for _ in range(150):
        before = world.view()
        changes = world.change()
        after = world.view()
        told = _told(changes, before, after)
        outcomes = await northbound.apply(1, [unit_of_key(after, key) for key in sorted(told)])
        assert set(outcomes.values()) <= {Outcome.DONE}, (changes, outcomes)
    assert not await northbound.compare(_units(world.view()))

"""Rows to edits: any states, any changes, by others too."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.support.acceptance import count, seeded
from tests.support.ovn_units import gone, group, port, switch, uuid_of
from unkai_scheduler.ovn.encoding import Piece
from unkai_scheduler.ovn.fake_database import Refused, Tables
from unkai_scheduler.ovn.index import Index
from unkai_scheduler.ovn.plan import Assign, Delete, DropKeys, Insert, Join, Leave, differs, plan
from unkai_scheduler.ovn.rows import Outcome, Place, Ref, Row, Unit
from unkai_scheduler.ovn.schema import BadValue, Column, Kind

MEMBERS = Place("Port_Group", uuid_of("pg_a"), "ports")


def some_units(rng: random.Random) -> list[Unit]:
    """Return a few units that may refer to what is not there."""
    nets, groups = ["net-1", "net-2"], ["pg_a", "pg_b", "pg_c"]
    units = [switch(name, other_config={"k": rng.choice("ab")}) for name in nets]
    units += [group(name, rules=rng.randrange(3)) for name in groups]
    units += [
        port(
            f"p{n}",
            rng.choice(nets),
            tuple(rng.sample(groups, rng.randrange(3))),
            options={key: rng.choice("12") for key in rng.sample("xyz", rng.randrange(3))},
        )
        for n in range(6)
    ]
    return [gone(u) if rng.random() < 0.3 else u for u in units if rng.random() < 0.7]


def damage(rng: random.Random, tables: Tables) -> None:
    """Do something as somebody else."""
    name = rng.choice(["Logical_Switch", "Logical_Switch_Port", "Port_Group", "ACL"])
    if not tables.rows[name]:
        return
    ref = Ref(name, rng.choice(sorted(tables.rows[name])))
    holders = tables.holders(ref)
    edits = rng.choice(
        [
            [Delete(ref)] if tables.schema[name].is_root else [],
            [Leave(place, ref.uuid) for place in holders],
            [Assign(ref, "external_ids", {})],
            [Assign(ref, "external_ids", {"unkai_unit": "port:p1", "unkai_keys": "[}"})],
        ]
    )
    tables.commit(edits)


def apply(tables: Tables, units: Sequence[Unit]) -> dict[str, Outcome]:
    found = plan([Piece.whole(unit) for unit in units], tables)
    tables.commit(found.edits)
    return found.outcomes


def rebuilt(tables: Tables) -> Index:
    index = Index(tables.schema)
    for name, rows in tables.rows.items():
        for uuid, row in rows.items():
            index.note(Ref(name, uuid), None, row)
    return index


def test_whatever_was_there_what_is_done_is_as_it_shall_be_and_planning_again_adds_nothing() -> (
    None
):
    rng = seeded("ovn plan")
    for _ in range(count(1000)):
        tables = Tables()
        for _ in range(4):
            units = some_units(rng)
            outcomes = apply(tables, units)

            done = [unit for unit in units if outcomes[unit.key] is Outcome.DONE]
            assert not [unit.key for unit in done if differs(Piece.whole(unit), tables)]
            assert not plan([Piece.whole(unit) for unit in done], tables).edits
            damage(rng, tables)
            fresh = rebuilt(tables)
            assert fresh.counts() == tables.index.counts()
            for name, rows in tables.rows.items():
                for uuid in rows:
                    ref = Ref(name, uuid)
                    assert set(fresh.holders(ref)) == set(tables.holders(ref))
                    assert fresh.unit_of(ref) == tables.unit_of(ref)


def test_a_row_that_comes_and_goes_in_one_batch_is_neither_deleted_nor_inserted() -> None:
    tables = Tables()
    apply(tables, [Unit("one", switch("net-1").rows)])

    found = plan([Piece.whole(Unit("one")), Piece.whole(Unit("two", switch("net-1").rows))], tables)

    assert not [edit for edit in found.edits if isinstance(edit, Delete | Insert)]
    tables.commit(found.edits)
    assert tables.index.counts() == {"two": 1}


def test_a_unit_that_is_left_out_takes_those_along_that_need_it() -> None:
    tables = Tables()
    lacking = Unit("lacking", (*switch("net-9").rows, *port("p0", "net-8").rows))

    found = plan([Piece.whole(lacking), Piece.whole(port("p1", "net-9"))], tables)

    assert found.outcomes == {"lacking": Outcome.LACKS_PARENT, "port:p1": Outcome.LACKS_PARENT}
    assert not found.edits


def test_every_reference_of_ours_to_what_goes_is_taken_out() -> None:
    tables = Tables()
    dhcp = Unit("subnet:s", (Row("DHCP_Options", uuid_of("d"), {"cidr": "10.0.0.0/24"}),))
    one = port("p1", "net-1", ("pg_a",), dhcpv4_options=uuid_of("d"))
    apply(tables, [switch("net-1"), group("pg_a"), dhcp, one])

    found = plan([Piece.whole(gone(dhcp))], tables)
    assert Assign(Ref("Logical_Switch_Port", uuid_of("p1")), "dhcpv4_options", frozenset()) in (
        found.edits
    )
    assert Leave(MEMBERS, uuid_of("p1")) in plan([Piece.whole(gone(one))], tables).edits


def test_a_row_waits_until_what_was_left_behind_of_it_is_gone() -> None:
    tables = Tables()
    one = port("p1", "net-1", ("pg_a",))
    apply(tables, [switch("net-1"), group("pg_a")])
    members = tables.rows["Port_Group"][uuid_of("pg_a")]
    left = {**members, "ports": frozenset({uuid_of("p1")})}
    tables.index.note(Ref("Port_Group", uuid_of("pg_a")), {"ports": frozenset()}, left)

    found = plan([Piece.whole(one)], tables)

    assert found.outcomes[one.key] is Outcome.LACKS_PARENT
    assert found.edits == [Leave(MEMBERS, uuid_of("p1"))]


def test_only_keys_that_we_wrote_are_dropped() -> None:
    tables = Tables()
    apply(tables, [switch("net-1", other_config={"a": "1", "b": "2"})])
    ref = Ref("Logical_Switch", uuid_of("net-1"))
    tables.commit([Assign(ref, "other_config", {"a": "1", "b": "2", "c": "3"})])

    found = plan([Piece.whole(switch("net-1", other_config={"a": "1"}))], tables)

    assert DropKeys(ref, "other_config", frozenset({"b"})) in found.edits


def test_a_row_joins_and_leaves_groups_without_reading_them() -> None:
    tables = Tables()
    apply(tables, [switch("net-1"), group("pg_a"), group("pg_b"), port("p1", "net-1", ("pg_a",))])

    found = plan([Piece.whole(port("p1", "net-1", ("pg_b",)))], tables)

    joined = Place("Port_Group", uuid_of("pg_b"), "ports")
    assert found.edits == [Join(joined, uuid_of("p1")), Leave(MEMBERS, uuid_of("p1"))]


def test_the_fake_refuses_a_strong_reference_to_nothing() -> None:
    tables = Tables()
    apply(tables, [switch("net-1"), port("p1", "net-1")])
    place = Place("Logical_Switch", uuid_of("net-1"), "ports")

    with pytest.raises(Refused):
        tables.commit([Join(place, uuid_of("nobody"))])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (Column(Kind("string")), 1),
        (Column(Kind("integer")), True),
        (Column(Kind("boolean")), 1),
        (Column(Kind("string")), ()),
        (Column(Kind("string")), frozenset({"a", "b"})),
        (Column(Kind("string")), "ä"),
        (Column(Kind("string")), "a\0"),
        (Column(Kind("integer", least=1)), 0),
        (Column(Kind("integer", most=1)), 2),
        (Column(Kind("string", frozenset({"a"}))), "b"),
        (Column(Kind("string")), {"a": "b"}),
        (Column(Kind("string"), Kind("string"), 0, None), "a"),
        (Column(Kind("string"), Kind("integer"), 0, None), {"a": "1"}),
        (Column(Kind("uuid", refers_to="T")), "not-a-uuid"),
    ],
)
def test_a_value_that_does_not_fit_is_bad(column: Column, value: object) -> None:
    with pytest.raises(BadValue):
        column.normal(value)  # type: ignore[arg-type]

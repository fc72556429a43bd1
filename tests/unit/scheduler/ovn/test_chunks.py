"""Units in an order, cut into transactions."""

from __future__ import annotations

from dataclasses import replace

from tests.support.acceptance import seeded
from tests.support.ovn_units import gone, group, port, switch
from unkai_scheduler.ovn.chunks import MAX_ROWS, chunks, in_order
from unkai_scheduler.ovn.encoding import refs_of
from unkai_scheduler.ovn.rows import Unit


def test_removals_come_first_and_parents_before_what_refers_to_them() -> None:
    units = [port("p1", "net-1", ("pg_a",)), gone(port("p2", "net-1")), group("pg_a", 1)]

    ordered = [unit.key for unit in in_order([*units, switch("net-1")])]

    assert ordered[0] == "port:p2"
    assert ordered.index("port:p1") == 3


def test_any_order_keeps_every_unit_once() -> None:
    rng = seeded("ovn order")
    units = [switch("net-1"), group("pg_a", 3)]
    units += [port(f"p{n}", "net-1", ("pg_a",)) for n in range(50)]
    rng.shuffle(units)

    ordered = in_order(units)

    assert sorted(unit.key for unit in ordered) == sorted(unit.key for unit in units)
    assert {unit.key for unit in ordered[:2]} == {"network:net-1", "security_group:pg_a"}


def test_units_that_refer_to_each_other_are_ordered_somehow() -> None:
    one, two = switch("a"), switch("b")
    (row,) = port("p", "b").rows
    circle = [Unit("one", (*one.rows, row)), Unit("two", (*two.rows, *port("q", "a").rows))]

    assert {unit.key for unit in in_order(circle)} == {"one", "two"}


def test_a_transaction_has_whole_units_and_at_most_so_many_rows() -> None:
    units = [group(f"pg_{n}", rules=60) for n in range(10)]

    cut = list(chunks(units))

    assert [[len(piece.rows) for piece in chunk] for chunk in cut] == [[61, 61, 61]] * 3 + [[61]]
    assert all(sum(len(piece.rows) for piece in chunk) <= MAX_ROWS for chunk in cut)


def test_a_unit_that_is_too_large_comes_in_parts_its_parents_first() -> None:
    large = group("pg_a", rules=450)
    turned = replace(large, rows=tuple(reversed(large.rows)))

    cut = list(chunks([switch("n"), turned, switch("m")]))

    parts = [piece for chunk in cut for piece in chunk if piece.key == large.key]
    assert [len(part.rows) for part in parts] == [200, 200, 51]
    assert parts[0].rows[0].table == "Port_Group"
    assert all(part.all_rows == refs_of(large) for part in parts)
    assert all(len({piece.key for piece in chunk}) == len(chunk) for chunk in cut)


def test_nothing_makes_no_transaction() -> None:
    assert list(chunks([])) == []

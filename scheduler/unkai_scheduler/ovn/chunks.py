"""Units in an order, and cut into what one transaction takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from unkai_scheduler.ovn.encoding import Piece, refs_of
from unkai_scheduler.ovn.rows import Row, Unit

MAX_ROWS = 200
"""Rows of one transaction: OVN's daemons look at each as a whole, and ours waits for its answer."""


def in_order(units: Sequence[Unit]) -> list[Unit]:
    """Return removals first, then each unit after those that it refers to; else as they came."""
    removals = [unit for unit in units if not unit.rows]
    others = [unit for unit in units if unit.rows]
    makers = {row.uuid: unit.key for unit in others for row in unit.rows}
    by_key = {unit.key: unit for unit in others}
    needs = {unit.key: _needs(unit, makers) for unit in others}
    return removals + [by_key[key] for key in _sorted(needs)]


def _needs(unit: Unit, makers: Mapping[UUID, str]) -> list[str]:
    found = dict.fromkeys(
        makers[uuid] for row in unit.rows for uuid in _mentioned(row) if uuid in makers
    )
    return [key for key in found if key != unit.key]


def _sorted(needs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield keys, those that a key needs before it; a circle is cut where it was entered."""
    seen: set[str] = set()
    for first in needs:
        path = [(first, iter(needs[first]))] if first not in seen else []
        seen.add(first)
        while path:
            key, rest = path[-1]
            following = next((need for need in rest if need not in seen), None)
            if following is None:
                path.pop()
                yield key
            else:
                seen.add(following)
                path.append((following, iter(needs[following])))


def _mentioned(row: Row) -> Iterator[UUID]:
    if row.parent:
        yield row.parent.uuid
    for place in row.member_of:
        yield place.uuid
    for value in row.columns.values():
        if isinstance(value, UUID):
            yield value


def chunks(units: Sequence[Unit], most: int = MAX_ROWS) -> Iterator[list[Piece]]:
    """Yield what each transaction takes: whole units, and parts of those that are too large."""
    chunk: list[Piece] = []
    size = 0
    for unit in units:
        for piece in _pieces(unit, most):
            rows = max(1, len(piece.rows))
            # Two parts of one unit are never in one transaction: a plan has one outcome of each.
            if chunk and (size + rows > most or chunk[-1].key == piece.key):
                yield chunk
                chunk, size = [], 0
            chunk.append(piece)
            size += rows
    if chunk:
        yield chunk


def _pieces(unit: Unit, most: int) -> Iterator[Piece]:
    if len(unit.rows) <= most:
        yield Piece.whole(unit)
        return
    rows, names = _parents_first(unit.rows), refs_of(unit)
    for begin in range(0, len(rows), most):
        yield Piece(unit.key, tuple(rows[begin : begin + most]), names)


def _parents_first(rows: Sequence[Row]) -> list[Row]:
    own = {row.uuid: row for row in rows}
    needs = {
        str(row.uuid): [str(uuid) for uuid in _mentioned(row) if uuid in own and uuid != row.uuid]
        for row in rows
    }
    return [own[UUID(key)] for key in _sorted(needs)]

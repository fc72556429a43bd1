"""Units, as JSON between the scheduler and its child process. Pure; both ways.

A piece is what one transaction has of a unit: all of it, or a part of one that is too large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from unkai_scheduler.ovn.rows import Atom, Place, Ref, Row, Unit, Value


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a unit's rows, and the names of all."""

    key: str
    rows: tuple[Row, ...]
    all_rows: frozenset[Ref]
    """What of the unit is not among these shall go."""

    @classmethod
    def whole(cls, unit: Unit) -> Piece:
        """Return all of a unit."""
        return cls(unit.key, unit.rows, refs_of(unit))


def refs_of(unit: Unit) -> frozenset[Ref]:
    """Return the names of a unit's rows."""
    return frozenset(Ref(row.table, row.uuid) for row in unit.rows)


def encode_piece(piece: Piece) -> dict[str, Any]:
    """Return plain JSON values."""
    own = {Ref(row.table, row.uuid) for row in piece.rows}
    others = sorted(piece.all_rows - own)
    return {
        "unit": piece.key,
        "rows": [_encode_row(row) for row in piece.rows],
        "others": [[ref.table, str(ref.uuid)] for ref in others],
    }


def decode_piece(record: Mapping[str, Any]) -> Piece:
    """Return what `encode_piece` was called with."""
    rows = tuple(_decode_row(row) for row in record["rows"])
    others = frozenset(Ref(table, UUID(uuid)) for table, uuid in record["others"])
    own = frozenset(Ref(row.table, row.uuid) for row in rows)
    return Piece(record["unit"], rows, own | others)


def _encode_row(row: Row) -> list[Any]:
    return [
        row.table,
        str(row.uuid),
        {name: _encode(value) for name, value in row.columns.items()},
        _encode_place(row.parent) if row.parent else None,
        [_encode_place(place) for place in sorted(row.member_of)],
    ]


def _decode_row(record: list[Any]) -> Row:
    table, uuid, columns, parent, member_of = record
    return Row(
        table,
        UUID(uuid),
        {name: _decode(value) for name, value in columns.items()},
        _decode_place(parent) if parent else None,
        frozenset(_decode_place(place) for place in member_of),
    )


def _encode_place(place: Place) -> list[str]:
    return [place.table, str(place.uuid), place.column]


def _decode_place(record: list[str]) -> Place:
    return Place(record[0], UUID(record[1]), record[2])


def _encode(value: Value) -> Any:
    if isinstance(value, Mapping):
        return {"map": dict(value)}
    if isinstance(value, frozenset | tuple):
        return {"set": [_encode_atom(atom) for atom in value]}
    return _encode_atom(value)


def _decode(record: Any) -> Value:
    if not isinstance(record, dict) or "uuid" in record:
        return _decode_atom(record)
    if "map" in record:
        mapping: dict[str, str | int] = record["map"]
        return mapping
    return frozenset(_decode_atom(atom) for atom in record["set"])


def _encode_atom(atom: Atom) -> Any:
    return {"uuid": str(atom)} if isinstance(atom, UUID) else atom


def _decode_atom(record: Any) -> Atom:
    if isinstance(record, dict):
        return UUID(record["uuid"])
    atom: Atom = record
    return atom

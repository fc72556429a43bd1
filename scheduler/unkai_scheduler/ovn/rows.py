"""Rows of OVN's northbound database as they shall be. Pure.

A unit is all rows derived from one resource. Each row bears its unit's key in its `external_ids`,
and a UUID that we chose, so that making it twice makes it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from uuid import UUID, uuid5

UNIT = "unkai_unit"
"""Key in `external_ids` whose value is the unit's."""

Atom = str | int | bool | UUID
"""A UUID refers to a row."""
Value = Atom | frozenset[Atom] | tuple[()] | Mapping[str, str]
"""What a column has: one value, a set of them, or a map."""


class Place(NamedTuple):
    """A column of a row that holds references to other rows."""

    table: str
    uuid: UUID
    column: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row."""

    table: str
    uuid: UUID
    columns: Mapping[str, Value]
    """All that is ours to say, `external_ids` without the unit's key; others are left alone."""
    parent: Place | None = None
    """Whose strong reference holds it; None for tables that need none."""
    member_of: frozenset[Place] = frozenset()
    """Weak sets it shall be in; it is taken out of the same table's and column's other ones."""


@dataclass(frozen=True, slots=True)
class Unit:
    """All rows of one resource; none: they shall be gone."""

    key: str
    rows: tuple[Row, ...] = ()


class Outcome(Enum):
    """What became of a unit."""

    DONE = "DONE"
    LACKS_PARENT = "LACKS_PARENT"
    """A row it refers to is not there yet."""
    REFUSED = "REFUSED"
    """The database refused it, and would again."""


def unit_key(kind: str, ident: str) -> str:
    """Return a resource's key, as `port:prt-…`."""
    return f"{kind}:{ident}"


def child_uuid(resource: UUID, name: str) -> UUID:
    """Return the UUID of a further row of a resource."""
    return uuid5(resource, name)

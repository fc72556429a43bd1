"""Rows of OVN's northbound database as they shall be. Pure.

A unit is all rows derived from one resource. Each row bears its unit's key in its `external_ids`,
and a UUID that we chose, so that making it twice makes it once.

Maps that OVN keeps open for everybody (`external_ids`, `options`, `other_config`) are ours key by
key: others' keys stay. All other columns are ours whole. A column that holds a *set of references*
is never in `columns`: its members say where they belong, by `parent` and `member_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from uuid import UUID, uuid5

UNIT = "unkai_unit"
"""Key in `external_ids` whose value is the unit's."""
KEYS = "unkai_keys"
"""Key in `external_ids` whose value says which keys of open maps we wrote, so that one that is no
longer wanted is told from others' keys."""

Atom = str | int | bool | UUID
"""A UUID refers to a row."""
Value = Atom | frozenset[Atom] | tuple[()] | Mapping[str, str | int]
"""What a column has: one value, a set of them, or a map. An int in a map is for the columns whose
values are numbers, such as a rate."""


class Ref(NamedTuple):
    """A row."""

    table: str
    uuid: UUID


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
    IN_USE = "IN_USE"
    """Rows that are not its own hang on one that shall go, and would go with it: nothing was
    removed."""
    REFUSED = "REFUSED"
    """It breaks a rule of the database, and would again."""
    UNKNOWN = "UNKNOWN"
    """No answer in time: it was applied, or not. The next apply sees which."""


def unit_key(kind: str, ident: str) -> str:
    """Return a resource's key, as `port:prt-…`."""
    return f"{kind}:{ident}"


def child_uuid(resource: UUID, name: str) -> UUID:
    """Return the UUID of a further row of a resource."""
    return uuid5(resource, name)

"""What OVSDB says of tables and columns, and whether a value fits. Pure (RFC 7047, section 3.2).

The child process makes it from the server's own schema, the fake from a description of its own.
A value is *normal* when two equal ones compare equal: a frozenset of atoms, or a dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from unkai_scheduler.ovn.rows import Atom, Value

Normal = frozenset[Atom] | dict[str, str | int]

OPEN_MAPS = frozenset({"external_ids", "options", "other_config"})
"""Maps in which others may have keys too."""


class BadValue(Exception):
    """A value that the column cannot have."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an atom may be."""

    name: str
    """`string`, `integer`, `real`, `boolean` or `uuid`."""
    allowed: frozenset[Atom] | None = None
    least: float | None = None
    most: float | None = None
    refers_to: str = ""
    """Table whose rows a UUID names."""
    strong: bool = False
    """Such a reference keeps its row alive."""

    def check(self, atom: object) -> None:
        """Raise `BadValue` unless the atom fits."""
        python = {"string": str, "integer": int, "real": int, "boolean": bool, "uuid": UUID}
        wanted = python[self.name]
        if not isinstance(atom, wanted) or (wanted is int and isinstance(atom, bool)):
            raise BadValue(f"{atom!r} is not of type {self.name}")
        if isinstance(atom, str) and not (atom.isascii() and "\0" not in atom):
            raise BadValue(f"{atom!r} is not plain ASCII")
        if self.allowed is not None and atom not in self.allowed:
            raise BadValue(f"{atom!r} is none of {', '.join(sorted(map(str, self.allowed)))}")
        if isinstance(atom, int):
            if self.least is not None and atom < self.least:
                raise BadValue(f"{atom} is below {self.least:g}")
            if self.most is not None and atom > self.most:
                raise BadValue(f"{atom} is above {self.most:g}")


@dataclass(frozen=True, slots=True)
class Column:
    """A column."""

    key: Kind
    value: Kind | None = None
    """Of a map."""
    least: int = 1
    most: int | None = 1
    """How many; None: any number."""

    @property
    def is_set_of_references(self) -> bool:
        """Tell whether rows belong to rows by this column."""
        return bool(self.key.refers_to) and self.most != 1

    def normal(self, value: Value) -> Normal:
        """Return the value in its normal form; raise `BadValue` when it does not fit."""
        if self.value is not None:
            return self._map(value)
        if isinstance(value, Mapping):
            raise BadValue("a map, where the column has none")
        atoms = frozenset(value) if isinstance(value, frozenset | tuple) else frozenset([value])
        for atom in atoms:
            self.key.check(atom)
        self._count(len(atoms))
        return atoms

    def _map(self, value: Value) -> Normal:
        if not isinstance(value, Mapping):
            raise BadValue("not a map")
        assert self.value is not None
        for key, item in value.items():
            self.key.check(key)
            self.value.check(item)
        self._count(len(value))
        return dict(value)

    def _count(self, number: int) -> None:
        if number < self.least or (self.most is not None and number > self.most):
            raise BadValue(f"{number} values, where {self.least} to {self.most or 'any'} may be")


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    is_root: bool
    """Rows of others go once no strong reference holds them."""
    columns: Mapping[str, Column]


Schema = Mapping[str, Table]

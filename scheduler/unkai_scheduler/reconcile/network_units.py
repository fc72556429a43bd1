"""Units of OVN as the store says they shall be, derived in one read of it.

A unit without rows is one to remove. So what the store has no resource and no tombstone of is not
derived at all: it may be of a time after the backup that this database was restored from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unkai_scheduler.ovn.northbound.units import BASE, unit_of_key
from unkai_scheduler.ovn.rows import Unit
from unkai_scheduler.reconcile.network_views import view_of
from unkai_scheduler.store import ovn_units, ovn_work

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class Derived:
    """Units, and the keys of those that the store does not know."""

    units: tuple[Unit, ...] = ()
    unheard: frozenset[str] = frozenset()


def derive(conn: Connection, keys: Sequence[str], dns_servers: tuple[str, ...] = ()) -> Derived:
    """Derive the units of these keys."""
    there = ovn_units.called(conn, keys).keys() | {BASE}
    gone = ovn_work.tombs(conn, [key for key in keys if key not in there])
    known = [key for key in keys if key in there or key in gone]
    view = view_of(conn, known, dns_servers)
    return Derived(
        tuple(unit_of_key(view, key) for key in known), frozenset(keys) - frozenset(known)
    )

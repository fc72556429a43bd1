"""Ids of a fleet's simulated hosts, and who may answer in whose name.

All ids of one fleet lie side by side and follow from its name alone, so that etcd can grant a
fleet its range of keys, and a scheduler can tell a fleet's host from any other.
"""

from __future__ import annotations

import uuid

from unkai_wire.ids import PREFIXES, encode, uuid7
from unkai_wire.tls import fleet_of_tls_name, fleet_tls_name, host_tls_name

FLEET_SIZE = 1 << 16
"""Most hosts of one fleet: the last 16 bits of their ids."""
_DAY_MS = 1_767_225_600_000
"""An id holds a UUIDv7, which begins with a time: 2026-01-01 stands there."""


def fleet_host_id(fleet: str, number: int) -> str:
    """Return the id of a fleet's host: `number` is 0 to `FLEET_SIZE` - 1, and so is their order."""
    if not 0 <= number < FLEET_SIZE:
        raise ValueError(f"a fleet has no host {number}")
    shared = uuid.uuid5(uuid.NAMESPACE_DNS, fleet_tls_name(fleet)).int >> 70
    return encode(PREFIXES["host"], uuid7(now_ms=_DAY_MS, random_bits=shared << 16 | number))


def speaks_for(tls_name: str, host_id: str) -> bool:
    """Tell whether a server of this name may answer for the host: itself, or its own fleet."""
    if tls_name == host_tls_name(host_id):
        return True
    fleet = fleet_of_tls_name(tls_name)
    return bool(fleet) and (
        fleet_host_id(fleet, 0) <= host_id <= fleet_host_id(fleet, FLEET_SIZE - 1)
    )

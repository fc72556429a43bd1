"""MAC addresses of new ports: one that no port of its network has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unkai_scheduler.domain.addresses import make_mac
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import ports
from unkai_wire.ids import uuid_of

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection


def free_mac(conn: Connection, context: ServiceContext, network_id: str, ident: str) -> str:
    """Return a MAC address for a new port, made of random bits of its id, or of another one.

    Another transaction may take the same one: it is refused then, once in 2^40 ports.
    """
    while True:
        chance = uuid_of(ident).int  # the low bits of a UUIDv7 are random
        mac = make_mac(lambda bits, chance=chance: chance & (1 << bits) - 1)  # type: ignore[misc]
        if ports.by_mac(conn, network_id, mac) is None:
            return mac
        ident = context.new_id("port")

"""Addresses in use: who has which, taken and given back.

To take one is to insert a row under the lock of its subnet's row, so that one transaction at a time
looks for a free address there, on any scheduler; were the lock ever lost, the primary key would
still refuse the second. The search begins at the subnet's hint, which moves past what was taken: an
address that was just given back comes last. It asks the database for counts of runs of the index
(`domain.addresses.lowest_free`) and never reads the rows: nearly always one count of one address;
in a subnet of 65,534 that is all but full, some twenty counts, of at most twice as many rows.

Lock several subnets at once before taking from them, or two callers may wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy import insert as sql_insert
from sqlalchemy import update as sql_update

from unkai_scheduler.domain.addresses import (
    address_of,
    key_of,
    lowest_free,
    spans_from,
    version_of,
)
from unkai_scheduler.domain.networks import Range
from unkai_scheduler.domain.ports import FixedAddress
from unkai_scheduler.store import rows
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.tables_networks import addresses, subnets
from unkai_wire.errors import AlreadyExists, NotFound

_WIDTHS = {4: 8, 6: 32}
"""Characters of a key, by version."""
_QUERY = select(addresses.c.port_id, addresses.c.subnet_id, addresses.c.address).order_by(
    addresses.c.port_id, addresses.c.position, addresses.c.address
)


def take(
    conn: Connection, subnet_id: str, port_id: str, *, position: int = 0
) -> FixedAddress | None:
    """Give a port the lowest free address beyond the subnet's hint; None when all are in use.

    `position`: its place among the port's addresses. Raises `NotFound` without the subnet.
    """
    subnet = _locked(conn, subnet_id)
    width = _WIDTHS[version_of(subnet.cidr)]

    def count_used(first: int, last: int) -> int:
        of_network = addresses.c.network_id == subnet.network_id
        run = addresses.c.address.between(_key(first, width), _key(last, width))
        return rows.count_where(conn, addresses, of_network, run)

    hint = int(subnet.next_hint or "0", 16)
    for first, last in spans_from([Range(**some) for some in subnet.ranges], hint):
        found = lowest_free(first, last, count_used)
        if found is not None:
            key = _key(found, width)
            _insert(conn, subnet, port_id, key, position)
            _move_hint(conn, subnet_id, key)
            return FixedAddress(subnet_id, address_of(key))
    return None


def take_this(
    conn: Connection, subnet_id: str, port_id: str, address: str, *, position: int = 0
) -> FixedAddress:
    """Give a port this address of the subnet, in its ranges or not.

    Raises `AlreadyExists` / ADDRESS_IN_USE when some port has it.
    """
    subnet = _locked(conn, subnet_id)
    _insert(conn, subnet, port_id, key_of(address), position)
    return FixedAddress(subnet_id, address)


def give_back(conn: Connection, port_id: str, given: Iterable[str]) -> None:
    """Take these addresses from a port. A port that is deleted gives all back by itself."""
    keys = [key_of(address) for address in given]
    of_port = addresses.c.port_id == port_id
    for some in rows.portions(keys):
        conn.execute(delete(addresses).where(of_port, addresses.c.address.in_(some)))


def put_in_order(conn: Connection, port_id: str, ordered: Sequence[str]) -> None:
    """Let a port's addresses have this order."""
    of_port = (addresses.c.port_id == port_id, addresses.c.address == bindparam("of_key"))
    statement = sql_update(addresses).where(*of_port).values(position=bindparam("place"))
    places = [{"of_key": key_of(one), "place": place} for place, one in enumerate(ordered)]
    if places:
        conn.execute(statement, places)


def of_ports(conn: Connection, port_ids: Iterable[str]) -> dict[str, tuple[FixedAddress, ...]]:
    """Return the addresses of each port that has some, in their order."""
    found = rows.parts_of(conn, _QUERY, addresses.c.port_id, port_ids)
    return {
        port_id: tuple(FixedAddress(row.subnet_id, address_of(row.address)) for row in some)
        for port_id, some in found.items()
    }


def holder(conn: Connection, network_id: str, address: str) -> str | None:
    """Return the id of the port that has an address on a network."""
    query = select(addresses.c.port_id).where(
        addresses.c.network_id == network_id, addresses.c.address == key_of(address)
    )
    return conn.execute(query).scalar_one_or_none()


def holders(conn: Connection, address: str) -> list[str]:
    """Return the ids of the ports that have an address, on whatever network. Reads every row."""
    query = select(addresses.c.port_id).where(addresses.c.address == key_of(address))
    return list(conn.execute(query.order_by(addresses.c.port_id)).scalars())


def count_by_subnet(conn: Connection, subnet_id: str) -> int:
    """Return how many addresses of a subnet are in use."""
    return rows.count_where(conn, addresses, addresses.c.subnet_id == subnet_id)


def _key(number: int, width: int) -> str:
    return f"{number:0{width}x}"


def _locked(conn: Connection, subnet_id: str) -> rows.AnyRow:
    """Lock a subnet's row until the transaction ends, and return what is needed of it."""
    columns = (subnets.c.id, subnets.c.network_id, subnets.c.cidr)
    query = select(*columns, subnets.c.ranges, subnets.c.next_hint)
    row = conn.execute(query.where(subnets.c.id == subnet_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound.of("subnet", subnet_id)
    return row


def _insert(
    conn: Connection,
    subnet: rows.AnyRow,
    port_id: str,
    key: str,
    position: int,
) -> None:
    values = {
        "network_id": subnet.network_id,
        "address": key,
        "subnet_id": subnet.id,
        "port_id": port_id,
        "position": position,
    }
    try:
        conn.execute(sql_insert(addresses), values)
    except DatabaseFailure as failure:
        if failure.kind is not Failure.UNIQUE:
            raise
        address = address_of(key)
        raise AlreadyExists(
            f"address {address} is in use on network {subnet.network_id}",
            reason="ADDRESS_IN_USE",
            fix="name another address, or none: one that is free is taken then",
            metadata={"address": address, "network_id": subnet.network_id},
            resource_kind="address",
            resource=address,
        ) from failure


def _move_hint(conn: Connection, subnet_id: str, key: str) -> None:
    """Let the next search begin after this address."""
    hint = _key(int(key, 16) + 1, len(key))
    conn.execute(sql_update(subnets).where(subnets.c.id == subnet_id).values(next_hint=hint))

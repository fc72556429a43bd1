"""Addresses are given out once: the lowest that is free beyond the hint, then from the start."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.support.acceptance import seeded
from tests.support.networks import a_network, a_port, a_subnet, add_network, add_port, use_all
from tests.support.store import a_store
from unkai_scheduler.domain.addresses import count_of
from unkai_scheduler.domain.networks import Network, Range, Subnet
from unkai_scheduler.domain.ports import FixedAddress, Port
from unkai_scheduler.store import addresses, networks, ports, subnets
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import AlreadyExists, NotFound


def put(conn: Connection, cidr: str, **changes: Any) -> tuple[Network, Subnet, Port]:
    """Insert a network with a subnet, and a port without addresses."""
    network = a_network()
    subnet = a_subnet(network, cidr, **changes)
    networks.insert(conn, network)
    subnets.insert(conn, subnet)
    return network, subnet, add_port(conn, network)


def take_all(conn: Connection, subnet: Subnet, port: Port, most: int = 99) -> list[str]:
    """Take addresses until there is none, or so many; return them in the order they came."""
    taken: list[str] = []
    while len(taken) < most and (found := addresses.take(conn, subnet.id, port.id)):
        taken.append(found.address)
    return taken


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("10.0.0.0/29", [f"10.0.0.{n}" for n in range(2, 7)]),
        ("fd00::/125", [f"fd00::{n}" for n in range(2, 8)]),
        (
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126",
            ["fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"],
        ),
    ],
)
async def test_a_subnet_gives_all_its_addresses_in_order_and_then_none(
    uow: UnitOfWork, cidr: str, expected: list[str]
) -> None:
    def work(conn: Connection) -> list[str]:
        _, subnet, port = put(conn, cidr)
        return take_all(conn, subnet, port)

    found = await uow.write(work)

    assert found[: len(expected)] == expected
    assert len(found) == count_of(a_subnet(a_network(), cidr).ranges)


async def test_an_address_given_back_comes_last(uow: UnitOfWork) -> None:
    def work(conn: Connection) -> list[str]:
        _, subnet, port = put(conn, "10.0.0.0/29")
        first = take_all(conn, subnet, port, most=3)
        addresses.give_back(conn, port.id, first[:2])
        return take_all(conn, subnet, port)

    assert await uow.write(work) == ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"]


async def test_only_ranges_are_given_out_and_from_wherever_the_hint_is(uow: UnitOfWork) -> None:
    low, high = Range("10.0.0.10", "10.0.0.11"), Range("10.0.0.200", "10.0.0.201")

    def work(conn: Connection) -> tuple[list[str], list[str]]:
        _, subnet, port = put(conn, "10.0.0.0/24", ranges=(low, high))
        first = take_all(conn, subnet, port, most=3)
        moved = replace(subnet, ranges=(Range("10.0.0.99", "10.0.0.99"), low))
        subnets.replace(conn, moved, etag=None)
        return first, take_all(conn, subnet, port)

    first, then = await uow.write(work)

    assert first == ["10.0.0.10", "10.0.0.11", "10.0.0.200"]
    assert then == ["10.0.0.99"]


async def test_a_certain_address_is_taken_also_outside_the_ranges_but_once(
    uow: UnitOfWork,
) -> None:
    def work(conn: Connection) -> tuple[Network, Subnet, Port]:
        network, subnet, port = put(conn, "10.0.0.0/24")
        taken = addresses.take_this(conn, subnet.id, port.id, "10.0.0.1")
        assert taken == FixedAddress(subnet.id, "10.0.0.1")
        addresses.take_this(conn, subnet.id, port.id, "10.0.0.2")
        return network, subnet, port

    network, subnet, port = await uow.write(work)
    with pytest.raises(AlreadyExists) as refused:
        await uow.write(lambda conn: addresses.take_this(conn, subnet.id, port.id, "10.0.0.1"))
    following = await uow.write(lambda conn: addresses.take(conn, subnet.id, port.id))

    assert refused.value.reason == "ADDRESS_IN_USE"
    assert refused.value.metadata == {"address": "10.0.0.1", "network_id": network.id}
    assert following == FixedAddress(subnet.id, "10.0.0.3")
    holders = await uow.read(
        lambda conn: [addresses.holder(conn, network.id, a) for a in ("10.0.0.1", "10.0.0.9")]
    )
    assert holders == [port.id, None]


async def test_no_subnet_gives_no_address(uow: UnitOfWork) -> None:
    with pytest.raises(NotFound):
        await uow.write(lambda conn: addresses.take(conn, "sub-x", "prt-x"))


async def test_a_port_has_its_addresses_in_the_order_asked_for_until_it_goes(
    uow: UnitOfWork,
) -> None:
    def fill(conn: Connection) -> tuple[Port, Subnet]:
        network, subnet, port = put(conn, "fd00::/64")
        second = a_subnet(network)
        subnets.insert(conn, second)
        both = [
            addresses.take(conn, some.id, port.id, position=place)
            for place, some in enumerate((subnet, second))
        ]
        return replace(port, addresses=tuple(a for a in both if a)), second

    port, second = await uow.write(fill)
    turned = port.addresses[::-1]

    assert await uow.read(lambda conn: ports.get(conn, port.id)) == port
    order = [one.address for one in turned]
    await uow.write(lambda conn: addresses.put_in_order(conn, port.id, order))
    assert await uow.read(lambda conn: addresses.of_ports(conn, [port.id, "x"])) == {
        port.id: turned
    }
    await uow.write(lambda conn: ports.delete(conn, port.id))
    assert await uow.read(lambda conn: addresses.count_by_subnet(conn, second.id)) == 0


async def test_equal_addresses_of_two_networks_do_not_meet(uow: UnitOfWork) -> None:
    def work(conn: Connection) -> list[Port]:
        made = []
        for _ in range(2):
            network, subnet_id = add_network(conn)
            made.append(add_port(conn, network, subnet_id))
        return made

    one, other = await uow.write(work)

    assert one.addresses[0].address == other.addresses[0].address == "10.0.0.2"


async def test_any_history_gives_what_a_search_one_by_one_would(uow: UnitOfWork) -> None:
    chance = seeded("addresses")
    whole = [f"10.0.0.{n}" for n in range(2, 31)]

    def work(conn: Connection) -> None:
        _, subnet, port = put(conn, "10.0.0.0/27")
        used: set[str] = set()
        hint = 0
        for _ in range(150):
            if used and chance.random() < 0.3:
                gone = chance.choice(sorted(used))
                addresses.give_back(conn, port.id, [gone])
                used.discard(gone)
                continue
            free = [place for place, address in enumerate(whole) if address not in used]
            expected = next((p for p in free if p >= hint), free[0] if free else None)
            found = addresses.take(conn, subnet.id, port.id)
            assert found == (None if expected is None else FixedAddress(subnet.id, whole[expected]))
            if expected is not None:
                used.add(whole[expected])
                hint = expected + 1

    await uow.write(work)


async def test_a_full_subnet_of_thousands_gives_the_one_that_came_free(uow: UnitOfWork) -> None:
    def work(conn: Connection) -> list[str]:
        network, subnet, port = put(conn, "10.0.0.0/20")
        use_all(conn, network, subnet, port)
        assert addresses.take(conn, subnet.id, port.id) is None
        addresses.give_back(conn, port.id, ["10.0.9.64"])
        return take_all(conn, subnet, port)

    assert await uow.write(work) == ["10.0.9.64"]


async def test_of_two_schedulers_that_want_the_last_address_one_gets_it(tmp_path: Path) -> None:
    async with a_store(tmp_path) as one, a_store(tmp_path) as other:

        def fill(conn: Connection) -> tuple[Network, Subnet]:
            network, subnet, port = put(conn, "10.0.0.0/28")
            take_all(conn, subnet, port, most=12)
            return network, subnet

        network, subnet = await one.write(fill)

        def want(conn: Connection) -> FixedAddress | None:
            port = a_port(network)
            ports.insert(conn, port)
            return addresses.take(conn, subnet.id, port.id)

        found = await asyncio.gather(*(uow.write(want) for uow in (one, other) * 5))

    given = sorted(address.address for address in found if address is not None)
    assert given == ["10.0.0.14"]


async def test_many_takers_of_two_schedulers_share_a_subnet_without_a_double(
    tmp_path: Path,
) -> None:
    async with a_store(tmp_path) as one, a_store(tmp_path) as other:
        network, subnet, _ = await one.write(lambda conn: put(conn, "10.0.0.0/26"))

        def want(conn: Connection) -> str:
            port = a_port(network)
            ports.insert(conn, port)
            found = addresses.take(conn, subnet.id, port.id)
            return found.address if found else ""

        found = await asyncio.gather(*(uow.write_grouped(want) for uow in (one, other) * 35))

    given = [address for address in found if address]
    assert len(given) == len(set(given)) == 61
    assert len(found) - len(given) == 9

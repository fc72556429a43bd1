"""A free address is found in a large subnet without reading who has the others."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event

from tests.support.networks import a_network, a_subnet, add_port, use_all
from unkai_scheduler.store import addresses, networks, subnets
from unkai_scheduler.store.unit_of_work import UnitOfWork


@pytest.mark.parametrize(("freed", "most_statements"), [(None, 10), ("10.0.156.64", 30)])
async def test_a_full_subnet_of_65534_is_searched_by_few_statements(
    uow: UnitOfWork, freed: str | None, most_statements: int
) -> None:
    def work(conn: Connection) -> tuple[str | None, int]:
        network = a_network()
        subnet = a_subnet(network, "10.0.0.0/16", gateway_address="")
        networks.insert(conn, network)
        subnets.insert(conn, subnet)
        port = add_port(conn, network)
        use_all(conn, network, subnet, port)
        addresses.give_back(conn, port.id, [freed] if freed else [])
        seen: list[str] = []

        def note(_conn: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            seen.append(statement)

        event.listen(conn, "before_cursor_execute", note)
        found = addresses.take(conn, subnet.id, port.id)
        event.remove(conn, "before_cursor_execute", note)
        return found and found.address, len(seen)

    found, statements = await uow.write(work)

    assert found == freed
    assert statements <= most_statements

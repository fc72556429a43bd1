"""What is asked again and again, or while everybody waits for the writer, reads no whole table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.builders import NOON
from tests.support.store import a_store, store_url
from unkai_scheduler.domain.events import Revision
from unkai_scheduler.store import (
    addresses,
    claims,
    events,
    floating_ips,
    instances,
    key_pairs,
    load_balancers,
    networks,
    operations,
    ovn_work,
    placement_groups,
    ports,
    requests,
    routers,
    security_groups,
    sqlite,
    subnets,
    tombstones,
)

LOOK_UPS: dict[str, Callable[[Connection], object]] = {
    "due instances": lambda c: instances.due(c, NOON, 64),
    "who names a placement group": lambda c: placement_groups.naming(c, ["pgr-1"]),
    "members on a host": lambda c: placement_groups.claimed_on(c, ["hst-1"]),
    "who waits of a gang": lambda c: instances.waiting_of_gang(c, "ins-1"),
    "an instance by name": lambda c: instances.find(c, "prj-1", "web"),
    "a project's instances": lambda c: instances.list_page(
        c, after=("web", "ins-1"), limit=100, project_id="prj-1"
    ),
    "who uses an image": lambda c: instances.count_by_image(c, "img-1"),
    "who uses a flavor": lambda c: instances.count_by_flavor(c, "flv-1"),
    "who names a key pair": lambda c: instances.count_by_key_pair(c, "key-1"),
    "what a project owns": lambda c: (
        instances.count_by_project(c, "prj-1"),
        key_pairs.count_by_project(c, "prj-1"),
    ),
    "the claim of an instance": lambda c: claims.get(c, "ins-1"),
    "an instance's tombstones": lambda c: tombstones.of_instance(c, "ins-1"),
    "the operation under way": lambda c: operations.active_for(c, "ins-1"),
    "all operations under way": lambda c: operations.list_page(
        c, after=None, limit=100, active_only=True
    ),
    "expired operations": lambda c: operations.expired(c, NOON, 256),
    "events to stamp": events.any_unstamped,
    "stamping": lambda c: events.stamp(c, 100),
    "events to watch": lambda c: events.after(c, Revision(1, 0), limit=500),
    "an instance's events": lambda c: events.list_page(
        c, resource_id="ins-1", after=None, limit=100
    ),
    "a repeated request": lambda c: requests.recall(c, "r1", "local:root", "m", "d"),
    "old operations": lambda c: operations.prune(c, NOON, 500),
    "old requests": lambda c: requests.expire(c, NOON, 500),
    "old tombstones": lambda c: tombstones.prune(c, NOON, 500),
    "a network by its name": lambda c: networks.find(c, "prj-1", "web"),
    "a project's default network": lambda c: networks.default_of(c, "prj-1"),
    "a network of the operator's": lambda c: networks.on_provider(c, "dc", 7),
    "some networks": lambda c: networks.list_some(c, ["net-1", "net-2"]),
    "a network's subnets": lambda c: subnets.of_network(c, "net-1"),
    "a project's subnets": lambda c: subnets.list_page(
        c, after=("web", "sub-1"), limit=100, project_id="prj-1"
    ),
    "a port": lambda c: ports.get(c, "prt-1"),
    "an instance's ports": lambda c: ports.of_owner(c, "ins-1"),
    "a group's ports": lambda c: ports.list_page(
        c, after=None, limit=100, security_group_id="sgp-1"
    ),
    "a network's ports": lambda c: (
        ports.ids_on_network(c, "net-1"),
        ports.count_by_owner(c, "net-1"),
    ),
    "a MAC address": lambda c: ports.by_mac(c, "net-1", "02:00:00:00:00:01"),
    "an address": lambda c: addresses.holder(c, "net-1", "10.0.0.2"),
    "a subnet's addresses": lambda c: addresses.count_by_subnet(c, "sub-1"),
    "who names a group": lambda c: security_groups.naming(c, "sgp-1"),
    "a project's groups": lambda c: security_groups.list_page(
        c, after=("web", "sgp-1"), limit=100, project_id="prj-1"
    ),
    "a subnet's routers": lambda c: routers.ids_on_subnet(c, "sub-1"),
    "a way out": lambda c: routers.leading_out(c, "sub-1", "net-1"),
    "a router's floating addresses": lambda c: floating_ips.by_router(c, "rtr-1", "sub-1"),
    "a port's floating addresses": lambda c: floating_ips.of_ports(c, ["prt-1"]),
    "an instance's floating addresses": lambda c: floating_ips.list_page(
        c, after=None, limit=100, instance_id="ins-1"
    ),
    "who balances a port": lambda c: load_balancers.naming(c, ["prt-1"]),
    "a subnet's load balancers": lambda c: load_balancers.ids_on_subnet(c, "sub-1"),
    "due work on OVN": lambda c: ovn_work.due(c, NOON, 200),
    "done work on OVN": lambda c: ovn_work.settle(c, [("port:prt-1", 1)]),
    "tombs": lambda c: ovn_work.tombs(c, ["port:prt-1"]),
    "old tombs": lambda c: ovn_work.prune(c, NOON, 500),
}


@contextmanager
def plans_of(engine: Engine) -> Iterator[Collection[str]]:
    """Collect what SQLite says of how it answers each statement run in the block."""
    steps: list[str] = []

    def explain(_conn: Any, cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            explained = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps.extend(row[3] for row in explained)

    event.listen(engine, "before_cursor_execute", explain)
    yield steps
    event.remove(engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("what", LOOK_UPS)
async def test_it_is_found_by_an_index(tmp_path: Path, what: str) -> None:
    async with a_store(tmp_path):
        pass
    engine = sqlite.writer_engine(store_url(tmp_path))
    with engine.connect() as conn, conn.begin(), plans_of(engine) as steps:
        LOOK_UPS[what](conn)
    engine.dispose()

    assert steps
    assert [step for step in steps if step.startswith("SCAN")] == []

"""What-ifs over gRPC: at the leader, through any other scheduler, and never changing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.api.test_peers_and_hosts import two_schedulers
from tests.support.api import Api, an_api, refused
from tests.support.builders import a_claim, a_host, an_id, an_image, an_instance
from unkai.compute.v1 import flavor_service_pb2, instance_pb2
from unkai.host.v1 import placement_service_pb2, simulation_pb2
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services import simulations
from unkai_scheduler.store import claims, hosts, images, instances
from unkai_scheduler.store.metadata import metadata
from unkai_wire.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable

pb = placement_service_pb2
Step = simulation_pb2.SimulationStep
GIB = 1 << 30
PLAIN = NetworkSettings()
"""No networks."""


def placing(count: int, **asked: Any) -> Step:
    values = {"vcpus": 1, "memory_bytes": GIB, "disk_bytes": GIB, **asked}
    wanted = instance_pb2.Instance(**values)
    return Step(place_instances=Step.PlaceInstances(count=count, instance=wanted))


def losing(*host_ids: str) -> Step:
    return Step(lose_hosts=Step.LoseHosts(host_ids=host_ids))


def adding(count: int, **said: Any) -> Step:
    return Step(add_hosts=Step.AddHosts(count=count, **said))


async def simulate(api: Api, *steps: Step, **more: Any) -> simulation_pb2.Simulation:
    answer = await api.placement.Simulate(pb.SimulateRequest(steps=steps, **more))
    return answer.simulation


async def some_hosts(api: Api, *, held: int = 0, **changes: Any) -> list[Host]:
    """Make three hosts of 16 GiB; each holds so many instances of 2 GiB."""
    made = [a_host(name=f"h{n}", memory_bytes=16 * GIB, **changes) for n in (1, 2, 3)]
    image = an_image()

    def work(conn: Any) -> None:
        images.insert(conn, image)
        for host in made:
            hosts.insert(conn, host)
            for n in range(held):
                row = an_instance(name=f"{host.name}-{n}", image_id=image.id, memory_bytes=2 * GIB)
                instances.insert(conn, row)
                claims.insert(conn, [a_claim(row, host)])

    await api.lead(work)
    return made


async def test_how_many_fit_is_told_with_why_the_others_do_not(tmp_path: Path) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        await some_hosts(api)
        found = await simulate(api, placing(50, memory_bytes=GIB, vcpus=1))
        before = await simulate(api, placing(1))

    (outcome,) = found.outcomes
    assert (outcome.asked_count, outcome.placed_count, outcome.host_count) == (50, 48, 3)
    assert outcome.refusals[0].count == 2
    assert "lack memory" in outcome.refusals[0].decision.summary
    assert [change.placed_count for change in found.changes] == [16, 16, 16]
    assert (found.change_count, found.after.claimed.memory_bytes) == (3, 48 * GIB)
    assert before.before == found.before
    assert before.outcomes[0].more_count == 47


async def test_a_lost_host_s_instances_are_those_of_the_store(tmp_path: Path) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        first, second, third = await some_hosts(api, held=5)
        one = await simulate(api, losing(first.id))
        two = await simulate(api, losing(first.id, second.id))
        saved = await simulate(api, adding(1, like_host_id=third.id), losing(first.id, second.id))
        pages = [await api.placement.SimulateLosses(pb.SimulateLossesRequest(page_size=2))]
        token = pages[0].next_page_token
        request = pb.SimulateLossesRequest(page_size=2, page_token=token)
        pages.append(await api.placement.SimulateLosses(request))
        only = await api.placement.SimulateLosses(pb.SimulateLossesRequest(host_id=second.id))

    assert [(o.asked_count, o.placed_count) for o in one.outcomes] == [(5, 5)]
    assert [(o.asked_count, o.placed_count) for o in two.outcomes] == [(10, 3)]
    assert len(two.outcomes[0].refusals[0].instance_ids) == 7
    assert [o.placed_count for o in saved.outcomes] == [0, 10]
    assert [(c.host_name, c.host_id == "", c.added, c.lost) for c in saved.changes] == [
        ("added-1", True, True, False),
        ("h1", False, False, True),
        ("h2", False, False, True),
        ("h3", False, False, False),
    ]
    losses = [loss for page in pages for loss in page.losses]
    assert [loss.host_name for loss in losses] == ["h1", "h2", "h3"]
    assert {(x.outcome.asked_count, x.outcome.placed_count) for x in losses} == {(5, 5)}
    assert [len(page.losses) for page in pages] == [2, 1]
    assert pages[1].next_page_token == ""
    assert [loss.host_id for loss in only.losses] == [second.id]


async def test_what_is_being_removed_is_not_placed_again(tmp_path: Path) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        first, *_ = await some_hosts(api, held=2)
        rows = await api.uow.read(lambda conn: instances.claimed_of(conn, [first.id]))
        await api.settle(rows[0].id, delete_requested=True)
        found = await simulate(api, losing(first.id))

    assert found.outcomes[0].asked_count == 1


async def test_what_is_asked_for_comes_from_flavor_image_and_networks(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        image = await api.a_ready_image()
        listed = await api.flavors.ListFlavors(flavor_service_pb2.ListFlavorsRequest())
        flavor = listed.flavors[0]
        await some_hosts(api)
        bare = instance_pb2.Instance(flavor_id=flavor.id)
        place = Step.PlaceInstances(count=1, instance=bare)
        with_ports = await simulate(api, Step(place_instances=place))
        bare.no_network = True
        without = await simulate(
            api, Step(place_instances=Step.PlaceInstances(count=1, instance=bare))
        )
        of_image = await simulate(api, placing(1, disk_bytes=0, image_id=image.id, no_network=True))
        new = await simulate(api, adding(1, cpus=4, memory_bytes=GIB, disk_bytes=GIB), placing(1))

    filters = with_ports.outcomes[0].refusals[0].decision.filters
    assert [rule.name for rule in filters if rule.rejected_count] == ["networks"]
    assert with_ports.outcomes[0].placed_count == 0
    assert without.after.claimed.memory_bytes == flavor.memory_bytes
    assert of_image.after.claimed.disk_bytes == 2 << 20
    assert [c.host_name for c in new.changes] == ["added-1"]
    assert new.outcomes[1].placed_count == 1


def _all_rows(conn: Any) -> list[Any]:
    return [[tuple(row) for row in conn.execute(t.select())] for t in metadata.sorted_tables]


async def test_nothing_is_changed_and_nothing_is_decided(tmp_path: Path) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        first, *_ = await some_hosts(api, held=2)
        before = await api.uow.read(_all_rows)
        await simulate(api, placing(9), losing(first.id), adding(2, like_host_id=first.id))
        await api.placement.SimulateLosses(pb.SimulateLossesRequest())
        assert await api.uow.read(_all_rows) == before


async def test_a_replica_asks_the_leader_and_no_other(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (leader, replica, _):
        await some_hosts(leader)
        here, there = [
            await simulate(api, placing(3, no_network=True)) for api in (leader, replica)
        ]
        losses = await replica.placement.SimulateLosses(pb.SimulateLossesRequest())

    assert here.outcomes[0].placed_count == 3
    assert [o.placed_count for o in there.outcomes] == [3]
    assert len(losses.losses) == 3


async def test_nobody_answers_for_a_leader_that_is_not_there(tmp_path: Path) -> None:
    async with two_schedulers(tmp_path) as (_, replica, etcd):
        etcd.leader = None
        one = await refused(simulate(replica, placing(1)))
        other = await refused(replica.placement.SimulateLosses(pb.SimulateLossesRequest()))

    assert {type(one), type(other)} == {Unavailable}
    assert {one.reason, other.reason} == {"NO_LEADER"}


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        gone = an_id("host")
        for step in (losing(gone), adding(1, like_host_id=gone)):
            error = await refused(simulate(api, step))
            assert isinstance(error, NotFound)
            assert error.resource == gone
        error = await refused(simulate(api, placing(1), project_id=an_id("project")))
        assert isinstance(error, NotFound)
        nothing = await refused(simulate(api))
        assert isinstance(nothing, InvalidArgument)
        assert nothing.reason == "INVALID_STEPS"


async def test_too_much_at_once_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    async with an_api(tmp_path, network=PLAIN) as api:
        await some_hosts(api)
        monkeypatch.setattr(simulations, "LONGEST_S", 0.0)
        late = await refused(simulate(api, placing(1)))
        monkeypatch.setattr(simulations, "MAX_AT_ONCE", 0)
        busy = await refused(simulate(api, placing(1)))
        monkeypatch.setattr(simulations, "MAX_AT_ONCE", 1)
        monkeypatch.setattr(simulations, "LONGEST_S", 8.0)
        assert (await simulate(api, placing(1))).outcomes[0].placed_count == 1

    assert isinstance(late, DeadlineExceeded)
    assert late.reason == "SIMULATION_TOO_LONG"
    assert isinstance(busy, Unavailable)
    assert busy.reason == "SIMULATIONS_BUSY"

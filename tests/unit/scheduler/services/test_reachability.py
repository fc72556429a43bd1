"""What the store alone says of reachability: OVN is not asked for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api import NETWORKING, an_api, refused
from tests.support.builders import an_id
from tests.support.reaching import Town
from tests.support.store import noon, open_store
from unkai.network.v1 import reachability_service_pb2, reachability_service_pb2_grpc
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.networks import HostRoute
from unkai_scheduler.domain.reachability import EXTERNAL, Question, Reachability, Verdict
from unkai_scheduler.domain.security_groups import Protocol
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.reachability import ReachabilityExplained
from unkai_wire.errors import FailedPrecondition, InvalidArgument, NotFound


async def explained(folder: Path, town: Town, question: Question) -> Reachability:
    """Ask a service that is told of no southbound database."""
    uow = await open_store(folder)
    try:
        await town.plant(uow)
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        return await ReachabilityExplained(context, NETWORKING).explain(question)
    finally:
        await uow.close()


def two_networks() -> Town:
    """Machines a and b on networks front and back."""
    town = Town()
    town.machine("a", town.network("front", "10.1.0.0/24"))
    town.machine("b", town.network("back", "10.2.0.0/24"))
    return town


def stopped(name: str) -> Callable[[], tuple[Town, Question]]:
    def make() -> tuple[Town, Question]:
        town = Town()
        front = town.network("front", "10.1.0.0/24")
        for each in "ab":
            state = InstanceState.STOPPED if each == name else InstanceState.RUNNING
            town.machine(each, front, state=state)
        return town, town.asked("a", "b")

    return make


def no_ipv6() -> tuple[Town, Question]:
    town = two_networks()
    return town, town.asked("a", "fd00::9")


def unplugged() -> tuple[Town, Question]:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    town.machine("a", front)
    town.machine("b", front, owner=None, owner_id="")
    return town, town.asked("a", "b")


def nobody_there() -> tuple[Town, Question]:
    town = two_networks()
    return town, town.asked("a", "10.1.0.99")


def nobody_behind_the_router() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", "back")
    return town, town.asked("a", "10.2.0.99")


def no_router() -> tuple[Town, Question]:
    town = two_networks()
    return town, town.asked("a", "b")


def no_router_told() -> tuple[Town, Question]:
    town = Town()
    front = town.network("front")
    town.subnet("front", front, "10.1.0.0/24", gateway_address="")
    town.machine("a", front)
    return town, town.asked("a", "8.8.8.8")


def not_joined() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front")
    return town, town.asked("a", "b")


def route_to_nobody() -> tuple[Town, Question]:
    town = Town()
    front = town.network("front")
    route = HostRoute("8.0.0.0/8", "10.1.0.77")
    town.subnet("front", front, "10.1.0.0/24", host_routes=(route,))
    town.machine("a", front)
    town.router("r", "front", out=town.outside())
    return town, town.asked("a", "8.8.8.8")


def no_gateway() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", "back")
    return town, town.asked("a", EXTERNAL)


def no_nat() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", out=town.outside(), snat=False)
    return town, town.asked("a", EXTERNAL)


def inside_address_from_outside() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", out=town.outside())
    return town, town.asked("outside", "a", "tcp/22")


def floating_leads_nowhere() -> tuple[Town, Question]:
    town = two_networks()
    out = town.outside()
    town.router("r", "front", out=out)
    return town, town.asked("outside", town.floating("f", out, None, None), "tcp/22")


def no_listener() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", "back")
    vip = town.balancer("shop", "back", town.ports["b"])
    return town, town.asked("a", vip, "tcp/443")


def no_member() -> tuple[Town, Question]:
    town = two_networks()
    town.router("r", "front", "back")
    return town, town.asked("a", town.balancer("shop", "back"), "tcp/80")


def balancer_without_router() -> tuple[Town, Question]:
    town = Town()
    front = town.network("front", "10.1.0.0/24")
    a = town.machine("a", front)
    return town, town.asked("a", town.balancer("shop", "front", a), "tcp/80")


@pytest.mark.parametrize(
    ("situation", "reason", "told"),
    [
        (stopped("a"), "INSTANCE_NOT_RUNNING", "unkai instance start a"),
        (stopped("b"), "INSTANCE_NOT_RUNNING", "unkai instance start b"),
        (unplugged, "PORT_NOT_PLUGGED", "unkai port attach b-port"),
        (no_ipv6, "NO_ADDRESS", "unkai port update a-port"),
        (nobody_there, "ADDRESS_NOT_USED", "unkai port list"),
        (nobody_behind_the_router, "ADDRESS_NOT_USED", "unkai port list"),
        (no_router, "NO_ROUTER", "unkai router add-subnet ROUTER front"),
        (no_router_told, "NO_GATEWAY_ADDRESS", "unkai subnet update front"),
        (not_joined, "NO_ROUTE", "unkai router add-subnet r"),
        (route_to_nobody, "NO_ROUTER", "unkai router add-subnet ROUTER front"),
        (no_gateway, "NO_GATEWAY", "unkai router set-gateway r"),
        (no_nat, "NO_NAT", "unkai router set-gateway r outside --snat"),
        (inside_address_from_outside, "NO_FLOATING_IP", "unkai floating-ip create outside"),
        (floating_leads_nowhere, "FLOATING_IP_UNUSED", "unkai floating-ip associate f"),
        (no_listener, "NO_LISTENER", "unkai load-balancer add-listener shop 443"),
        (no_member, "NO_MEMBER", "unkai load-balancer add-member shop 80"),
        (balancer_without_router, "NO_ROUTER", "unkai router add-subnet ROUTER front"),
    ],
)
async def test_the_store_names_what_stands_in_the_way(
    tmp_path: Path, situation: Callable[[], tuple[Town, Question]], reason: str, told: str
) -> None:
    found = await explained(tmp_path, *situation())
    assert (found.verdict, found.reason) == (Verdict.UNREACHABLE, reason), found.summary
    assert told in found.fix
    assert found.hops[-1].dropped


async def test_the_metadata_service_takes_what_it_is_for_alone(tmp_path: Path) -> None:
    town = two_networks()
    found = await explained(tmp_path, town, town.asked("a", "169.254.169.254", "tcp/443"))
    assert found.reason == "NO_LISTENER"
    assert "tcp/80" in found.fix


async def test_where_the_store_knows_no_obstacle_it_says_that_flows_cannot_be_read(
    tmp_path: Path,
) -> None:
    town = two_networks()
    town.router("r", "front", "back")
    with pytest.raises(FailedPrecondition) as caught:
        await explained(tmp_path, town, town.asked("a", "b"))
    assert caught.value.reason == "FLOWS_NOT_READABLE"
    assert "network.southbound" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_port_id": ""}, "source_port_id"),
        ({"source_network_id": "net-00000000000000000000000001"}, "source_port_id"),
        ({"source_port_id": "web"}, "source_port_id"),
        ({"destination_address": "web"}, "destination_address"),
        ({"source_address": "fd00::1"}, "source_address"),
        ({"port_number": 7}, "port_number"),
        ({"protocol": Protocol.TCP}, "port_number"),
        ({"protocol": Protocol.UDP, "port_number": 65536}, "port_number"),
        ({"destination_address": "127.0.0.1"}, "destination_address"),
        ({"destination_address": "0.0.0.0"}, "destination_address"),
        ({"destination_address": "224.0.0.1"}, "destination_address"),
        ({"destination_address": "255.255.255.255"}, "destination_address"),
        ({"destination_address": "fe80::1"}, "destination_address"),
        ({"destination_address": "169.254.0.7"}, "destination_address"),
        ({"destination_address": "::ffff:10.0.0.1"}, "destination_address"),
        ({"source_address": "10.1.0.10/24"}, "source_address"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused_with_its_field(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    town = two_networks()
    with pytest.raises(InvalidArgument) as caught:
        await explained(tmp_path, town, town.asked("a", "b", **changes))
    assert caught.value.metadata["field"] == field


async def test_a_question_from_outside_to_outside_is_refused(tmp_path: Path) -> None:
    town = two_networks()
    town.outside()
    with pytest.raises(InvalidArgument) as caught:
        await explained(tmp_path, town, town.asked("outside", EXTERNAL))
    assert caught.value.reason == "BOTH_OUTSIDE"


async def test_a_port_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    town = two_networks()
    question = town.asked("a", "b", source_port_id=an_id("port"))
    with pytest.raises(NotFound):
        await explained(tmp_path, town, question)


async def test_the_answer_goes_over_the_wire(tmp_path: Path) -> None:
    town, question = no_gateway()
    async with an_api(tmp_path / "a") as api:
        await town.plant(api.uow)
        stub = reachability_service_pb2_grpc.ReachabilityServiceStub(api.channel)
        request = reachability_service_pb2.ExplainRequest(
            source_port_id=question.source_port_id, destination_address="external"
        )
        found = (await stub.Explain(request)).reachability
        assert (found.reason, found.verdict) == ("NO_GATEWAY", 2)
        assert found.hops[0].resource_name == "r"
        assert not found.hops[0].HasField("packet_count")
        error = await refused(stub.Explain(reachability_service_pb2.ExplainRequest()))
        assert error.code == 3

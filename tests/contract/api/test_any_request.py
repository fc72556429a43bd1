"""Whatever is sent to any method of ours, it is served or told exactly what is wrong.

Requests are drawn from the contracts (`tests.support.any_request`) for every method there is: the
public API, the schedulers' own, and the agents'. No answer is INTERNAL or UNKNOWN, every refusal is
one of ours with all its details, and a refused call changed nothing. That the search finds what it
looks for is shown by bugs planted for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.acceptance import Shows, count, full_counts, seeded
from tests.support.agent import IMAGE, an_instance_id
from tests.support.any_call import OURS, Target, check_refusal, search, send
from tests.support.any_request import Known
from tests.support.api import Api, an_ssh_key, tls_files
from tests.support.contracts import AGENT, PEERS, methods
from tests.support.network_calls import a_group, a_network, a_port, a_rule, a_subnet
from tests.support.routing_calls import a_floating_ip, a_load_balancer, a_way_out
from tests.support.served_agent import HOST_ID, ServedAgent
from tests.support.served_api import ServedApi
from unkai.compute.v1 import (
    flavor_pb2,
    flavor_service_pb2,
    key_pair_pb2,
    key_pair_service_pb2,
    placement_group_pb2,
    placement_group_service_pb2,
)
from unkai.host.v1 import aggregate_pb2, aggregate_service_pb2, host_service_pb2
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import network_pb2
from unkai_scheduler.api.policy import TABLE
from unkai_scheduler.store.tables import metadata
from unkai_wire.ids import encode, uuid7
from unkai_wire.tls import SCHEDULER_TLS_NAME, channel_options

pytestmark = pytest.mark.timeout(600)
"""All counts of a method whose every call starts a process, as Diagnose's does, take minutes."""
PUBLIC = methods(but=(AGENT, PEERS))
THEIR_OWN = methods(PEERS)
AGENTS = methods(AGENT)
NO_MESSAGE = b"\x0a\xff\xff\xff\xff\x7f\x01"
LIVE = sorted(name for name, rule in TABLE.items() if rule.live)
WAITS = frozenset(name.rpartition(".")[2].replace("/", ".") for name in TABLE if TABLE[name].waits)
FILES_KEPT = frozenset({"ImageService.UploadImage"})
"""A refused file makes its image FAILED, and says so."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    with ServedApi(tmp_path_factory.mktemp("any") / "a") as served:
        served.leader.idle = True
        yield served


@pytest.fixture(scope="module")
def public(served: ServedApi) -> Iterator[Target]:
    """The public API on its unix socket, with one of each resource."""
    with grpc.insecure_channel(f"unix:{served.socket}") as channel:
        known = dict(served.do(furnish(served)))
        yield public_target(channel, known, served)


@pytest.fixture(scope="module")
def peers(served: ServedApi, public: Target) -> Iterator[Target]:
    """What schedulers say to each other, said by one of them."""
    known = dict(public.known)
    known["=method"] = [*LIVE, "/unkai.identity.v1.ProjectService/GetProject", "", "/x"]
    known["=principal"] = ["local", "client:admin", "client:", "host:h1", ":", "king:x"]
    known["message bytes"] = [
        host_service_pb2.GetHostRequest(host_id=served.host.id).SerializeToString(),
        host_service_pb2.GetHostRequest(host_id="hst-x").SerializeToString(),
        NO_MESSAGE,
    ]
    credentials = tls_files(served.api.pki, "scheduler").channel_credentials()
    options = channel_options(SCHEDULER_TLS_NAME)
    address = f"127.0.0.1:{served.api.port}"
    with grpc.secure_channel(address, credentials, options) as channel:
        codes = OURS | {grpc.StatusCode.UNAUTHENTICATED}  # who is named must be somebody
        yield Target(channel, known, lambda: everything(served), codes=codes)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Target]:
    """An agent on fake drivers, ordered about by a scheduler."""
    known: dict[str, Sequence[Any]] = {
        "host_id": [HOST_ID],
        "instance_id": [an_instance_id(n) for n in range(1, 4)],
        "id": [an_instance_id(1), an_instance_id(2), IMAGE.image_id],
        "sha256": [IMAGE.sha256],
        "name": ["root", "web-1"],
        # One huge term would have all that follows refused.
        "=term": [-1, 0, 1, 2],
        "generation": [1, 2, 3],
        "run_epoch": [1, 2],
        "project_id": [encode("prj", uuid7(0, 1))],
        "vcpus": [1, 2],
        "memory_bytes": [64 << 20],
        "size_bytes": [1 << 20],
    }
    with ServedAgent(tmp_path / "agent") as served, served.channel() as channel:
        yield Target(channel, known, served.kept)


EVERYDAY_SHARE = {"HostService.Diagnose": 5}
"""Methods of which only every so-manieth example is tried every day: each runs the doctor."""


def public_target(channel: grpc.Channel, known: Known, served: ServedApi) -> Target:
    """Return the public API as what the search is given."""
    return Target(channel, known, lambda: everything(served), keep_notes=FILES_KEPT, waits=WAITS)


async def furnish(served: ServedApi) -> dict[str, Sequence[Any]]:
    """Make one of each resource; return what a field may hold, by the end of its name."""
    api = served.api
    image = await api.a_ready_image("tiny")
    flavor = await api.flavors.CreateFlavor(
        flavor_service_pb2.CreateFlavorRequest(
            flavor=flavor_pb2.Flavor(name="mini", vcpus=1, memory_bytes=64 << 20)
        )
    )
    project = await api.projects.CreateProject(
        project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="lab"))
    )
    key = await api.key_pairs.CreateKeyPair(
        key_pair_service_pb2.CreateKeyPairRequest(
            key_pair=key_pair_pb2.KeyPair(name="me", public_key=an_ssh_key())
        )
    )
    aggregate = await api.aggregates.CreateAggregate(
        aggregate_service_pb2.CreateAggregateRequest(
            aggregate=aggregate_pb2.Aggregate(name="fast", host_ids=[served.host.id])
        )
    )
    apart = placement_group_pb2.PlacementGroup(
        name="apart", policy=placement_group_pb2.PlacementGroup.POLICY_ANTI_AFFINITY
    )
    grouped = await api.placement_groups.CreatePlacementGroup(
        placement_group_service_pb2.CreatePlacementGroupRequest(placement_group=apart)
    )
    placement_group_id = grouped.placement_group.id
    created = await api.create(
        "web",
        image_id=image.id,
        aggregate_id=aggregate.aggregate.id,
        placement_group_id=placement_group_id,
    )
    await api.stamp()
    network = await a_network(api, "blue", shared=True)
    subnet = await a_subnet(api, network.id)
    port = await a_port(api, network.id)
    group = await a_group(api, "mail", rules=[a_rule()])
    flat = {"type": network_pb2.Network.TYPE_FLAT, "physical_network": "public"}
    outside = await a_network(api, "outside", external=True, **flat)
    await a_subnet(api, outside.id, "203.0.113.0/24")
    router = await a_way_out(api, outside.id, subnet.id)
    floating_ip = await a_floating_ip(api, name="way", port_id=port.id)
    load_balancer = await a_load_balancer(api, subnet.id, port.id)
    ids = {
        "network_id": [network.id, outside.id],
        "router_id": [router.id],
        "floating_ip_id": [floating_ip.id],
        "load_balancer_id": [load_balancer.id],
        "subnet_id": [subnet.id],
        "port_id": [port.id, load_balancer.port_id],
        "security_group_id": [group.id, *port.security_group_ids],
        "security_group_ids": [group.id, *port.security_group_ids],
        "remote_group_id": [group.id],
        "rule_id": [group.rules[0].id],
        "image_id": [image.id],
        "flavor_id": [flavor.flavor.id],
        "project_id": [project.project.id],
        "key_pair_id": [key.key_pair.id],
        "key_pair_ids": [key.key_pair.id],
        "placement_group_id": [placement_group_id],
        "instance_id": [created.instance.id],
        "operation_id": [created.operation.id],
        "resource_id": [created.instance.id],
        "host_id": [served.host.id],
        "host_ids": [served.host.id],
        "aggregate_id": [aggregate.aggregate.id],
        "project_ids": [project.project.id],
    }
    return ids | {
        "id": [one for many in ids.values() for one in many],
        "paths": [
            *("name", "labels", "description", "vcpus", "mtu", "rules", "fixed_addresses"),
            *("zone", "project_ids", "traits", "cpu_ratio"),
            *("gateway", "routes", "port_id", "fixed_address", "listeners"),
        ],
        "resource_kinds": ["instance", "image", "port"],
        "cidr": ["10.0.0.0/24", "10.1.0.0/24", "fd00::/64"],
        "destination": ["10.8.0.0/16", "0.0.0.0/0"],
        "next_hop": ["10.0.0.9", "203.0.113.1"],
        "fixed_address": ["10.0.0.2"],
        "port_number": [0, 80, 8080],
        "remote_cidr": ["10.0.0.0/8", "::/0"],
        "address": ["10.0.0.9", "fd00::9", "203.0.113.9"],
        "mac_address": ["02:00:00:00:00:09"],
        "physical_network": ["public"],
        "mtu": [0, 1400],
        "vlan_id": [0, 9],
        "after_revision": ["1.0", "1.1", "1.99"],
        "public_key": [an_ssh_key("two")],
        "name": ["db", "web", "tiny"],
        "request_id": ["one", "two"],
        "zone": ["default", "room-2"],
        "traits": ["SSD"],
        "cpu_ratio": [0.0, 1.5],
        "memory_ratio": [0.0, 1.5],
        "disk_ratio": [0.0, 1.5],
        "required_traits": ["SSD"],
        "preferred_traits": ["SSD", "FAST"],
        "forbidden_traits": ["OLD"],
        "vcpus": [1, 2],
        "memory_bytes": [64 << 20, 128 << 20],
        "disk_bytes": [0, 1 << 30],
    }


def everything(served: ServedApi) -> str:
    """Return a digest of every row there is."""

    def read(conn: Any) -> str:
        digest = hashlib.sha256()
        for table in metadata.sorted_tables:
            rows = conn.execute(table.select().order_by(*table.primary_key.columns))
            digest.update(repr([tuple(row) for row in rows]).encode())
        return digest.hexdigest()

    return str(served.do(_read(served.api, read)))


async def _read(api: Api, read: Any) -> str:
    return await api.uow.read(read)


def _search(target: Target, name: str, method: Any, shows: Shows) -> None:
    begun = target.calls, target.refused
    start = seeded(f"fuzz {name}").getrandbits(64)
    examples = count(200) // (1 if full_counts() else EVERYDAY_SHARE.get(name, 1))
    search(target, method, examples=examples, start=start)
    calls, refused = target.calls - begun[0], target.refused - begun[1]
    shows(f"solid 7 fuzz {name}", f"{calls} calls, {refused} refused exactly, start {start}")


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_any_request_is_served_or_refused_exactly(public: Target, name: str, shows: Shows) -> None:
    _search(public, name, PUBLIC[name], shows)


@pytest.mark.parametrize("name", sorted(THEIR_OWN))
def test_any_request_of_a_peer_is_served_or_refused_exactly(
    peers: Target, name: str, shows: Shows
) -> None:
    _search(peers, name, THEIR_OWN[name], shows)


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_any_order_to_an_agent_is_served_or_refused_exactly(
    agent: Target, name: str, shows: Shows
) -> None:
    _search(agent, name, AGENTS[name], shows)


@pytest.mark.parametrize("name", sorted({**PUBLIC, **THEIR_OWN}))
def test_bytes_that_are_no_message_are_an_invalid_argument(
    public: Target, peers: Target, name: str
) -> None:
    target = peers if name in THEIR_OWN else public
    _check_undecodable(target, {**PUBLIC, **THEIR_OWN}[name])


def test_bytes_that_are_no_order_are_an_invalid_argument(agent: Target) -> None:
    for method in AGENTS.values():
        _check_undecodable(agent, method)


def _check_undecodable(target: Target, method: Any) -> None:
    error = send(target.channel, method, [NO_MESSAGE]).error
    assert error is not None
    check_refusal(error)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

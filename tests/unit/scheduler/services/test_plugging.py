"""Ports that are plugged into instances and taken out, moved and removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.support.api import Api, an_api, refused
from tests.support.builders import a_claim, a_host, a_project, an_id
from tests.support.network_api import (
    Wired,
    a_context,
    a_plugged_port,
    a_wired_network,
    an_external_network,
    another_subnet,
    entombed,
    marked,
    read,
    settled,
)
from tests.support.networks import a_floating_ip, a_load_balancer, add_port
from unkai.compute.v1 import instance_pb2, instance_service_pb2
from unkai.network.v1 import port_pb2, port_service_pb2
from unkai.operation.v1 import operation_pb2
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    Member,
)
from unkai_scheduler.domain.operations import OperationState, Verb
from unkai_scheduler.domain.ports import Port, PortOwner
from unkai_scheduler.services.instance_ports import InstancePorts
from unkai_scheduler.store import (
    claims,
    events,
    floating_ips,
    hosts,
    instances,
    load_balancers,
    operations,
    ports,
    projects,
    subnets,
)
from unkai_scheduler.store.tables_networks import addresses as address_rows

Operation = operation_pb2.Operation
pb = port_service_pb2


@pytest.fixture
async def api(tmp_path: Path) -> Any:
    async with an_api(tmp_path / "a") as served:
        yield served


@pytest.fixture
async def wired(api: Api) -> Wired:
    return await a_wired_network(api)


async def a_running_instance(
    api: Api,
    *,
    features: tuple[str, ...] = ("networks.v1",),
    network_problem: str = "",
    **changes: Any,
) -> instance_pb2.Instance:
    """Launch an instance that runs on a host; without ports unless some are named."""
    changes = changes if "interfaces" in changes else {**changes, "no_network": True}
    made: instance_pb2.Instance = (await api.create(**changes)).instance
    host = a_host(features=features, network_problem=network_problem)

    def work(conn: Any) -> None:
        hosts.insert(conn, host)
        row = instances.get(conn, made.id)
        assert row is not None
        claims.insert(conn, [a_claim(row, host)])

    await api.lead(work)
    await api.settle(made.id, state=InstanceState.RUNNING, due_time=None)
    return made


async def attach(api: Api, port_id: str, instance_id: str, **more: Any) -> pb.AttachPortResponse:
    return await api.ports.AttachPort(
        pb.AttachPortRequest(port_id=port_id, instance_id=instance_id, **more)
    )


async def detach(api: Api, port_id: str) -> pb.DetachPortResponse:
    return await api.ports.DetachPort(pb.DetachPortRequest(port_id=port_id))


async def shown(api: Api, ident: str) -> instance_pb2.Instance:
    request = instance_service_pb2.GetInstanceRequest(instance_id=ident)
    return (await api.instances.GetInstance(request)).instance


async def test_a_port_is_plugged_into_a_running_instance_and_taken_out(
    api: Api, wired: Wired
) -> None:
    free = await a_plugged_port(api, wired)
    made = await a_running_instance(api)
    await settled(api)

    given = await attach(api, free.id, made.id)

    assert (given.port.owner_id, given.port.owner) == (made.id, port_pb2.Port.OWNER_INSTANCE)
    assert not given.port.delete_with_owner
    assert (given.operation.verb, given.operation.resource_id) == (
        Operation.VERB_ATTACH,
        made.id,
    )
    seen = await shown(api, made.id)
    assert [one.port_id for one in seen.interfaces] == [free.id]
    assert (seen.generation, seen.state) == (2, instance_pb2.Instance.STATE_RUNNING)
    row = await read(api, lambda conn: instances.get(conn, made.id))
    assert row.due_time is not None
    assert await marked(api) == {f"port:{free.id}"}
    await api.settle(made.id)
    await settled(api)

    taken = await detach(api, free.id)

    assert (taken.port.owner, taken.port.owner_id) == (port_pb2.Port.OWNER_UNSPECIFIED, "")
    assert [one.address for one in taken.port.fixed_addresses] == [free.addresses[0].address]
    assert taken.operation.verb == Operation.VERB_DETACH
    assert not (await shown(api, made.id)).interfaces
    assert (await shown(api, made.id)).generation == 3
    assert await marked(api) == {f"port:{free.id}"}
    assert await entombed(api, f"port:{free.id}") == set()


async def test_the_same_request_again_attaches_once(api: Api, wired: Wired) -> None:
    free = await a_plugged_port(api, wired)
    made = await a_running_instance(api)
    first = await attach(api, free.id, made.id, request_id="once")
    assert await attach(api, free.id, made.id, request_id="once") == first
    assert (await shown(api, made.id)).generation == 2


async def test_a_port_takes_the_first_place_that_is_free(api: Api, wired: Wired) -> None:
    network_id = wired.network.id
    asked = [instance_pb2.Instance.Interface(network_id=network_id) for _ in range(3)]
    made = await a_running_instance(api, interfaces=asked)
    await detach(api, made.interfaces[1].port_id)
    await api.settle(made.id)
    given = await attach(api, (await a_plugged_port(api, wired)).id, made.id)
    assert given.port.position == 1
    for _ in range(13):
        await api.settle(made.id)
        await attach(api, (await a_plugged_port(api, wired)).id, made.id)
    await api.settle(made.id)
    caught = await refused(attach(api, (await a_plugged_port(api, wired)).id, made.id))
    assert caught.reason == "TOO_MANY_INTERFACES"


async def test_what_cannot_be_plugged_in_is_refused(api: Api, wired: Wired) -> None:
    free = await a_plugged_port(api, wired)
    made = await a_running_instance(api)
    theirs = a_project()
    await api.uow.write(lambda conn: projects.insert(conn, theirs))
    foreign = await a_plugged_port(api, wired, project_id=theirs.id)
    router = await a_plugged_port(api, wired, owner=PortOwner.ROUTER, owner_id="x")
    refusals = {
        (foreign.id, made.id, ""): "PORT_NOT_FOUND",
        (router.id, made.id, ""): "PORT_IN_USE",
        (an_id("port"), made.id, ""): "PORT_NOT_FOUND",
        (free.id, an_id("instance"), ""): "INSTANCE_NOT_FOUND",
        (free.id, made.id, "old"): "ETAG_MISMATCH",
    }
    for (port_id, instance_id, etag), reason in refusals.items():
        assert (await refused(attach(api, port_id, instance_id, etag=etag))).reason == reason
    assert (await refused(detach(api, free.id))).reason == "PORT_NOT_ATTACHED"
    assert (await refused(detach(api, router.id))).reason == "PORT_NOT_ATTACHED"
    await api.settle(made.id, state=InstanceState.LOST)
    assert (await refused(attach(api, free.id, made.id))).reason == "INSTANCE_STATE"
    assert (await shown(api, made.id)).generation == 1


async def test_a_host_without_the_network_is_given_no_port_of_it(api: Api, wired: Wired) -> None:
    plain = await a_running_instance(api, features=())
    caught = await refused(attach(api, (await a_plugged_port(api, wired)).id, plain.id))
    assert caught.reason == "HOST_LACKS_NETWORK"
    outside = await an_external_network(api, "198.51.100.0/24", shared=True)
    made = await a_running_instance(api, name="db", image_id=plain.image_id)
    caught = await refused(attach(api, (await a_plugged_port(api, outside)).id, made.id))
    assert "is not attached to physical network" in str(caught)


async def test_a_host_whose_switch_is_in_trouble_is_given_no_port_and_gives_one_back(
    api: Api, wired: Wired
) -> None:
    asked = [instance_pb2.Instance.Interface(network_id=wired.network.id)]
    said = "ovn-controller does not run"
    made = await a_running_instance(api, network_problem=said, interfaces=asked)
    caught = await refused(attach(api, (await a_plugged_port(api, wired)).id, made.id))
    assert caught.reason == "HOST_SWITCH_IN_TROUBLE"
    assert said in str(caught)

    await detach(api, made.interfaces[0].port_id)


async def test_taking_out_waits_for_nothing_that_is_under_way(api: Api, wired: Wired) -> None:
    asked = [instance_pb2.Instance.Interface(network_id=wired.network.id)]
    made = await a_running_instance(api, interfaces=asked)
    request = instance_service_pb2.StopInstanceRequest(instance_id=made.id)
    stopping = (await api.instances.StopInstance(request)).operation

    taken = await detach(api, made.interfaces[0].port_id)

    assert taken.operation.id == stopping.id
    assert (await shown(api, made.id)).generation == 3


async def test_taking_out_overtakes_plugging_in(api: Api, wired: Wired) -> None:
    free, made = await a_plugged_port(api, wired), await a_running_instance(api)
    given = await attach(api, free.id, made.id)

    taken = await detach(api, free.id)

    assert taken.operation.verb == Operation.VERB_DETACH
    first = await read(api, lambda conn: operations.get(conn, given.operation.id))
    assert (first.state, first.error["reason"]) == (OperationState.CANCELLED, "PORT_TAKEN_OUT")
    assert (await shown(api, made.id)).generation == 3
    active = await read(api, lambda conn: operations.active_for(conn, made.id))
    assert active.verb is Verb.DETACH


async def test_a_removed_port_is_taken_out_first(api: Api, wired: Wired) -> None:
    asked = [instance_pb2.Instance.Interface(network_id=wired.network.id)]
    made = await a_running_instance(api, interfaces=asked)
    port_id = made.interfaces[0].port_id
    await api.ports.DeletePort(pb.DeletePortRequest(port_id=port_id))
    assert await entombed(api, f"port:{port_id}") == {f"port:{port_id}"}
    assert (await shown(api, made.id)).generation == 2


async def test_a_host_hears_of_other_addresses(api: Api, wired: Wired) -> None:
    asked = [instance_pb2.Instance.Interface(network_id=wired.network.id)]
    made = await a_running_instance(api, interfaces=asked)
    address = port_pb2.FixedAddress(address="10.0.0.200")
    moved = port_pb2.Port(id=made.interfaces[0].port_id, fixed_addresses=[address])
    for _ in range(2):  # the second changes nothing
        request = pb.UpdatePortRequest(port=moved)
        request.update_mask.paths.append("fixed_addresses")
        await api.ports.UpdatePort(request)
    assert (await shown(api, made.id)).generation == 2


# What the leader frees.


async def free(api: Api, instance_id: str) -> None:
    plugs = InstancePorts(a_context(api), "s1")

    def work(conn: Any) -> None:
        instances.lock(conn, instance_id)
        plugs.lock(conn, [instance_id])
        plugs.free(conn, instance_id)

    await api.lead(work)


async def used_addresses(api: Api) -> int:
    query = select(func.count()).select_from(address_rows)
    return int(await read(api, lambda conn: conn.execute(query).scalar_one()))


async def test_what_an_instance_held_is_free_when_it_is_gone(api: Api, wired: Wired) -> None:
    outside = await an_external_network(api)
    given = await a_plugged_port(api, wired)
    before = await used_addresses(api)
    asked = [
        instance_pb2.Instance.Interface(port_id=given.id),
        instance_pb2.Instance.Interface(network_id=wired.network.id),
    ]
    made = (await api.create(interfaces=asked)).instance
    own_id = made.interfaces[1].port_id
    own: Port = await read(api, lambda conn: ports.get(conn, own_id))
    holder = await a_plugged_port(api, outside, owner=PortOwner.FLOATING_IP, owner_id="x")
    leading = a_floating_ip(holder, port_id=own.id, fixed_address=own.addresses[0].address)
    await api.uow.write(lambda conn: floating_ips.insert(conn, leading))
    await settled(api)

    await free(api, made.id)

    kept: Port = await read(api, lambda conn: ports.get(conn, given.id))
    assert (kept.owner, kept.owner_id, kept.position) == (None, "", 0)
    assert kept.addresses == given.addresses
    assert await read(api, lambda conn: ports.get(conn, own_id)) is None
    lonely = await read(api, lambda conn: floating_ips.get(conn, leading.id))
    assert (lonely.port_id, lonely.fixed_address) == ("", "")
    assert await used_addresses(api) == before + 1  # the floating address itself
    units = {f"port:{given.id}", f"port:{own_id}", f"floating_ip:{leading.id}"}
    assert await marked(api) == units
    assert await entombed(api, *units) == {f"port:{own_id}"}
    await api.stamp()
    told = await read(api, lambda conn: events.list_page(conn, after=None, limit=1000))
    by_leader = [(e.resource_kind, e.type.value) for e in told if e.actor == "scheduler:s1"]
    assert sorted(by_leader) == [
        ("floating_ip", "UPDATED"),
        ("port", "DELETED"),
        ("port", "UPDATED"),
    ]
    await settled(api)
    await free(api, made.id)  # twice is once
    assert await marked(api) == set()


async def test_an_address_for_checks_goes_with_the_last_member(api: Api, wired: Wired) -> None:
    asked = [instance_pb2.Instance.Interface(network_id=wired.network.id)]
    made = (await api.create(interfaces=asked)).instance
    member = made.interfaces[0].port_id
    subnet_id = wired.subnet.id
    listener = Listener(
        BalancedProtocol.TCP, 80, members=(Member(member, 80),), health_check=HealthCheck()
    )

    def build(conn: Any) -> None:
        front = add_port(
            conn, wired.network, subnet_id, owner=PortOwner.LOAD_BALANCER, owner_id="x"
        )
        load_balancers.insert(conn, a_load_balancer(front, listeners=(listener,)))
        owned = {"owner": PortOwner.LOAD_BALANCER, "owner_id": subnet_id}
        add_port(conn, wired.network, subnet_id, **owned)

    await api.uow.write(build)
    assert await read(api, lambda conn: load_balancers.probe_sources(conn, [subnet_id]))

    await free(api, made.id)

    assert not await read(api, lambda conn: load_balancers.probe_sources(conn, [subnet_id]))


async def test_an_address_for_checks_follows_a_member_to_another_subnet(
    api: Api, wired: Wired
) -> None:
    second = await another_subnet(api, wired.network, "10.0.1.0/24")
    made = (
        await api.create(interfaces=[instance_pb2.Instance.Interface(network_id=wired.network.id)])
    ).instance
    port_id = made.interfaces[0].port_id
    old: Port = await read(api, lambda conn: ports.get(conn, port_id))
    first_id = old.addresses[0].subnet_id
    other_id = second.id if first_id != second.id else wired.subnet.id
    listener = Listener(
        BalancedProtocol.TCP, 80, members=(Member(port_id, 80),), health_check=HealthCheck()
    )

    def build(conn: Any) -> None:
        front = add_port(conn, wired.network, first_id, owner=PortOwner.LOAD_BALANCER, owner_id="x")
        load_balancers.insert(conn, a_load_balancer(front, listeners=(listener,)))
        owned = {"owner": PortOwner.LOAD_BALANCER, "owner_id": first_id}
        add_port(conn, wired.network, first_id, **owned)

    await api.uow.write(build)
    moved = port_pb2.Port(id=port_id, fixed_addresses=[port_pb2.FixedAddress(subnet_id=other_id)])
    request = pb.UpdatePortRequest(port=moved)
    request.update_mask.paths.append("fixed_addresses")
    await api.ports.UpdatePort(request)

    both = [first_id, other_id]
    sources = await read(api, lambda conn: load_balancers.probe_sources(conn, both))
    assert list(sources) == [other_id]
    assert await read(api, lambda conn: subnets.get(conn, other_id)) is not None

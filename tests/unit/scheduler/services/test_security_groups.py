"""Security groups and their rules: one form of each, kept while something relies on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.network_calls import (
    Group,
    a_group,
    a_network,
    a_port,
    a_rule,
    change_group,
    groups_pb,
    networks_pb,
    take_work,
    tombstones,
)
from unkai.identity.v1 import project_pb2, project_service_pb2
from unkai.network.v1 import security_group_pb2
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with an_api(tmp_path / "a") as served:
        yield served


async def get(api: Api, group_id: str) -> security_group_pb2.SecurityGroup:
    request = groups_pb.GetSecurityGroupRequest(security_group_id=group_id)
    return (await api.security_groups.GetSecurityGroup(request)).security_group


async def add(api: Api, group_id: str, rule: Group.Rule, **more: str) -> object:
    request = groups_pb.AddSecurityGroupRuleRequest(security_group_id=group_id, rule=rule, **more)
    return await api.security_groups.AddSecurityGroupRule(request)


async def remove(api: Api, rule_id: str, **more: str) -> security_group_pb2.SecurityGroup:
    request = groups_pb.RemoveSecurityGroupRuleRequest(rule_id=rule_id, **more)
    return (await api.security_groups.RemoveSecurityGroupRule(request)).security_group


async def delete(api: Api, group_id: str) -> None:
    request = groups_pb.DeleteSecurityGroupRequest(security_group_id=group_id)
    await api.security_groups.DeleteSecurityGroup(request)


async def test_a_group_without_rules_lets_everything_out_and_nothing_in(api: Api) -> None:
    group = await a_group(api, description="web servers")
    (rule,) = group.rules
    assert (rule.direction, rule.protocol, rule.remote_cidr) == (Group.DIRECTION_EGRESS, 0, "")
    assert (await get(api, group.id)) == group
    assert await take_work(api) == {f"security_group:{group.id}"}
    assert not (await a_group(api, "mute", no_default_rules=True)).rules
    (only,) = (await a_group(api, "ssh", rules=[a_rule()])).rules
    assert only.direction == Group.DIRECTION_INGRESS


async def test_a_rule_is_kept_in_one_form(api: Api) -> None:
    other = await a_group(api, "other")
    group = await a_group(
        api,
        rules=[
            a_rule(remote_cidr="10.0.0.5"),
            a_rule(protocol=Group.PROTOCOL_ICMP, port_first=0, icmp_type=8, icmp_code=0),
            a_rule(port_first=80, port_last=90, remote_group_id=other.id, description="web"),
        ],
    )
    one, two, three = group.rules
    assert (one.ip_version, one.remote_cidr) == (Group.IP_VERSION_4, "10.0.0.5/32")
    assert (one.port_first, one.port_last) == (22, 22)
    assert (two.icmp_type, two.icmp_code, two.HasField("icmp_code")) == (8, 0, True)
    assert not one.HasField("icmp_type")
    assert (three.port_last, three.remote_group_id, three.description) == (90, other.id, "web")


async def test_rules_that_say_the_same_keep_their_ids(api: Api) -> None:
    group = await a_group(api, rules=[a_rule(), a_rule(port_first=80)])
    ssh, web = group.rules
    await take_work(api)
    again = [a_rule(port_first=80, port_last=80, description="web"), a_rule(port_first=443)]
    changed = await change_group(api, group, rules=again)
    assert [rule.port_first for rule in changed.rules] == [80, 443]
    assert (changed.rules[0].id, changed.rules[0].description) == (web.id, "web")
    assert changed.rules[1].id not in {ssh.id, web.id}
    assert await take_work(api) == {f"security_group:{group.id}"}
    named = await change_group(api, group, name="www", description="d", labels={"a": "b"})
    assert (named.name, named.description, await take_work(api)) == ("www", "d", set())


async def test_one_rule_is_added_and_removed(api: Api) -> None:
    group = await a_group(api)
    added = await add(api, group.id, a_rule(), request_id="r1")
    assert await add(api, group.id, a_rule(), request_id="r1") == added
    rule_id = added.rule.id  # type: ignore[attr-defined]
    caught = await refused(add(api, group.id, a_rule(description="again")))
    assert (type(caught), caught.reason) == (AlreadyExists, "SECURITY_GROUP_RULE_EXISTS")
    assert caught.metadata["rule_id"] == rule_id
    assert len((await get(api, group.id)).rules) == 2
    await take_work(api)
    assert len((await remove(api, rule_id, request_id="r2")).rules) == 1
    assert len((await remove(api, rule_id, request_id="r2")).rules) == 1
    assert await take_work(api) == {f"security_group:{group.id}"}
    caught = await refused(remove(api, rule_id))
    assert (type(caught), caught.reason) == (NotFound, "SECURITY_GROUP_RULE_NOT_FOUND")


async def test_a_group_holds_256_rules(api: Api) -> None:
    rules = [a_rule(port_first=number) for number in range(1, 257)]
    group = await a_group(api, rules=rules)
    caught = await refused(add(api, group.id, a_rule(port_first=257)))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SECURITY_GROUP_FULL")
    caught = await refused(a_group(api, "more", rules=[*rules, a_rule(port_first=257)]))
    assert (type(caught), caught.reason) == (InvalidArgument, "TOO_MANY_RULES")


async def test_a_rule_names_groups_of_its_own_project_alone(api: Api) -> None:
    made = project_service_pb2.CreateProjectRequest(project=project_pb2.Project(name="shop"))
    shop = (await api.projects.CreateProject(made)).project
    theirs = await a_group(api, "theirs", project_id=shop.id)
    ours = await a_group(api, "ours")
    for call in (
        add(api, ours.id, a_rule(remote_group_id=theirs.id)),
        change_group(api, ours, rules=[a_rule(remote_group_id=theirs.id)]),
        a_group(api, "new", rules=[a_rule(remote_group_id=theirs.id)]),
    ):
        caught = await refused(call)
        assert (type(caught), caught.reason) == (NotFound, "SECURITY_GROUP_NOT_FOUND")
    await add(api, ours.id, a_rule(remote_group_id=ours.id))
    await delete(api, ours.id)


async def test_a_group_that_something_relies_on_stays(api: Api) -> None:
    network = await a_network(api)
    used, named, free = await a_group(api, "used"), await a_group(api, "named"), await a_group(api)
    await a_port(api, network.id, security_group_ids=[used.id])
    await add(api, free.id, a_rule(remote_group_id=named.id))
    assert (await get(api, used.id)).port_count == 1
    caught = await refused(delete(api, used.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SECURITY_GROUP_IN_USE")
    caught = await refused(delete(api, named.id))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SECURITY_GROUP_NAMED")
    assert caught.metadata["groups"] == free.id
    await delete(api, free.id)
    await delete(api, named.id)
    assert await tombstones(api) == {f"security_group:{free.id}", f"security_group:{named.id}"}


async def test_the_default_group_is_made_once_and_lets_its_own_members_in(api: Api) -> None:
    network = await a_network(api)
    first, second = await a_port(api, network.id), await a_port(api, network.id)
    assert first.security_group_ids == second.security_group_ids
    default = await get(api, first.security_group_ids[0])
    inward, outward = default.rules
    assert (default.name, default.port_count) == ("default", 2)
    assert (inward.direction, inward.remote_group_id) == (Group.DIRECTION_INGRESS, default.id)
    assert (outward.direction, outward.remote_group_id) == (Group.DIRECTION_EGRESS, "")
    assert f"security_group:{default.id}" in await take_work(api)


async def test_the_default_group_keeps_its_name_while_there_are_networks(api: Api) -> None:
    network = await a_network(api)
    port = await a_port(api, network.id)
    default = await get(api, port.security_group_ids[0])
    caught = await refused(a_group(api, "default"))
    assert (type(caught), caught.reason) == (InvalidArgument, "RESERVED_NAME")
    other = await a_group(api, "other")
    assert (await refused(change_group(api, other, name="default"))).reason == "RESERVED_NAME"
    caught = await refused(change_group(api, default, name="x"))
    assert (type(caught), caught.reason) == (FailedPrecondition, "SECURITY_GROUP_IS_DEFAULT")
    assert (await change_group(api, default, name="default", description="d")).description == "d"
    await a_network(api, "another")
    request = networks_pb.DeleteNetworkRequest(network_id=network.id)
    await api.networks.DeleteNetwork(request)
    assert (await refused(delete(api, default.id))).reason == "SECURITY_GROUP_IS_DEFAULT"
    page = await api.networks.ListNetworks(networks_pb.ListNetworksRequest())
    request.network_id = page.networks[0].id
    await api.networks.DeleteNetwork(request)
    await delete(api, default.id)
    request_all = groups_pb.ListSecurityGroupsRequest()
    listed = await api.security_groups.ListSecurityGroups(request_all)
    assert [some.name for some in listed.security_groups] == ["other"]

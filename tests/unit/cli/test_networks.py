"""The nouns of networks: what they ask for, whom they mean, what they refuse."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import unkai
from tests.support.fake_networks import FakeNetworks
from unkai.event.v1 import event_pb2, event_service_pb2
from unkai.network.v1 import network_pb2, network_service_pb2, port_pb2, security_group_pb2
from unkai_wire import ids
from unkai_wire.errors import FailedPrecondition, Internal, Unavailable

OTHERS = "prj-0000000000000000000000000a"
GROUP = security_group_pb2.SecurityGroup
RULE = GROUP.Rule


@pytest.fixture
def back(networks: FakeNetworks) -> network_pb2.Network:
    """A network."""
    made: network_pb2.Network = networks.add("network", name="back")
    return made


def test_waiting_ends_when_ovn_has_followed(networks: FakeNetworks) -> None:
    networks.looks = 3
    assert unkai("network", "create", "back", "-o", "value=reconciling").out == "true\n"
    outcome = unkai("network", "create", "front", "--wait", "-o", "value=reconciling")
    assert (outcome.code, outcome.out) == (0, "false\n")
    assert "network front: OVN follows" in outcome.err


def test_waiting_that_is_too_long_says_that_the_change_stands(networks: FakeNetworks) -> None:
    networks.looks = 1_000_000
    outcome = unkai("network", "create", "back", "--wait", "--timeout", "20ms")
    assert outcome.code == 6
    assert "STILL_RECONCILING" in outcome.err
    assert "'unkai doctor'" in outcome.err
    assert [row.name for row in networks.all("network")] == ["back"]


def test_a_network_that_ovn_is_slow_with_has_all_its_subnets(networks: FakeNetworks) -> None:
    networks.looks = 1_000_000
    make = ("network", "create", "back", "--subnet", "10.0.0.0/24", "--subnet", "fd00::/64")
    outcome = unkai(*make, "--wait", "--timeout", "20ms")
    assert (outcome.code, "STILL_RECONCILING" in outcome.err) == (6, True)
    assert "was not" not in outcome.err
    assert [row.name for row in networks.all("subnet")] == ["back", "back-2"]


def test_waiting_outlasts_a_scheduler_that_is_away(networks: FakeNetworks) -> None:
    networks.looks = 1
    made = network_pb2.Network(id=ids.new_id("network"), name="back")
    away = [Unavailable("away")] * 7
    networks.api.script("GetNetwork", *away, network_service_pb2.GetNetworkResponse(network=made))
    outcome = unkai("network", "create", "back", "--wait", "-o", "value=reconciling")
    assert (outcome.code, outcome.out) == (0, "false\n")
    assert "trying again" in outcome.err


def test_a_watched_list_shows_a_change_that_fits_and_no_other(networks: FakeNetworks) -> None:
    seen = [networks.add("network", name=name, labels={"app": name}) for name in ("a", "b")]
    networks.api.script("ListEvents", event_service_pb2.ListEventsResponse(revision="1.5"))
    happened = [
        event_service_pb2.WatchEventsResponse(
            event=event_pb2.Event(resource_kind="network", resource_id=row.id), revision="1.6"
        )
        for row in seen
    ]
    networks.api.script("WatchEvents", [*happened, Internal("the test ends here")])
    outcome = unkai("network", "list", "-l", "app=b", "--watch", "-o", "name")
    assert outcome.out == "b\nb\n"


def test_a_name_means_the_projects_own_network_then_one_for_all(networks: FakeNetworks) -> None:
    networks.add("network", name="secret", project_id=OTHERS)
    networks.add("network", name="back", project_id=OTHERS, shared=True)
    outside = networks.add("network", name="outside", project_id=OTHERS, external=True)
    own = networks.add("network", name="back")
    assert unkai("network", "show", "back", "-o", "value=id").out.strip() == own.id
    assert unkai("network", "show", "outside", "-o", "value=id").out.strip() == outside.id
    refused = unkai("network", "delete", "secret")
    assert refused.code == 3
    assert "'unkai network list'" in refused.err


@pytest.mark.parametrize(
    "kind",
    ["network", "subnet", "port", "router", "floating-ip", "security-group", "load-balancer"],
)
def test_names_ids_and_their_beginnings_mean_the_same(kind: str, networks: FakeNetworks) -> None:
    its = {"cidr": "10.0.0.0/24"} if kind == "subnet" else {}
    made = networks.add(kind.replace("-", "_"), name="mine", **its)
    for word in ("mine", made.id, made.id[:-2]):
        assert unkai(kind, "show", word, "-o", "value=id").out.strip() == made.id, word
    assert unkai(kind, "show", "other").code == 3
    assert unkai(kind, "delete", "").code == 2
    assert unkai(kind, "rm", "mine").code == 0
    assert networks.all(kind.replace("-", "_")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("network", "create", "x", "--vlan", "4"),
        ("network", "create", "x", "--type", "flat"),
        ("network", "create", "x", "--type", "overlay", "--physical-network", "p"),
        ("network", "create", "x", "--subnet", "10.0.0.5/24"),
        ("network", "update", "back"),
        ("subnet", "create", "x", "10.0.0.0/24"),
        ("subnet", "create", "x", "10.0.0.0/24", "--network", "back", "--gateway", "first"),
        ("port", "create", "x", "--network", "back", "--mac", "02"),
        (
            *("port", "create", "x", "--network", "back", "--no-security-groups"),
            *("--security-group", "default"),
        ),
        ("router", "create", "x", "--no-snat"),
        ("floating-ip", "create", "--fixed-ip", "10.0.0.1"),
        ("security-group", "create", "x", "-r", "tcp 22"),
        ("load-balancer", "create", "x", "--subnet", "s", "--check"),
        ("load-balancer", "add-listener", "x", "http"),
        ("network", "why", "web", "db:http"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    words: tuple[str, ...], networks: FakeNetworks, back: network_pb2.Network
) -> None:
    before = networks.all("network")
    outcome = unkai(*words)
    assert outcome.code == 2, outcome
    assert networks.all("network") == before
    assert not any(name.startswith("Create") for name in networks.api.asked)


def test_what_somebody_else_changed_meanwhile_is_left_alone(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    def changed_since(request: object) -> object:
        answer = network_service_pb2.GetNetworkResponse(network=networks.one("network", "back"))
        networks.one("network", "back").etag = "theirs"
        return answer

    networks.api.script("GetNetwork", changed_since)
    outcome = unkai("network", "update", "back", "--mtu", "1400")
    assert (outcome.code, networks.one("network", "back").mtu) == (4, 1442)


def test_an_update_changes_nothing_that_was_not_named(networks: FakeNetworks) -> None:
    networks.add("network", name="back", mtu=1300, dns_domain="internal", labels={"a": "b"})
    assert unkai("network", "set", "back", "--domain", "lab").code == 0
    now = networks.one("network", "back")
    assert (now.mtu, now.dns_domain, dict(now.labels)) == (1300, "lab", {"a": "b"})


def test_a_limit_of_a_labelled_list_counts_what_is_shown(networks: FakeNetworks) -> None:
    for name in "abcd":
        networks.add("network", name=name, labels={"even": ""} if name in "bd" else {})
    assert unkai("network", "ls", "-l", "even", "-o", "name").out == "b\nd\n"
    assert unkai("network", "ls", "-l", "even", "--limit", "1", "-o", "name").out == "b\n"
    assert unkai("network", "ls", "-l", "even=no", "-o", "name").out == ""


def test_external_networks_are_listed_whosever_they_are(networks: FakeNetworks) -> None:
    networks.add("network", name="outside", project_id=OTHERS, external=True)
    networks.add("network", name="back")
    assert unkai("network", "list", "--external", "-o", "name").out == "outside\n"


def test_a_subnet_that_is_refused_leaves_a_network_and_says_so(networks: FakeNetworks) -> None:
    networks.api.script("CreateSubnet", FailedPrecondition("no", reason="OVERLAP"))
    outcome = unkai("network", "create", "back", "--subnet", "10.0.0.0/24")
    assert outcome.code == 4
    assert "network back was made, its subnet 10.0.0.0/24 was not" in outcome.err


def test_a_limit_of_one_way_leaves_the_others(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    qos = port_pb2.Port.Qos(egress_bits_per_s=5, ingress_bits_per_s=7)
    networks.add("port", name="front", network_id=back.id, qos=qos)
    assert unkai("port", "update", "front", "--egress-limit", "1k").code == 0
    now = networks.one("port", "front").qos
    assert (now.egress_bits_per_s, now.ingress_bits_per_s) == (1000, 7)


def test_a_port_takes_an_address_or_one_of_a_subnet(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    six = networks.add("subnet", name="six", network_id=back.id, cidr="fd00::/64")
    unkai("port", "create", "x", "--network", "back", "--ip", "10.0.0.9", "--ip", "six")
    asked = networks.api.asked["CreatePort"][0].port.fixed_addresses
    assert [(each.address, each.subnet_id) for each in asked] == [("10.0.0.9", ""), ("", six.id)]


def test_a_port_that_health_checks_come_from_says_so(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    subnet = networks.add("subnet", name="four", network_id=back.id, cidr="10.0.0.0/24")
    owner = port_pb2.Port.OWNER_LOAD_BALANCER
    networks.add("port", network_id=back.id, owner=owner, owner_id=subnet.id)
    assert "health checks four" in unkai("port", "list").out
    assert "health checks four" in unkai("network", "topology").out


def test_a_floating_address_in_use_is_moved_not_associated(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    first = networks.machine("web", back.id, "10.0.0.5")
    second = networks.machine("db", back.id, "10.0.0.6", "fd00::6")
    assert unkai("floating-ip", "create", "front", "--to", "web").code == 0
    assert networks.one("floating_ip", "front").port_id == first
    refused = unkai("floating-ip", "associate", "192.0.2.10", "db")
    assert refused.code == 4
    assert "'unkai floating-ip move 192.0.2.10 db'" in refused.err
    assert unkai("floating-ip", "move", "192.0.2.10", "db", "--fixed-ip", "10.0.0.6").code == 0
    now = networks.one("floating_ip", "front")
    assert (now.port_id, now.fixed_address) == (second, "10.0.0.6")
    assert unkai("floating-ip", "disassociate", "192.0.2.10").code == 0
    assert networks.one("floating_ip", "front").port_id == ""


def test_a_target_without_a_port_or_the_address_is_told_what_to_do(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    networks.add("instance", name="bare")
    networks.machine("web", back.id, "10.0.0.5")
    bare = unkai("floating-ip", "create", "--to", "bare")
    assert (bare.code, "'unkai port attach'" in bare.err) == (4, True)
    other = unkai("floating-ip", "create", "--to", "web", "--fixed-ip", "10.0.0.9")
    assert (other.code, "NO_SUCH_ADDRESS" in other.err) == (3, True)
    assert networks.all("floating_ip") == []


def test_a_name_of_several_kinds_is_refused_with_how_to_write_each(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    networks.machine("web", back.id, "10.0.0.5")
    port = networks.add("port", name="web", network_id=back.id)
    refused = unkai("floating-ip", "create", "--to", "web")
    assert refused.code == 2
    assert "write instance/web or port/web" in refused.err
    assert unkai("floating-ip", "create", "front", "--to", "port/web").code == 0
    assert networks.one("floating_ip", "front").port_id == port.id
    assert unkai("floating-ip", "create", "--to", "vm/web").code == 2
    assert unkai("floating-ip", "create", "--to", "nothing").code == 3


def test_a_rule_is_removed_by_its_words_or_the_beginning_of_its_id(
    networks: FakeNetworks,
) -> None:
    group = networks.add(
        "security_group",
        name="web",
        rules=[
            RULE(direction=GROUP.DIRECTION_INGRESS, protocol=GROUP.PROTOCOL_TCP, port_first=port)
            for port in (22, 80, 443)
        ],
    )
    ssh, http, https = (str(rule.id) for rule in group.rules)
    assert unkai("security-group", "rule", "remove", "web", "ingress", "tcp", "80").code == 0
    assert unkai("security-group", "rule", "remove", "web", "ingress tcp 80").code == 3
    assert unkai("security-group", "rule", "remove", "web", "sgr-").code == 2
    assert [rule.id for rule in networks.one("security_group", "web").rules] == [ssh, https]
    assert unkai("security-group", "rule", "remove", "web", ssh, https[:-1]).code == 0
    assert not networks.one("security_group", "web").rules
    assert http not in unkai("security-group", "rule", "list", "web").out


def test_short_words_mean_what_people_from_elsewhere_mean_by_them(networks: FakeNetworks) -> None:
    networks.add("security_group", name="web")
    assert unkai("sg", "rule", "create", "web", "in", "tcp", "80").code == 0
    assert unkai("sg", "rule", "ls", "web", "-o", "value=port_first").out == "80\n"
    assert unkai("sg", "rule", "rm", "web", "in", "tcp", "80").code == 0
    assert unkai("sg", "get", "web", "-o", "value=rules").out == "[]\n"
    assert [unkai(noun, "ls").code for noun in ("net", "fip", "lb")] == [0, 0, 0]


def test_a_group_that_says_what_goes_out_lets_nothing_else_out(networks: FakeNetworks) -> None:
    assert unkai("security-group", "create", "in", "-r", "ingress tcp 80").code == 0
    assert unkai("security-group", "create", "out", "-r", "egress tcp 80").code == 0
    assert len(networks.one("security_group", "in").rules) == 2
    assert len(networks.one("security_group", "out").rules) == 1


def test_a_wrong_rule_adds_none(networks: FakeNetworks) -> None:
    networks.add("security_group", name="web")
    outcome = unkai("security-group", "rule", "add", "web", "ingress", "tcp", "http")
    assert outcome.code == 2
    assert "INVALID_RULE" in outcome.err
    assert "AddSecurityGroupRule" not in networks.api.asked


def test_members_are_added_once_and_removed_by_name(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    subnet = networks.add("subnet", name="back", network_id=back.id, cidr="10.0.0.0/24")
    first = networks.machine("web-1", back.id, "10.0.0.5")
    second = networks.machine("web-2", back.id, "10.0.0.6")
    make = ("load-balancer", "create", "shop", "--subnet", subnet.id, "--listener", "80")
    assert unkai(*make, "-m", "web-1:8080", "--check").code == 0
    for _ in range(2):
        assert unkai("load-balancer", "add-member", "shop", "80", "web-2", "web-1:8080").code == 0
    (listener,) = networks.one("load_balancer", "shop").listeners
    assert listener.HasField("health_check")
    assert sorted((m.port_id, m.port_number) for m in listener.members) == sorted(
        [(first, 8080), (second, 0)]
    )
    assert unkai("load-balancer", "remove-member", "shop", "80", "web-1:8080").code == 0
    assert unkai("load-balancer", "remove-member", "shop", "80", "web-1").code == 3
    assert unkai("load-balancer", "remove-member", "shop", "81", "web-2").code == 3
    assert unkai("load-balancer", "add-listener", "shop", "80/tcp").code == 4
    (listener,) = networks.one("load_balancer", "shop").listeners
    assert [member.port_id for member in listener.members] == [second]


def test_a_router_is_made_with_its_subnets_before_its_routes(
    networks: FakeNetworks, back: network_pb2.Network
) -> None:
    networks.add("subnet", name="back", network_id=back.id, cidr="10.0.0.0/24")
    make = ("router", "create", "edge", "--subnet", "back", "--route", "10.9.0.0/16=10.0.0.7")
    shown = json.loads(unkai(*make, "-o", "json").out)
    assert shown[0]["routes"] == [{"destination": "10.9.0.0/16", "next_hop": "10.0.0.7"}]
    assert networks.api.asked["CreateRouter"][0].router.routes == []
    assert unkai("router", "remove-route", "edge", "10.8.0.0/16").code == 3


@pytest.mark.usefixtures("cloud")
def test_ports_that_no_host_holds_are_active() -> None:
    for words in ("network create back --subnet 10.1.0.0/24", "router create edge --subnet back"):
        assert unkai(*words.split()).code == 0
    assert unkai("port", "create", "eth0", "--network", "back").code == 0
    ports = json.loads(unkai("port", "list", "-o", "json").out)
    assert {port["owner"]: port["state"] for port in ports} == {
        "UNSPECIFIED": "DOWN",
        "ROUTER": "ACTIVE",
    }

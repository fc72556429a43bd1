"""What the nouns of networks print: a cloud of one of everything, in each format; and a story."""

from __future__ import annotations

import shlex

import pytest

from tests.support.command_line import check_golden, unkai
from tests.support.fake_networks import FakeNetworks, blocked
from tests.support.served_api import ServedApi
from unkai.network.v1 import (
    load_balancer_pb2,
    network_pb2,
    port_pb2,
    router_pb2,
    security_group_pb2,
)

FORMS = ("table", "wide", "json", "yaml", "name")
READS = {
    "network list": "",
    "network show": "back",
    "network topology": "",
    "network why": "web db:5432",
    "subnet list": "",
    "subnet show": "back",
    "port list": "",
    "port show": "db-0",
    "router list": "",
    "router show": "edge",
    "floating-ip list": "",
    "floating-ip show": "192.0.2.10",
    "security-group list": "",
    "security-group show": "db",
    "security-group rule list": "db",
    "load-balancer list": "",
    "load-balancer show": "shop",
}
"""Each command that changes nothing, with its arguments."""
_GROUP = security_group_pb2.SecurityGroup
_BALANCER = load_balancer_pb2.LoadBalancer


def furnish(cloud: FakeNetworks) -> None:
    """Put one of everything there."""
    outside = cloud.add(
        "network",
        name="outside",
        project_id="prj-0000000000000000000000000a",
        type=network_pb2.Network.TYPE_VLAN,
        physical_network="physnet1",
        vlan_id=40,
        external=True,
        mtu=1500,
    )
    cloud.add(
        "subnet",
        name="outside",
        project_id=outside.project_id,
        network_id=outside.id,
        cidr="192.0.2.0/24",
    )
    back = cloud.add("network", name="back", labels={"app": "shop"}, dns_domain="internal")
    four = cloud.add(
        "subnet",
        name="back",
        network_id=back.id,
        cidr="10.0.0.0/24",
        used_address_count=4,
        dns_servers=["10.0.0.53"],
    )
    six = cloud.add("subnet", name="back-6", network_id=back.id, cidr="fd00::/64")
    lonely = cloud.add("network", name="lonely")
    cloud.add("port", name="spare", network_id=lonely.id)
    web, db = (cloud.add("instance", name=name) for name in ("web", "db"))
    inner = cloud.add("security_group", name="web", port_count=1)
    group = cloud.add(
        "security_group",
        name="db",
        description="databases",
        port_count=1,
        rules=[
            _GROUP.Rule(direction=_GROUP.DIRECTION_EGRESS),
            _GROUP.Rule(
                direction=_GROUP.DIRECTION_INGRESS,
                protocol=_GROUP.PROTOCOL_TCP,
                port_first=22,
                port_last=22,
                ip_version=_GROUP.IP_VERSION_4,
                remote_cidr="192.0.2.0/24",
                description="operators",
            ),
            _GROUP.Rule(
                direction=_GROUP.DIRECTION_INGRESS,
                protocol=_GROUP.PROTOCOL_TCP,
                port_first=5432,
                port_last=5440,
                remote_group_id=inner.id,
            ),
        ],
    )
    plugged = {
        name: cloud.add(
            "port",
            name=f"{name}-0",
            network_id=back.id,
            fixed_addresses=[
                port_pb2.FixedAddress(subnet_id=four.id, address=f"10.0.0.{number}"),
                port_pb2.FixedAddress(subnet_id=six.id, address=f"fd00::{number}"),
            ],
            security_group_ids=[its.id],
            owner=port_pb2.Port.OWNER_INSTANCE,
            owner_id=instance.id,
            state=port_pb2.Port.STATE_ACTIVE,
            qos=port_pb2.Port.Qos(egress_bits_per_s=100_000_000),
        )
        for number, (name, instance, its) in enumerate((("web", web, inner), ("db", db, group)), 5)
    }
    router = cloud.add(
        "router",
        name="edge",
        gateway=router_pb2.Router.Gateway(
            network_id=outside.id, addresses=["192.0.2.2"], host_name="h1"
        ),
        interfaces=[
            router_pb2.Router.Interface(subnet_id=four.id, address="10.0.0.1"),
            router_pb2.Router.Interface(subnet_id=six.id, address="fd00::1"),
        ],
        routes=[router_pb2.Router.Route(destination="10.9.0.0/16", next_hop="10.0.0.7")],
    )
    cloud.add(
        "floating_ip",
        name="front",
        network_id=outside.id,
        port_id=plugged["web"].id,
        fixed_address="10.0.0.5",
        instance_id=web.id,
        router_id=router.id,
    )
    cloud.add("floating_ip", name="spare", network_id=outside.id)
    shop = cloud.add(
        "load_balancer",
        name="shop",
        subnet_id=four.id,
        listeners=[
            _BALANCER.Listener(
                protocol=_BALANCER.PROTOCOL_TCP,
                port_number=80,
                members=[
                    _BALANCER.Member(
                        port_id=plugged["web"].id,
                        port_number=8080,
                        address="10.0.0.5",
                        health=_BALANCER.Member.HEALTH_UP,
                    ),
                    _BALANCER.Member(
                        port_id=plugged["db"].id,
                        address="10.0.0.6",
                        health=_BALANCER.Member.HEALTH_DOWN,
                    ),
                ],
            )
        ],
    )
    cloud.add(
        "port",
        name="shop",
        network_id=back.id,
        owner=port_pb2.Port.OWNER_LOAD_BALANCER,
        owner_id=shop.id,
        fixed_addresses=[port_pb2.FixedAddress(subnet_id=four.id, address=shop.address)],
    )
    cloud.api.script("Explain", blocked())


@pytest.mark.parametrize("command", READS)
def test_a_reading_command_prints_as_its_golden_file_says(
    command: str, networks: FakeNetworks
) -> None:
    furnish(networks)
    told = []
    for form in FORMS:
        outcome = unkai(*command.split(), *READS[command].split(), "-o", form)
        assert outcome.code == (1 if command == "network why" else 0), outcome.err
        told.append(f"$ unkai {command} {READS[command]} -o {form}\n{outcome.out}{outcome.err}")
    check_golden(f"networks/{command.replace(' ', '-')}", "\n".join(told))


STORY = (
    "network create outside --physical-network physnet1 --external --subnet 192.0.2.0/24",
    "network create back --subnet 10.1.0.0/24 --mtu 1400 -l app=shop --wait",
    "network update back --domain internal --remove-label app",
    "network set back -l tier=back --name inner",
    "network list -l tier=back",
    "subnet create six fd00:1::/64 --network inner --ipv6-mode slaac --gateway none",
    "subnet update back --dns 10.1.0.53 --range 10.1.0.10-10.1.0.99 --route 10.9.0.0/16=10.1.0.9",
    "subnet list --network inner",
    "security-group create web -r 'ingress tcp 443' -r 'ingress icmp' --description fronts",
    "security-group create db",
    "security-group rule add db ingress tcp 5432 from group web --description queries",
    "security-group rule list db",
    "security-group rule remove db ingress tcp 5432 from group web",
    "security-group update db --name sql --rule 'egress udp 53'",
    "port create front --network inner --ip 10.1.0.20 --security-group web --egress-limit 1G",
    "port update front --allow 10.1.0.99 --no-security-groups",
    "port attach front web",
    "router create edge --gateway outside --gateway-ip 192.0.2.2 --subnet back",
    "router add-subnet edge six --ip fd00:1::1",
    "router add-route edge 10.9.0.0/16=10.1.0.7",
    "router remove-route edge 10.9.0.0/16",
    "router set-gateway edge outside --no-snat",
    "router update edge -l tier=edge",
    "floating-ip create front --network outside --to instance/web",
    "floating-ip disassociate front",
    "floating-ip associate front port/front",
    "floating-ip update front --name www",
    "port create spare --network inner",
    "floating-ip move www spare",
    "load-balancer create shop --subnet back --listener 80 -m web:8080 --check",
    "load-balancer add-listener shop 53/udp",
    "load-balancer add-member shop 53/udp spare web",
    "load-balancer remove-member shop 53/udp web",
    "load-balancer remove-listener shop 80",
    "load-balancer update shop -l app=shop",
    "load-balancer delete shop",
    "floating-ip delete www",
    "router clear-gateway edge",
    "router remove-subnet edge six",
    "router delete edge",
    "port detach front",
    "port delete front spare",
    "security-group delete web sql",
    "subnet delete six",
    "network delete inner",
)


def test_changing_commands_print_as_their_golden_file_says(
    networks: FakeNetworks,
) -> None:
    networks.add("instance", name="web")
    told = []
    for words in STORY:
        outcome = unkai(*shlex.split(words))
        told.append(f"$ unkai {words}\n{outcome.out}{outcome.err}")
        assert outcome.code == 0, told[-1]
    check_golden("networks/story", "".join(told))
    assert [row.name for row in networks.all("network")] == ["outside"]


def test_the_story_is_told_on_the_real_services_too(cloud: ServedApi) -> None:
    pytest.importorskip("unkai_scheduler.api.load_balancers")
    for words in STORY:
        if words.startswith(("port attach", "port detach")):
            continue  # needs an agent
        told = unkai(*shlex.split(_on_a_lone_port(words)))
        assert told.code == 0, f"{words}: {told.err}"
    assert unkai("network", "list", "-A", "-o", "name").out == "outside\n"


def _on_a_lone_port(words: str) -> str:
    """Name the port where the story names its instance; wait for no OVN: there is none."""
    words = words.replace(" --wait", "")
    if words.startswith("load-balancer"):
        return words.replace("web:", "front:").replace(" web", " front")
    return words.replace("instance/web", "port/front").replace("physnet1", "public")

"""The checker of networks is silent on a healthy cloud, and finds each kind of planted damage.

The store is filled by the real services; OVN's databases are real, filled by the product's own
derivation and translated by ovn-northd. What an ovn-controller would have said is written by hand.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import network_checker, raw_rows
from tests.support.acceptance import Shows
from tests.support.api import Api, an_api
from tests.support.builders import NOON, a_claim, a_host, an_instance
from tests.support.findings import Finding
from tests.support.network_api import a_call, read, settled
from tests.support.network_calls import a_group, a_network, a_port, a_rule, a_subnet
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import HostSight, Sight
from tests.support.ovn_databases import OvnDatabases
from tests.support.ovn_members import applied, until_reached
from tests.support.ovsdb_look import members
from tests.support.routing_calls import a_floating_ip, a_load_balancer, a_way_out
from tests.support.sights import uuid_of
from tests.unit.scheduler.services.test_ovn_follows import the_view
from unkai.network.v1 import port_pb2, security_group_pb2, subnet_pb2
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.networks import NetworkType
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.ovn.northbound.units import keys_of, unit_of_key
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.settings import OvnSettings
from unkai_scheduler.services.networks import NetworkDraft
from unkai_scheduler.store import claims, hosts, instances, ports

Group = security_group_pb2.SecurityGroup


@dataclass
class Cloud:
    """A small cloud with everything in it, and what a test does to it behind its back."""

    api: Api
    ovn: OvnDatabases
    northbound: OvnNorthbound
    host: str = ""
    idle_host: str = ""
    web: str = ""
    """A port of a running instance."""
    free: str = ""
    network: str = ""
    subnet: str = ""
    group: str = ""
    router: str = ""
    floating: str = ""
    balancer: str = ""
    namespaces: set[str] = field(default_factory=set)

    async def derive(self) -> None:
        """Let OVN have all that the store says, and settle it."""
        view = replace(
            await read(self.api, the_view),
            claims=await read(self.api, _claims),
            gateway_hosts={"public": frozenset({self.host, self.idle_host})},
        )
        units = [unit_of_key(view, key) for key in keys_of(view)]
        await applied(self.northbound, 1, units)
        await settled(self.api)

    def sql(self, *statements: str) -> None:
        """Change rows as nobody should."""
        with closing(sqlite3.connect(self.api.folder / "unkai.db", timeout=30)) as db, db:
            for statement in statements:
                db.execute(statement)

    def look(self) -> Sight:
        northbound, southbound, switch = self.ovn.see()
        return Sight(
            raw_rows.read_tables(f"sqlite:///{self.api.folder / 'unkai.db'}"),
            northbound,
            southbound,
            [HostSight(self.host, switch, self.namespaces)],
            {"public": {self.host, self.idle_host}},
        )

    def check(self) -> list[Finding]:
        return network_checker.check(self.look())

    # What an ovn-controller and an agent do.

    def bind(self, port_id: str, host: str) -> None:
        """Let a chassis have a port, which is up there."""
        name = uuid_of(port_id)
        self.ovn.sbctl("lsp-bind", name, host, "--", "set", "Port_Binding", name, "up=true")

    def plug(self, device: str, iface: str) -> None:
        """Plug a device into the switch, which has opened it."""
        row = f"external_ids:iface-id={iface}"
        self.ovn.vsctl(
            *("--", "add-port", "br-int", device, "--", "set", "Interface", device, row),
            *("external_ids:ovn-installed=true", "ofport=7"),
        )

    def wire(self) -> None:
        """Let the southbound database and the switch be as they are while the instance runs."""
        self.ovn.nbctl("--wait=sb", "sync")
        self.ovn.sbctl("--if-exists", "chassis-del", "stranger")
        for port_id in (self.web, self.free):
            self.ovn.sbctl("lsp-unbind", uuid_of(port_id))
            self.ovn.sbctl("set", "Port_Binding", uuid_of(port_id), "up=false")
        self.bind(self.web, self.host)
        self.ovn.vsctl("del-br", "br-int", "--", "add-br", "br-int")
        self.plug(f"tap{self.web[-12:]}", uuid_of(self.web))
        self.plug(f"um{self.network[-12:]}", f"meta-{uuid_of(self.network)}")

    def unplug(self, device: str) -> None:
        self.ovn.vsctl("del-port", "br-int", device)


def _claims(conn: Any) -> dict[str, str]:
    return {
        row.instance_id: row.host_id
        for row in conn.exec_driver_sql("SELECT instance_id, host_id FROM claims")
    }


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    ovn = OvnDatabases(tmp_path)
    try:
        await asyncio.to_thread(ovn.start)
        northbound = OvnNorthbound(OvnSettings((f"unix:{ovn.northbound.socket}",)))
        northbound.start()
        try:
            await until_reached(northbound)
            async with an_api(tmp_path / "a") as api:
                made = Cloud(api, ovn, northbound)
                await _fill(made)
                yield made
        finally:
            await northbound.close()
    finally:
        await asyncio.to_thread(ovn.stop)


async def _fill(cloud: Cloud) -> None:
    """Make networks with all that they can have, two hosts, an instance that runs."""
    api = cloud.api
    group = await a_group(
        api,
        rules=[
            a_rule(),
            a_rule(protocol=Group.PROTOCOL_UDP, port_first=5000, port_last=5010),
            a_rule(protocol=Group.PROTOCOL_ICMP, port_first=0, icmp_type=8),
            a_rule(remote_cidr="192.0.2.0/24", port_first=1, port_last=65535),
        ],
    )
    blue, green = await a_network(api, "blue"), await a_network(api, "green", mtu=1400)
    on_blue = await a_subnet(api, blue.id, "10.0.0.0/24", dns_servers=["9.9.9.9"])
    six = await a_subnet(api, blue.id, "fd00::/64")
    on_green = await a_subnet(
        api,
        green.id,
        "10.0.1.0/24",
        host_routes=[subnet_pb2.Subnet.HostRoute(destination="172.16.0.0/12", next_hop="10.0.1.9")],
    )
    draft = NetworkDraft(
        name="outside", type=NetworkType.VLAN, physical_network="public", vlan_id=9, external=True
    )
    outside = await api.services.networks.create(a_call(), "", draft)
    await a_subnet(api, outside.id, "203.0.113.0/24", no_dhcp=True)
    router = await a_way_out(api, outside.id, on_blue.id, six.id, on_green.id)
    qos = port_pb2.Port.Qos(egress_bits_per_s=10_000_000, ingress_bits_per_s=1_500)
    pair = port_pb2.AddressPair(cidr="10.8.0.0/16", mac_address="02:00:00:00:01:01")
    web = await a_port(api, blue.id, security_group_ids=[group.id], qos=qos)
    free = await a_port(api, green.id, allowed_address_pairs=[pair])
    await a_port(api, green.id, no_security_groups=True)
    await a_port(api, green.id, no_anti_spoofing=True)
    floating = await a_floating_ip(api, network_id=outside.id, port_id=web.id)
    balancer = await a_load_balancer(api, on_blue.id, web.id)
    (balanced,) = await read(api, lambda conn: ports.of_owner(conn, balancer.id))
    await a_floating_ip(api, network_id=outside.id, port_id=balanced.id)
    here, idle = a_host(), a_host()
    instance = an_instance(state=InstanceState.RUNNING)

    def run(conn: Any) -> None:
        for host in (here, idle):
            hosts.insert(conn, host)
        instances.insert(conn, instance)
        claims.insert(conn, [a_claim(instance, here)])
        port = ports.get(conn, web.id)
        assert port is not None
        owned = replace(port, owner=PortOwner.INSTANCE, owner_id=instance.id)
        ports.replace(conn, owned, etag=None)

    await api.lead(run)
    cloud.host, cloud.idle_host = here.id, idle.id
    cloud.web, cloud.free, cloud.network, cloud.subnet = web.id, free.id, blue.id, on_blue.id
    cloud.group, cloud.router, cloud.floating = group.id, router.id, floating.id
    cloud.balancer = balancer.id
    await cloud.derive()
    cloud.ovn.nbctl("--wait=sb", "sync")
    for host in (here.id, idle.id):
        cloud.ovn.sbctl(
            "chassis-add", host, "geneve", "192.0.2.1" if host == here.id else "192.0.2.2"
        )
    cloud.wire()
    cloud.namespaces = {f"unkai-{blue.id}"}


Damage = Callable[[Cloud], Any]
PLANTS: dict[str, tuple[Kind, Damage]] = {}


def plants(kind: Kind) -> Callable[[Damage], Damage]:
    """Note a damage by what the checker must call it."""

    def note(damage: Damage) -> Damage:
        PLANTS[damage.__name__] = (kind, damage)
        return damage

    return note


# The store.


@plants(Kind.ADDRESS_ASTRAY)
def an_address_beyond_its_subnet(cloud: Cloud) -> None:
    cloud.sql(f"UPDATE addresses SET address = '0a090909' WHERE port_id = '{cloud.free}'")


@plants(Kind.ROW_DANGLING)
def a_port_of_an_instance_that_is_gone(cloud: Cloud) -> None:
    cloud.sql(f"UPDATE ports SET owner_kind='INSTANCE', owner_id='ins-x' WHERE id='{cloud.free}'")


@plants(Kind.WORK_LEFT)
def work_that_nobody_did(cloud: Cloud) -> None:
    cloud.sql(f"INSERT INTO ovn_work VALUES ('port', '{cloud.web}', 1, '{NOON}', 3, 'made')")


@plants(Kind.TOMBSTONE_AT_ODDS)
def a_tombstone_of_the_living(cloud: Cloud) -> None:
    cloud.sql(f"INSERT INTO ovn_tombstones VALUES ('port', '{cloud.web}', '{NOON}')")


@plants(Kind.UNIT_OF_NOTHING)
def a_port_that_only_ovn_has(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lsp-add", uuid_of(cloud.network), "ghost")
    cloud.ovn.nbctl("set", "Logical_Switch_Port", "ghost", "external_ids:unkai_unit=port:prt-x")


# The northbound database.


@plants(Kind.SWITCH_AT_ODDS)
def a_switch_of_another_name(cloud: Cloud) -> None:
    cloud.ovn.nbctl("set", "Logical_Switch", uuid_of(cloud.network), "name=else")


@plants(Kind.SWITCH_AT_ODDS)
def a_second_switch_of_a_network(cloud: Cloud) -> None:
    unit = f'external_ids:unkai_unit="network:{cloud.network}"'
    cloud.ovn.nbctl("--", "create", "Logical_Switch", "name=twin", unit)


@plants(Kind.PORT_AT_ODDS)
def a_port_deleted(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lsp-del", uuid_of(cloud.free))


@plants(Kind.PORT_AT_ODDS)
def a_port_with_another_mac(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lsp-set-addresses", uuid_of(cloud.free), "02:00:00:00:00:0a 10.0.1.77")


@plants(Kind.PORT_AT_ODDS)
def a_port_for_another_host(cloud: Cloud) -> None:
    name = uuid_of(cloud.web)
    option = f"requested-chassis={cloud.idle_host}"
    cloud.ovn.nbctl("lsp-set-options", name, option)


@plants(Kind.PORT_AT_ODDS)
def a_port_open_that_nothing_is_plugged_into(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lsp-set-enabled", uuid_of(cloud.free), "enabled")


@plants(Kind.PORT_AT_ODDS)
def a_port_without_dhcp(cloud: Cloud) -> None:
    cloud.ovn.nbctl("clear", "Logical_Switch_Port", uuid_of(cloud.web), "dhcpv4_options")


@plants(Kind.PORT_AT_ODDS)
def the_way_to_another_vlan(cloud: Cloud) -> None:
    for row in cloud.ovn.see()[0]["Logical_Switch_Port"]:
        if row["type"] == "localnet":
            cloud.ovn.nbctl("set", "Logical_Switch_Port", row["_uuid"], "tag=10", "tag_request=10")


@plants(Kind.SECURITY_AT_ODDS)
def a_port_that_may_spoof(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lsp-set-port-security", uuid_of(cloud.web))


@plants(Kind.SECURITY_AT_ODDS)
def a_port_that_may_send_from_more(cloud: Cloud) -> None:
    (row,) = _named(cloud, "Logical_Switch_Port", uuid_of(cloud.web))
    allowed = f"{next(iter(members(row['port_security'])))} 10.0.0.99"
    cloud.ovn.nbctl("lsp-set-port-security", uuid_of(cloud.web), allowed)


@plants(Kind.GROUP_AT_ODDS)
def a_port_out_of_its_group(cloud: Cloud) -> None:
    cloud.ovn.nbctl("clear", "Port_Group", _pg(cloud.group), "ports")


@plants(Kind.RULES_AT_ODDS)
def a_rule_taken_away(cloud: Cloud) -> None:
    (row,) = _named(cloud, "Port_Group", _pg(cloud.group))
    cloud.ovn.nbctl("remove", "Port_Group", _pg(cloud.group), "acls", min(members(row["acls"])))


@plants(Kind.RULES_AT_ODDS)
def a_rule_that_lets_all_in(cloud: Cloud) -> None:
    match = f"outport == @{_pg(cloud.group)} && ip4"
    cloud.ovn.nbctl("acl-add", _pg(cloud.group), "to-lport", "1002", match, "allow-related")


@plants(Kind.DROP_AT_ODDS)
def a_port_that_nothing_drops(cloud: Cloud) -> None:
    (row,) = _named(cloud, "Logical_Switch_Port", uuid_of(cloud.web))
    cloud.ovn.nbctl("remove", "Port_Group", "unkai_drop", "ports", row["_uuid"])


@plants(Kind.DROP_AT_ODDS)
def the_last_word_unsaid(cloud: Cloud) -> None:
    cloud.ovn.nbctl("acl-del", "unkai_drop", "to-lport", "1000", "outport == @unkai_drop && ip")


@plants(Kind.DROP_AT_ODDS)
def a_door_for_everybody(cloud: Cloud) -> None:
    cloud.ovn.nbctl("acl-add", "unkai_drop", "to-lport", "1010", "ip4 && tcp.dst == 80", "allow")


@plants(Kind.DHCP_AT_ODDS)
def guests_told_another_mtu(cloud: Cloud) -> None:
    cloud.ovn.nbctl("set", "DHCP_Options", _dhcp(cloud), "options:mtu=9000")


@plants(Kind.DHCP_AT_ODDS)
def guests_told_nothing(cloud: Cloud) -> None:
    cloud.ovn.nbctl("dhcp-options-del", _dhcp(cloud))


@plants(Kind.LIMIT_AT_ODDS)
def a_limit_lifted(cloud: Cloud) -> None:
    cloud.ovn.nbctl("qos-del", uuid_of(cloud.network))


@plants(Kind.ROUTER_AT_ODDS)
def a_router_off_a_subnet(cloud: Cloud) -> None:
    rows = _named(cloud, "Logical_Router_Port", None)
    port = next(row["name"] for row in rows if "10.0.0.1/24" in members(row["networks"]))
    cloud.ovn.nbctl("lrp-del", port)


@plants(Kind.ROUTER_AT_ODDS)
def a_way_out_on_one_host_alone(cloud: Cloud) -> None:
    group = uuid_of(cloud.router)
    cloud.ovn.nbctl("ha-chassis-group-remove-chassis", group, cloud.host)


@plants(Kind.ROUTE_AT_ODDS)
def a_route_to_somewhere(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lr-route-add", uuid_of(cloud.router), "198.51.100.0/24", "10.0.0.77")


@plants(Kind.ROUTE_AT_ODDS)
def no_way_out(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lr-route-del", uuid_of(cloud.router), "0.0.0.0/0")


@plants(Kind.NAT_AT_ODDS)
def a_floating_address_that_leads_elsewhere(cloud: Cloud) -> None:
    rows = [row for row in cloud.ovn.see()[0]["NAT"] if row["type"] == "dnat_and_snat"]
    cloud.ovn.nbctl("set", "NAT", rows[0]["_uuid"], "logical_ip=10.0.0.99")


@plants(Kind.NAT_AT_ODDS)
def nobody_hidden(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lr-nat-del", uuid_of(cloud.router), "snat")


@plants(Kind.BALANCER_AT_ODDS)
def a_member_too_many(cloud: Cloud) -> None:
    name = f"{uuid_of(cloud.balancer)}-tcp"
    (row,) = _named(cloud, "Load_Balancer", name)
    vip = next(iter(row["vips"]))
    cloud.ovn.nbctl("set", "Load_Balancer", name, f'vips:"{vip}"="10.0.0.99:80"')


@plants(Kind.BALANCER_AT_ODDS)
def a_balancer_off_its_router(cloud: Cloud) -> None:
    cloud.ovn.nbctl("lr-lb-del", uuid_of(cloud.router))


@plants(Kind.BALANCER_AT_ODDS)
def members_no_more_looked_after(cloud: Cloud) -> None:
    name = f"{uuid_of(cloud.balancer)}-tcp"
    cloud.ovn.nbctl("clear", "Load_Balancer", name, "health_check")


@plants(Kind.GIVEN_TWICE)
def an_address_that_two_ports_have(cloud: Cloud) -> None:
    (row,) = _named(cloud, "Logical_Switch_Port", uuid_of(cloud.web))
    words = next(iter(members(row["addresses"]))).split()
    cloud.ovn.nbctl("lsp-add", uuid_of(cloud.network), "foreign")
    twice = f'addresses="02:00:00:00:00:0b {words[1]}"'
    cloud.ovn.nbctl("set", "Logical_Switch_Port", "foreign", twice)


# The southbound database.


@plants(Kind.CHASSIS_OF_NOBODY)
def a_chassis_that_is_no_host(cloud: Cloud) -> None:
    cloud.ovn.sbctl("chassis-add", "stranger", "geneve", "192.0.2.99")


@plants(Kind.BINDING_AT_ODDS)
def a_port_bound_elsewhere(cloud: Cloud) -> None:
    cloud.ovn.sbctl("lsp-unbind", uuid_of(cloud.web))
    cloud.bind(cloud.web, cloud.idle_host)


@plants(Kind.BINDING_AT_ODDS)
def a_port_bound_that_nobody_runs(cloud: Cloud) -> None:
    cloud.bind(cloud.free, cloud.host)


# The host.


@plants(Kind.OVS_PORT_OF_NOBODY)
def a_tap_of_a_machine_that_is_gone(cloud: Cloud) -> None:
    cloud.plug(f"tap{cloud.free[-12:]}", uuid_of(cloud.free))


@plants(Kind.OVS_PORT_OF_NOBODY)
def a_tap_that_says_nothing(cloud: Cloud) -> None:
    cloud.ovn.vsctl("add-port", "br-int", "tap000000000000")


@plants(Kind.OVS_PORT_MISSING)
def a_machine_unplugged(cloud: Cloud) -> None:
    cloud.unplug(f"tap{cloud.web[-12:]}")


@plants(Kind.OVS_PORT_TWICE)
def two_taps_that_claim_to_be_one(cloud: Cloud) -> None:
    cloud.plug("tap111111111111", uuid_of(cloud.web))


@plants(Kind.OVS_PORT_BROKEN)
def a_tap_without_its_device(cloud: Cloud) -> None:
    cloud.ovn.vsctl("set", "Interface", f"tap{cloud.web[-12:]}", "ofport=-1")


@plants(Kind.OVS_PORT_BROKEN)
def a_tap_that_ovn_has_not_installed(cloud: Cloud) -> None:
    device = f"tap{cloud.web[-12:]}"
    cloud.ovn.vsctl("remove", "Interface", device, "external_ids", "ovn-installed")


@plants(Kind.NAMESPACE_LEFT)
def a_namespace_that_nobody_is_on(cloud: Cloud) -> None:
    cloud.namespaces.add("unkai-net-00000000000000000000000000")


@plants(Kind.NAMESPACE_MISSING)
def a_network_without_its_namespace(cloud: Cloud) -> None:
    cloud.namespaces = set()


@plants(Kind.HOST_UNSEEN)
def a_machine_where_nobody_looked(cloud: Cloud) -> None:
    cloud.sql(f"UPDATE claims SET host_id = '{cloud.idle_host}'")


def _named(cloud: Cloud, table: str, name: str | None) -> list[Any]:
    return [row for row in cloud.ovn.see()[0][table] if name is None or row["name"] == name]


def _pg(group_id: str) -> str:
    return "pg_" + uuid_of(group_id).replace("-", "_")


def _dhcp(cloud: Cloud) -> str:
    (row,) = [r for r in cloud.ovn.see()[0]["DHCP_Options"] if r["cidr"] == "10.0.0.0/24"]
    return str(row["_uuid"])


async def test_a_healthy_cloud_has_nothing_to_find(cloud: Cloud) -> None:
    assert await asyncio.to_thread(cloud.check) == []


async def test_each_planted_damage_is_found(cloud: Cloud, shows: Shows) -> None:
    store = cloud.api.folder / "unkai.db"
    await cloud.api.uow.close()
    rows, namespaces = store.read_bytes(), set(cloud.namespaces)
    snapshot = await asyncio.to_thread(cloud.ovn.snapshot)
    for name, (kind, damage) in PLANTS.items():
        await asyncio.to_thread(damage, cloud)

        found = await asyncio.to_thread(cloud.check)

        assert kind in {finding.kind for finding in found}, (name, [str(each) for each in found])
        store.write_bytes(rows)
        cloud.namespaces = set(namespaces)
        await asyncio.to_thread(cloud.ovn.restore, snapshot)
        await asyncio.to_thread(cloud.wire)
    assert await asyncio.to_thread(cloud.check) == []
    shows(
        "networks 5 checker",
        f"{len(PLANTS)} kinds of planted damage found, none in a healthy cloud",
    )


def test_each_kind_is_planted() -> None:
    assert {kind for kind, _ in PLANTS.values()} == set(Kind)

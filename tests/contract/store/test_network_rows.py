"""What the repositories of networks promise: rows come back whole, and say who names whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection, event

from tests.support.builders import DEFAULT_PROJECT_ID, NOON, a_project, an_etag, an_id
from tests.support.networks import (
    a_floating_ip,
    a_group,
    a_load_balancer,
    a_network,
    a_router,
    a_rule,
    a_subnet,
    add_network,
    add_port,
    planted_floating_ip,
    planted_group,
    planted_load_balancer,
    planted_network,
    planted_port,
    planted_router,
    planted_subnet,
)
from unkai_scheduler.domain.load_balancers import (
    BalancedProtocol,
    HealthCheck,
    Listener,
    LoadBalancer,
    Member,
)
from unkai_scheduler.domain.networks import HostRoute, Ipv6Mode, Network, NetworkType, Subnet
from unkai_scheduler.domain.ports import AddressPair, Port, PortOwner, PortState, Qos
from unkai_scheduler.domain.routers import FloatingIp, Gateway, Route, Router, RouterInterface
from unkai_scheduler.domain.security_groups import Direction, Protocol, SecurityGroup
from unkai_scheduler.store import (
    addresses,
    floating_ips,
    load_balancers,
    networks,
    ovn_work,
    ports,
    projects,
    routers,
    security_groups,
    subnets,
)
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import AlreadyExists, Conflict, FailedPrecondition, NotFound
from unkai_wire.ids import PREFIXES

NOUNS: list[tuple[ModuleType, Any]] = [
    (networks, planted_network),
    (subnets, planted_subnet),
    (ports, planted_port),
    (security_groups, planted_group),
    (routers, planted_router),
    (floating_ips, planted_floating_ip),
    (load_balancers, planted_load_balancer),
]
each_noun = pytest.mark.parametrize(("noun", "planted"), NOUNS)
NAMES = [f"zz-{n}" for n in (3, 1, 2)]


@each_noun
async def test_a_row_is_found_listed_replaced_and_deleted(
    uow: UnitOfWork, noun: ModuleType, planted: Any
) -> None:
    row = await uow.write(lambda conn: planted(conn, name="sought"))
    await uow.write(lambda conn: noun.insert(conn, row))
    renamed = replace(row, name="zz-renamed", etag="second", labels={"a": "b"})

    def read(conn: Connection, name: str) -> list[Any]:
        return [
            noun.get(conn, row.id),
            *noun.list_page(conn, after=None, limit=9, name=name, project_id=DEFAULT_PROJECT_ID),
            *noun.list_some(conn, [row.id, an_id("network")]),
            noun.locked(conn, row.id),
        ]

    assert await uow.write(lambda conn: read(conn, "sought")) == [row] * 4
    await uow.write(lambda conn: noun.replace(conn, renamed, etag=row.etag))
    assert await uow.write(lambda conn: read(conn, "zz-renamed")) == [renamed] * 4
    assert await uow.read(lambda conn: noun.count_by_project(conn, DEFAULT_PROJECT_ID)) >= 1
    for _ in range(2):
        await uow.write(lambda conn: noun.delete(conn, row.id))
    assert await uow.read(lambda conn: noun.get(conn, row.id)) is None


@each_noun
async def test_names_are_unique_in_a_project_and_pages_follow_them(
    uow: UnitOfWork, noun: ModuleType, planted: Any
) -> None:
    other = a_project()

    def fill(conn: Connection) -> list[Any]:
        projects.insert(conn, other)
        made = [planted(conn, name=name) for name in NAMES]
        made.append(planted(conn, name="zz-1", project_id=other.id))
        for row in made:
            noun.insert(conn, row)
        return made

    made = await uow.write(fill)
    with pytest.raises(AlreadyExists) as inserting:
        await uow.write(lambda conn: noun.insert(conn, planted(conn, name="zz-1")))
    with pytest.raises(AlreadyExists) as renaming:
        await uow.write(lambda conn: noun.replace(conn, replace(made[0], name="zz-1"), etag=None))
    first = await uow.read(lambda conn: noun.list_page(conn, after=["zz", ""], limit=2))
    key = [first[-1].name, first[-1].id]
    rest = await uow.read(lambda conn: noun.list_page(conn, after=key, limit=9))

    assert inserting.value.resource == renaming.value.resource == "zz-1"
    assert [row.name for row in first + rest] == ["zz-1", "zz-1", "zz-2", "zz-3"]
    found = await uow.read(
        lambda conn: noun.list_page(conn, after=None, limit=9, name="zz-1", project_id=other.id)
    )
    assert found == [made[-1]]


async def test_a_row_that_moved_or_went_is_not_replaced(uow: UnitOfWork) -> None:
    def fill(conn: Connection) -> list[tuple[ModuleType, Any, Any]]:
        rows = []
        for noun, planted in NOUNS:
            row, missing = planted(conn), planted(conn)
            noun.insert(conn, row)
            noun.replace(conn, replace(row, etag="second"), etag=row.etag)
            rows.append((noun, row, missing))
        return rows

    for noun, row, missing in await uow.write(fill):
        with pytest.raises(Conflict) as moved:
            await uow.write(lambda conn, n=noun, r=row: n.replace(conn, r, etag=r.etag))
        with pytest.raises(NotFound):
            await uow.write(lambda conn, n=noun, r=missing: n.replace(conn, r, etag=None))
        assert moved.value.reason == "ETAG_MISMATCH", noun.__name__


async def test_what_is_among_the_work_on_ovn_reconciles(uow: UnitOfWork) -> None:
    def fill(conn: Connection) -> list[tuple[ModuleType, str, Any]]:
        rows = []
        for noun, planted in NOUNS:
            row = planted(conn, name="zz-row")
            noun.insert(conn, row)
            kind = next(kind for kind, prefix in PREFIXES.items() if row.id[:3] == prefix)
            rows.append((noun, f"{kind}:{row.id}", row))
        return rows

    def read(conn: Connection) -> list[list[Any]]:
        def listed(noun: ModuleType) -> list[Any]:
            page: list[Any] = noun.list_page(conn, after=None, limit=9, name="zz-row")
            return page

        return [[noun.get(conn, row.id), *listed(noun)] for noun, _, row in rows]

    rows = await uow.write(fill)
    before = await uow.read(read)
    await uow.write(lambda conn: ovn_work.mark(conn, [key for _, key, _ in rows], NOON, "made"))
    marked = await uow.read(read)
    work = await uow.read(lambda conn: ovn_work.due(conn, NOON, 99))
    await uow.write(lambda conn: ovn_work.settle(conn, [(w.key, w.number) for w in work]))

    assert before == [[row, row] for _, _, row in rows]
    assert marked == [[replace(row, reconciling=True)] * 2 for _, _, row in rows]
    assert await uow.read(read) == before


async def both_ways(uow: UnitOfWork, noun: ModuleType, plain: Any, full: Any) -> None:
    """Show that a full row comes back, inserted or written over a plain one."""
    await uow.write(lambda conn: noun.insert(conn, full))
    assert await uow.read(lambda conn: noun.get(conn, full.id)) == full
    await uow.write(lambda conn: noun.replace(conn, plain, etag=None))
    assert await uow.read(lambda conn: noun.get(conn, full.id)) == plain
    await uow.write(lambda conn: noun.replace(conn, full, etag=None))
    assert await uow.read(lambda conn: noun.get(conn, full.id)) == full


async def test_a_full_network_comes_back(uow: UnitOfWork) -> None:
    full = a_network(
        type=NetworkType.VLAN,
        physical_network="datacenter",
        vlan_id=4094,
        external=True,
        shared=True,
        is_default=True,
        mtu=9000,
        dns_domain="example.org",
        labels={"team": "雲海"},
    )
    await both_ways(uow, networks, a_network(id=full.id), full)


async def test_a_full_subnet_comes_back(uow: UnitOfWork) -> None:
    plain = await uow.write(planted_subnet)
    full = replace(
        plain,
        cidr="fd00::/64",
        gateway_address="",
        ranges=(*a_subnet(a_network(), "fd00::/66").ranges, *plain.ranges),
        dhcp=False,
        ipv6_mode=Ipv6Mode.DHCPV6_STATELESS,
        dns_servers=("fd00::53", "9.9.9.9"),
        host_routes=(HostRoute("10.9.0.0/16", "10.0.0.9"),),
        labels={"a": "b"},
        etag=an_etag(),
    )
    await both_ways(uow, subnets, plain, full)


async def test_a_full_port_comes_back(uow: UnitOfWork) -> None:
    plain = await uow.write(planted_port)
    groups = [a_group(), a_group()]

    def fill(conn: Connection) -> None:
        for group in groups:
            security_groups.insert(conn, group)

    await uow.write(fill)
    full = replace(
        plain,
        security_group_ids=(groups[1].id, groups[0].id),
        pairs=(AddressPair("10.9.0.0/16"), AddressPair("fd00::/64", "02:00:00:00:00:01")),
        anti_spoofing=False,
        qos=Qos(1 << 40, 2, 3, 4),
        owner=PortOwner.INSTANCE,
        owner_id=an_id("instance"),
        position=3,
        delete_with_owner=True,
        state=PortState.ACTIVE,
        labels={"a": "b"},
        etag=an_etag(),
    )
    await both_ways(uow, ports, plain, full)
    turned = replace(full, security_group_ids=(groups[0].id, groups[1].id))
    await uow.write(lambda conn: ports.replace(conn, turned, etag=None))
    assert await uow.read(lambda conn: ports.get(conn, full.id)) == turned


async def test_a_full_group_comes_back_and_a_rule_keeps_its_row(uow: UnitOfWork) -> None:
    plain, other = a_group(), a_group()
    await uow.write(lambda conn: security_groups.insert(conn, other))
    full = replace(
        plain,
        description="front",
        rules=(
            a_rule(),
            a_rule(
                direction=Direction.EGRESS,
                ip_version=6,
                protocol=Protocol.TCP,
                port_first=1,
                port_last=65535,
                remote_cidr="fd00::/64",
                description="web",
            ),
            a_rule(protocol=Protocol.ICMP, icmp_type=0, icmp_code=0, remote_group_id=other.id),
            a_rule(remote_group_id=plain.id),
        ),
        labels={"a": "b"},
        etag=an_etag(),
    )
    await both_ways(uow, security_groups, plain, full)
    last = full.rules[-1]
    fewer = replace(full, rules=(a_rule(protocol=Protocol.UDP), last, full.rules[0]))
    await uow.write(lambda conn: security_groups.replace(conn, fewer, etag=None))

    assert await uow.read(lambda conn: security_groups.get(conn, full.id)) == fewer
    assert await uow.read(lambda conn: security_groups.of_rule(conn, last.id)) == full.id
    assert await uow.read(lambda conn: security_groups.of_rule(conn, full.rules[1].id)) is None


async def test_a_full_router_comes_back_with_what_its_ports_say(uow: UnitOfWork) -> None:
    plain = a_router()

    def fill(conn: Connection) -> Router:
        outside, outer_id = add_network(conn, "192.0.2.0/24")
        inside, inner_id = add_network(conn, "10.1.0.0/24")
        second = a_subnet(inside, "fd00::/64")
        subnets.insert(conn, second)
        gateway = add_port(conn, outside, outer_id)
        place = add_port(conn, inside, second.id, inner_id)
        interfaces = [RouterInterface(a.subnet_id, place.id, a.address) for a in place.addresses]
        return replace(
            plain,
            gateway=Gateway(outside.id, gateway.id, ("192.0.2.2",), snat=False),
            interfaces=tuple(interfaces),
            routes=(Route("10.8.0.0/16", "10.1.0.9"),),
            labels={"a": "b"},
            etag=an_etag(),
        )

    full = await uow.write(fill)

    assert [some.address for some in full.interfaces] == ["fd00::2", "10.1.0.2"]
    await both_ways(uow, routers, plain, full)
    found = await uow.read(
        lambda conn: (
            routers.leading_out(conn, full.interfaces[1].subnet_id, full.gateway.network_id)
            if full.gateway
            else None
        )
    )
    elsewhere = await uow.read(
        lambda conn: routers.leading_out(conn, full.interfaces[1].subnet_id, an_id("network"))
    )
    on_subnet = await uow.read(
        lambda conn: routers.ids_on_subnet(conn, full.interfaces[0].subnet_id)
    )
    assert (found, elsewhere, on_subnet) == ([full], [], [full.id])


async def test_a_full_floating_address_comes_back_with_the_instance_behind_it(
    uow: UnitOfWork,
) -> None:
    instance_id = an_id("instance")

    def fill(conn: Connection) -> tuple[FloatingIp, FloatingIp]:
        plain = planted_floating_ip(conn)
        inside, subnet_id = add_network(conn, "fd00::/64")
        port = add_port(conn, inside, subnet_id, owner=PortOwner.INSTANCE, owner_id=instance_id)
        router = a_router()
        routers.insert(conn, router)
        full = replace(
            plain,
            port_id=port.id,
            fixed_address=port.addresses[0].address,
            router_id=router.id,
            instance_id=instance_id,
            etag=an_etag(),
        )
        return plain, full

    plain, full = await uow.write(fill)
    await both_ways(uow, floating_ips, plain, full)

    async def listed(**filters: Any) -> list[FloatingIp]:
        return await uow.read(
            lambda conn: floating_ips.list_page(conn, after=None, limit=9, **filters)
        )

    assert await listed(port_id=full.port_id) == await listed(instance_id=instance_id) == [full]
    assert await listed(port_id=full.holder_port_id) == []
    assert await listed(instance_id=full.router_id) == []


async def test_a_full_load_balancer_comes_back_with_its_members_addresses(
    uow: UnitOfWork,
) -> None:
    def fill(conn: Connection) -> tuple[LoadBalancer, LoadBalancer]:
        network, inner_id = add_network(conn)
        sixth = a_subnet(network, "fd00::/64")
        subnets.insert(conn, sixth)
        own = add_port(conn, network, inner_id)
        first, second = (add_port(conn, network, sixth.id, inner_id) for _ in range(2))
        plain = a_load_balancer(own)
        full = replace(
            plain,
            listeners=(
                Listener(
                    BalancedProtocol.TCP,
                    443,
                    (
                        Member(second.id, 8443, second.addresses[1].address),
                        Member(first.id, 443, first.addresses[1].address),
                        Member(first.id, 444, first.addresses[1].address),
                    ),
                    HealthCheck(1, 2, 3, 4),
                ),
                Listener(BalancedProtocol.UDP, 443),
                Listener(
                    BalancedProtocol.UDP, 53, (Member(first.id, 53, first.addresses[1].address),)
                ),
            ),
            labels={"a": "b"},
            etag=an_etag(),
        )
        return plain, full

    plain, full = await uow.write(fill)
    await both_ways(uow, load_balancers, plain, full)
    member = full.listeners[0].members[1].port_id

    async def on(subnet_id: str) -> list[Any]:
        def read(conn: Connection) -> list[Any]:
            page = load_balancers.list_page(conn, after=None, limit=9, subnet_id=subnet_id)
            return [*page, *load_balancers.ids_on_subnet(conn, subnet_id)]

        return await uow.read(read)

    assert await on(full.subnet_id) == [full, full.id]
    assert await on("sub-x") == []
    assert await uow.read(lambda conn: load_balancers.naming(conn, [member])) == [full.id]
    assert await uow.write(lambda conn: load_balancers.drop_members(conn, member)) == [full.id]
    left = await uow.read(lambda conn: load_balancers.get(conn, full.id))
    assert left is not None
    assert [len(listener.members) for listener in left.listeners] == [1, 0, 0]
    assert await uow.read(lambda conn: load_balancers.naming(conn, [member])) == []


async def test_a_project_has_one_default_network_at_most(uow: UnitOfWork) -> None:
    other = a_project()
    first, second = a_network(is_default=True), a_network()
    theirs = a_network(is_default=True, project_id=other.id)

    def fill(conn: Connection) -> None:
        projects.insert(conn, other)
        for row in (first, second, theirs):
            networks.insert(conn, row)

    await uow.write(fill)
    with pytest.raises(AlreadyExists):
        await uow.write(lambda conn: networks.insert(conn, a_network(is_default=True)))
    with pytest.raises(AlreadyExists):
        await uow.write(
            lambda conn: networks.replace(conn, replace(second, is_default=True), etag=None)
        )

    def defaults(conn: Connection) -> list[Network | None]:
        return [networks.default_of(conn, ident) for ident in (DEFAULT_PROJECT_ID, other.id, "x")]

    assert await uow.read(defaults) == [first, theirs, None]


async def test_a_network_of_the_operator_is_one_network_here(uow: UnitOfWork) -> None:
    flat = a_network(type=NetworkType.FLAT, physical_network="dc")
    vlan = a_network(type=NetworkType.VLAN, physical_network="dc", vlan_id=7)
    for row in (flat, vlan, a_network(), a_network()):
        await uow.write(lambda conn, row=row: networks.insert(conn, row))

    for row in (flat, vlan):
        again = replace(a_network(), physical_network="dc", vlan_id=row.vlan_id)
        with pytest.raises(AlreadyExists):
            await uow.write(lambda conn, row=again: networks.insert(conn, row))
        found = await uow.read(lambda conn, row=row: networks.on_provider(conn, "dc", row.vlan_id))
        assert found == row


async def test_networks_are_selected_by_who_may_use_them(uow: UnitOfWork) -> None:
    other = a_project()
    rows = [
        a_network(name="a-own"),
        a_network(name="b-shared", project_id=other.id, shared=True),
        a_network(
            name="c-outside",
            project_id=other.id,
            external=True,
            type=NetworkType.FLAT,
            physical_network="dc",
        ),
        a_network(name="d-theirs", project_id=other.id),
    ]

    def fill(conn: Connection) -> None:
        projects.insert(conn, other)
        for row in rows:
            networks.insert(conn, row)

    await uow.write(fill)

    async def names(**filters: Any) -> list[str]:
        page = await uow.read(lambda conn: networks.list_page(conn, after=None, limit=9, **filters))
        return [row.name for row in page]

    assert await names(usable_by=DEFAULT_PROJECT_ID) == ["a-own", "b-shared", "c-outside"]
    assert await names(external=True) == ["c-outside"]
    assert await names(project_id=other.id, external=False) == ["b-shared", "d-theirs"]


async def test_ports_are_selected_and_counted_by_each_condition(uow: UnitOfWork) -> None:
    owner_id, router_id = an_id("instance"), an_id("router")

    def fill(conn: Connection) -> tuple[Network, SecurityGroup, list[Port]]:
        network, subnet_id = add_network(conn)
        group = a_group()
        security_groups.insert(conn, group)
        owned = {"owner": PortOwner.INSTANCE, "owner_id": owner_id}
        made = [
            add_port(conn, network, subnet_id, name="a", **owned, position=1),
            add_port(conn, network, name="b", **owned, security_group_ids=(group.id,)),
            add_port(conn, network, name="c", owner=PortOwner.ROUTER, owner_id=router_id),
            add_port(conn, network, name="d"),
        ]
        ports.insert(conn, planted_port(conn, name="e"))
        return network, group, made

    network, group, made = await uow.write(fill)

    def read(conn: Connection) -> list[Any]:
        def names(**filters: Any) -> str:
            page = ports.list_page(conn, after=None, limit=9, **filters)
            return "".join(port.name for port in page)

        return [
            names(network_id=network.id),
            names(owner_id=owner_id),
            names(security_group_id=group.id),
            names(security_group_id=group.id, owner_id=router_id),
            ports.of_owner(conn, owner_id),
            ports.of_owners(conn, [router_id, "ins-x"]),
            ports.count_by_owner(conn, network.id),
            ports.ids_on_network(conn, network.id),
            ports.by_mac(conn, network.id, made[3].mac_address),
            ports.by_mac(conn, "net-x", made[3].mac_address),
        ]

    assert await uow.read(read) == [
        *("abcd", "ab", "b", ""),
        [made[1], made[0]],
        {router_id: [made[2]]},
        {PortOwner.INSTANCE: 2, PortOwner.ROUTER: 1, None: 1},
        [port.id for port in made],
        made[3],
        None,
    ]


async def test_owners_need_the_physical_networks_that_their_ports_are_on(uow: UnitOfWork) -> None:
    one, other, third = (an_id("instance") for _ in range(3))
    flat = {"type": NetworkType.FLAT, "external": True}

    def fill(conn: Connection) -> None:
        overlay, lab, sky = (
            a_network(),
            a_network(physical_network="lab", **flat),
            a_network(physical_network="sky", **flat),
        )
        for network in (overlay, lab, sky):
            networks.insert(conn, network)
        for owner_id, network in ((one, overlay), (one, sky), (one, lab), (other, overlay)):
            owned = {"owner": PortOwner.INSTANCE, "owner_id": owner_id}
            add_port(conn, network, **owned)

    await uow.write(fill)
    needed = await uow.read(lambda conn: ports.physical_networks(conn, [one, other, third]))
    assert needed == {one: ("lab", "sky"), other: ()}


async def test_a_mac_address_is_one_port_s_on_a_network_alone(uow: UnitOfWork) -> None:
    one, other = await uow.write(lambda conn: [planted_port(conn) for _ in range(2)])
    await uow.write(lambda conn: ports.insert(conn, one))
    await uow.write(lambda conn: ports.insert(conn, replace(other, mac_address=one.mac_address)))
    same = replace(one, id=an_id("port"), name="another")

    with pytest.raises(AlreadyExists):
        await uow.write(lambda conn: ports.insert(conn, same))


async def test_what_was_seen_of_ports_is_written_without_their_etags(uow: UnitOfWork) -> None:
    rows = await uow.write(lambda conn: [planted_port(conn) for _ in range(3)])
    for row in rows:
        await uow.write(lambda conn, row=row: ports.insert(conn, row))
    seen = {rows[0].id: PortState.ACTIVE, rows[1].id: PortState.UNKNOWN, "prt-x": PortState.DOWN}
    owners = dict.fromkeys(seen, "")

    await uow.write(lambda conn: ports.set_states(conn, seen, owners))

    found = [await uow.read(lambda conn, row=row: ports.get(conn, row.id)) for row in rows]
    assert found == [
        replace(rows[0], state=PortState.ACTIVE),
        replace(rows[1], state=PortState.UNKNOWN),
        rows[2],
    ]


async def test_what_was_seen_of_a_port_is_not_written_once_it_is_somebody_elses(
    uow: UnitOfWork,
) -> None:
    """A port that was taken out is DOWN for good: nobody looks at it any more."""
    port = await uow.write(planted_port)
    await uow.write(lambda conn: ports.insert(conn, port))
    states, owners = {port.id: PortState.ACTIVE}, {port.id: an_id("instance")}

    await uow.write(lambda conn: ports.set_states(conn, states, owners))

    assert await uow.read(lambda conn: ports.get(conn, port.id)) == port


async def test_a_subnet_counts_the_addresses_in_use_and_is_found_by_its_network(
    uow: UnitOfWork,
) -> None:
    def fill(conn: Connection) -> tuple[Network, list[Subnet]]:
        network, subnet_id = add_network(conn)
        second = a_subnet(network, "10.1.0.0/24")
        subnets.insert(conn, second)
        add_port(conn, network, subnet_id, second.id)
        add_port(conn, network, subnet_id)
        read = [subnets.get(conn, ident) for ident in (subnet_id, second.id)]
        return network, [subnet for subnet in read if subnet]

    network, made = await uow.write(fill)
    page = await uow.read(
        lambda conn: subnets.list_page(conn, after=None, limit=9, network_id=network.id)
    )

    assert [subnet.used_address_count for subnet in made] == [2, 1]
    assert sorted(page, key=lambda subnet: subnet.id) == made
    assert await uow.read(lambda conn: subnets.of_network(conn, network.id)) == made
    assert await uow.read(lambda conn: subnets.of_networks(conn, ["net-x"])) == {}
    assert await uow.read(lambda conn: addresses.count_by_subnet(conn, made[0].id)) == 2


async def test_a_group_knows_its_ports_and_who_names_it(uow: UnitOfWork) -> None:
    group, other = a_group(), a_group()
    group = replace(group, rules=(a_rule(remote_group_id=group.id),))
    other = replace(other, rules=tuple(a_rule(remote_group_id=group.id) for _ in range(2)))

    def fill(conn: Connection) -> None:
        security_groups.insert(conn, group)
        security_groups.insert(conn, other)
        network, _ = add_network(conn)
        for _ in range(2):
            add_port(conn, network, security_group_ids=(other.id,))

    await uow.write(fill)

    assert await uow.read(lambda conn: security_groups.naming(conn, group.id)) == [other.id]
    assert await uow.read(lambda conn: security_groups.naming(conn, other.id)) == []
    counted = await uow.read(lambda conn: security_groups.get(conn, other.id))
    assert counted == replace(other, port_count=2)


async def test_a_group_that_names_itself_can_be_deleted(uow: UnitOfWork) -> None:
    group = a_group()
    group = replace(group, rules=(a_rule(remote_group_id=group.id), a_rule()))
    await uow.write(lambda conn: security_groups.insert(conn, group))

    await uow.write(lambda conn: security_groups.delete(conn, group.id))

    assert await uow.read(lambda conn: security_groups.of_rule(conn, group.rules[0].id)) is None


async def test_one_more_rule_writes_no_other(uow: UnitOfWork) -> None:
    group = a_group(rules=tuple(a_rule(ip_version=4) for _ in range(5)))
    await uow.write(lambda conn: security_groups.insert(conn, group))
    more = replace(group, rules=(*group.rules, a_rule(ip_version=6)))

    def writes(conn: Connection) -> list[str]:
        with statements_of(conn) as seen:
            security_groups.replace(conn, more, etag=None)
        return [statement.split()[0] for statement in seen if "rules" in statement]

    assert await uow.write(writes) == ["SELECT", "INSERT"]
    assert await uow.read(lambda conn: security_groups.get(conn, group.id)) == more


async def test_floating_addresses_are_found_by_what_they_pass_by_and_lead_to(
    uow: UnitOfWork,
) -> None:
    def fill(conn: Connection) -> tuple[Router, list[str], list[FloatingIp]]:
        outside, outer_id = add_network(conn, "192.0.2.0/24")
        inside, first_id = add_network(conn)
        second = a_subnet(inside, "10.1.0.0/24")
        subnets.insert(conn, second)
        router = a_router()
        routers.insert(conn, router)
        made = []
        for subnet_id in (first_id, second.id):
            port = add_port(conn, inside, first_id, second.id)
            leads_to = next(a.address for a in port.addresses if a.subnet_id == subnet_id)
            row = a_floating_ip(
                add_port(conn, outside, outer_id),
                port_id=port.id,
                fixed_address=leads_to,
                router_id=router.id,
            )
            floating_ips.insert(conn, row)
            made.append(row)
        floating_ips.insert(conn, a_floating_ip(add_port(conn, outside, outer_id)))
        return router, [first_id, second.id], made

    router, subnet_ids, made = await uow.write(fill)

    def read(conn: Connection) -> list[Any]:
        return [
            floating_ips.by_router(conn, router.id),
            *(floating_ips.by_router(conn, router.id, ident) for ident in subnet_ids),
            floating_ips.of_ports(conn, [made[1].port_id, "prt-x"]),
        ]

    assert await uow.read(read) == [made, made[:1], made[1:], made[1:]]
    taken = replace(made[0], port_id=made[1].port_id, fixed_address=made[1].fixed_address)
    with pytest.raises(AlreadyExists):
        await uow.write(lambda conn: floating_ips.replace(conn, taken, etag=None))


async def test_what_something_hangs_on_cannot_be_deleted(uow: UnitOfWork) -> None:
    def fill(conn: Connection) -> list[tuple[ModuleType, str]]:
        network, subnet_id = add_network(conn)
        group, router = a_group(), a_router()
        security_groups.insert(conn, group)
        gateway, place, own, member, holder, led_to = (
            add_port(conn, network, subnet_id, security_group_ids=(group.id,)) for _ in range(6)
        )
        router = replace(
            router,
            gateway=Gateway(network.id, gateway.id, ()),
            interfaces=(RouterInterface(subnet_id, place.id, ""),),
        )
        routers.insert(conn, router)
        members = (Member(member.id, 80),)
        listeners = (Listener(BalancedProtocol.TCP, 80, members),)
        load_balancers.insert(conn, a_load_balancer(own, listeners=listeners))
        led = {"port_id": led_to.id, "fixed_address": led_to.addresses[0].address}
        floating_ips.insert(conn, a_floating_ip(holder, router_id=router.id, **led))
        named = [(ports, port.id) for port in (gateway, place, own, member, holder, led_to)]
        return [
            (networks, network.id),
            (subnets, subnet_id),
            (security_groups, group.id),
            (routers, router.id),
            *named,
        ]

    for noun, ident in await uow.write(fill):
        with pytest.raises(FailedPrecondition) as refused:
            await uow.write(lambda conn, noun=noun, ident=ident: noun.delete(conn, ident))
        assert refused.value.reason == "REFERENCE_BROKEN", (noun.__name__, ident)


@contextmanager
def statements_of(conn: Connection) -> Iterator[list[str]]:
    """Collect the statements of a block."""
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        seen.append(statement)

    event.listen(conn, "before_cursor_execute", note)
    yield seen
    event.remove(conn, "before_cursor_execute", note)


async def test_a_page_costs_the_same_few_statements_however_long_it_is(uow: UnitOfWork) -> None:
    def fill(conn: Connection) -> None:
        network, subnet_id = add_network(conn)
        group = a_group(rules=(a_rule(), a_rule()))
        security_groups.insert(conn, group)
        security_groups.insert(conn, a_group(rules=(a_rule(),)))
        for _ in range(3):
            port = add_port(conn, network, subnet_id, security_group_ids=(group.id,))
            routers.insert(conn, a_router(interfaces=(RouterInterface(subnet_id, port.id, ""),)))
            floating_ips.insert(conn, a_floating_ip(add_port(conn, network, subnet_id)))
            members = (Member(port.id, 80),)
            balancer = a_load_balancer(add_port(conn, network, subnet_id))
            listeners = (Listener(BalancedProtocol.TCP, 80, members),)
            load_balancers.insert(conn, replace(balancer, listeners=listeners))
        add_network(conn)

    def read(conn: Connection) -> dict[str, list[int]]:
        counts: dict[str, list[int]] = {}
        for noun, _ in NOUNS:
            for limit in (1, 100):
                with statements_of(conn) as seen:
                    page = noun.list_page(conn, after=None, limit=limit)
                assert len(page) == 1 if limit == 1 else len(page) > 1
                counts.setdefault(noun.__name__.rpartition(".")[2], []).append(len(seen))
        return counts

    await uow.write(fill)

    assert await uow.read(read) == {
        "networks": [1, 1],
        "subnets": [1, 1],
        "ports": [3, 3],
        "security_groups": [2, 2],
        "routers": [2, 2],
        "floating_ips": [1, 1],
        "load_balancers": [3, 3],
    }

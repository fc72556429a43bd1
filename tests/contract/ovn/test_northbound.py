"""The northbound port's promises, on the fake and on a real ovsdb-server."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.acceptance import count
from tests.support.ovn_members import applied, hearing, until_lost, until_reached
from tests.support.ovn_units import gone, group, port, switch, uuid_of
from tests.support.ovn_worlds import World
from unkai_scheduler.ovn.rows import KEYS, UNIT, Outcome, Place, Ref, Row, Unit
from unkai_wire.errors import Conflict, Unavailable

TERM = 7
NET = switch("net-1")
PORTS_OF_NET = Place("Logical_Switch", uuid_of("net-1"), "ports")


async def test_units_are_made_once_however_often_they_are_applied(world: World) -> None:
    nb = await world.member()
    units = [NET, group("pg_a", rules=3), port("p1", "net-1", ("pg_a",))]
    assert set((await nb.apply(TERM, units)).values()) == {Outcome.DONE}
    before = await world.log()

    again = await nb.apply(TERM, units)

    assert again == {unit.key: Outcome.DONE for unit in units}
    assert await world.log() == before
    assert await nb.inventory() == {"network:net-1": 1, "security_group:pg_a": 4, "port:p1": 1}
    assert await nb.compare(units) == []


async def test_a_row_has_the_uuid_that_was_chosen_and_its_units_key(world: World) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET, port("p1", "net-1")])

    rows = await world.rows("Logical_Switch_Port")

    assert rows[uuid_of("p1")]["external_ids"] == {UNIT: "port:p1"}
    assert (await world.rows("Logical_Switch"))[uuid_of("net-1")]["ports"] == {uuid_of("p1")}


async def test_one_changed_column_writes_that_column_of_that_row(world: World) -> None:
    nb = await world.member()
    ports = [port(f"p{n}", "net-1", ("pg_a",)) for n in range(20)]
    await nb.apply(TERM, [NET, group("pg_a"), *ports])
    before = len(await world.log())

    changed = port("p3", "net-1", ("pg_a",), enabled=False)
    await nb.apply(TERM, [*ports[:3], changed, *ports[4:]])

    ref = Ref("Logical_Switch_Port", uuid_of("p3"))
    assert (await world.log())[before:] == [{ref: frozenset({"enabled"})}]


async def test_a_removed_units_rows_go_and_no_others(world: World) -> None:
    nb = await world.member()
    one, two = port("p1", "net-1"), port("p2", "net-1")
    await nb.apply(TERM, [NET, one, two, group("pg_a", rules=2)])

    found = await nb.apply(TERM, [gone(one), gone(group("pg_a"))])

    assert set(found.values()) == {Outcome.DONE}
    assert set(await world.rows("Logical_Switch_Port")) == {uuid_of("p2")}
    assert not await world.rows("ACL")
    assert await nb.inventory() == {"network:net-1": 1, "port:p2": 1}


async def test_a_row_that_a_unit_no_longer_has_goes(world: World) -> None:
    nb = await world.member()
    await nb.apply(TERM, [group("pg_a", rules=3)])

    await nb.apply(TERM, [group("pg_a", rules=1)])

    assert set(await world.rows("ACL")) == {uuid_of("pg_a/0")}


async def test_removing_what_never_was_is_done(world: World) -> None:
    nb = await world.member()

    assert await nb.apply(TERM, [Unit("port:never")]) == {"port:never": Outcome.DONE}


async def test_units_come_in_any_order(world: World) -> None:
    nb = await world.member()
    many = [port(f"p{n}", "net-1", ("pg_a",)) for n in range(250)]

    found = await nb.apply(TERM, [*many, group("pg_a", rules=1), NET])
    removed = await nb.apply(TERM, [gone(unit) for unit in (NET, group("pg_a"), *many)])

    assert set(found.values()) == set(removed.values()) == {Outcome.DONE}
    assert len(found) == len(removed) == 252
    assert await nb.inventory() == {}


async def test_a_unit_waits_for_the_row_that_it_refers_to(world: World) -> None:
    nb = await world.member()
    lost = port("p1", "net-1")
    orphaned = port("p2", "net-2", ("pg_none",))
    wrong_dhcp = port("p3", "net-2", dhcpv4_options=uuid_of("dhcp"))
    await nb.apply(TERM, [switch("net-2")])

    found = await nb.apply(TERM, [lost, orphaned, wrong_dhcp])

    assert set(found.values()) == {Outcome.LACKS_PARENT}
    assert not await world.rows("Logical_Switch_Port")
    assert await nb.apply(TERM, [NET, lost]) == {NET.key: Outcome.DONE, lost.key: Outcome.DONE}


async def test_a_unit_larger_than_a_transaction_is_made_and_removed(world: World) -> None:
    nb = await world.member()
    large = group("pg_a", rules=450)

    found = await nb.apply(TERM, [large])

    assert found == {large.key: Outcome.DONE}
    assert await nb.inventory() == {large.key: 451}
    assert await nb.compare([large]) == []
    assert await nb.apply(TERM, [gone(large)]) == {large.key: Outcome.DONE}
    assert await nb.inventory() == {}


async def test_a_port_is_in_the_groups_that_it_names_and_in_no_other_of_ours(world: World) -> None:
    nb = await world.member()
    groups = [group("pg_a"), group("pg_b"), group("pg_c")]
    await nb.apply(TERM, [NET, *groups, port("p1", "net-1", ("pg_a", "pg_b"))])
    foreign = await world.insert(
        "Port_Group", {"name": "operators", "ports": frozenset({uuid_of("p1")})}
    )

    await nb.apply(TERM, [port("p1", "net-1", ("pg_b", "pg_c"))])

    rows = await world.rows("Port_Group")
    having = {uuid for uuid, row in rows.items() if uuid_of("p1") in row["ports"]}
    assert having == {uuid_of("pg_b"), uuid_of("pg_c"), foreign}


async def test_a_port_that_goes_while_another_joins_its_group_leaves_nothing_behind(
    world: World,
) -> None:
    nb = await world.member()
    going = [port(f"p{n}", "net-1", ("pg_a",)) for n in range(10)]
    outside = [port(f"q{n}", "net-1") for n in range(10)]
    await nb.apply(TERM, [NET, group("pg_a"), *going, *outside])

    joining = [port(f"q{n}", "net-1", ("pg_a",)) for n in range(10)]
    await nb.apply(TERM, [*map(gone, going), *joining])

    members = (await world.rows("Port_Group"))[uuid_of("pg_a")]["ports"]
    assert members == {uuid_of(f"q{n}") for n in range(10)}
    found = await nb.apply(TERM, [*going, *map(gone, joining)])
    assert set(found.values()) == {Outcome.DONE}
    assert await nb.compare(going) == []


async def test_a_row_moves_to_another_parent_and_stays_the_same(world: World) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET, switch("net-2"), port("p1", "net-1")])

    moved = port("p1", "net-2")
    assert await nb.compare([moved]) == [moved.key]
    await nb.apply(TERM, [moved])

    rows = await world.rows("Logical_Switch")
    assert rows[uuid_of("net-1")]["ports"] == frozenset()
    assert rows[uuid_of("net-2")]["ports"] == {uuid_of("p1")}
    assert set(await world.rows("Logical_Switch_Port")) == {uuid_of("p1")}


async def test_a_switch_with_others_ports_stays_until_they_are_gone(world: World) -> None:
    nb = await world.member()
    own = port("p1", "net-1")
    await nb.apply(TERM, [NET, own])
    foreign = await world.insert("Logical_Switch_Port", {"name": "theirs"}, PORTS_OF_NET)

    assert await nb.apply(TERM, [gone(NET)]) == {NET.key: Outcome.IN_USE}
    assert await nb.apply(TERM, [gone(NET), gone(own)]) == {
        NET.key: Outcome.IN_USE,
        own.key: Outcome.DONE,
    }
    assert set(await world.rows("Logical_Switch_Port")) == {foreign}

    await world.delete("Logical_Switch_Port", foreign, PORTS_OF_NET)
    await applied(nb, TERM, [gone(NET)])
    assert not await world.rows("Logical_Switch")


async def test_a_deposed_leader_is_refused(world: World) -> None:
    old, new = await world.member(), await world.member()
    await old.apply(1, [NET])
    await new.apply(2, [switch("net-2")])

    with pytest.raises(Conflict) as refused:
        await old.apply(1, [switch("net-3")])

    assert refused.value.reason == "NOT_LEADER"
    assert refused.value.metadata["current_term"] == "2"
    assert set(await world.rows("Logical_Switch")) == {uuid_of("net-1"), uuid_of("net-2")}


async def test_a_term_that_others_raised_refuses_also_what_would_change_nothing(
    world: World,
) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET])
    await world.raise_term(TERM + 1)

    with pytest.raises(Conflict):
        await nb.apply(TERM, [NET])


async def test_what_a_deposed_leader_had_under_way_never_lands(world: World) -> None:
    old, new = await world.member(impatient=True), await world.member()
    await old.apply(1, [NET, port("p1", "net-1")])
    await world.hold(old)
    late = [port("p1", "net-1", enabled=False), port("p2", "net-1"), gone(NET)]
    found = await old.apply(1, late)
    assert Outcome.UNKNOWN in found.values()

    await new.apply(2, [NET, port("p1", "net-1", enabled=True)])
    before = await world.log()
    await world.release(old)
    await until_reached(old)

    assert await world.log() == before
    assert set(await world.rows("Logical_Switch_Port")) == {uuid_of("p1")}
    with pytest.raises(Conflict):
        await old.apply(1, late)


async def test_what_an_earlier_process_of_the_same_term_had_under_way_never_lands(
    world: World,
) -> None:
    earlier, later = await world.member(impatient=True), await world.member()
    one = port("p1", "net-1")
    await earlier.apply(TERM, [NET, one])
    await world.hold(earlier)
    assert Outcome.UNKNOWN in (await earlier.apply(TERM, [gone(one)])).values()

    assert await later.apply(TERM, [one]) == {one.key: Outcome.DONE}
    await world.release(earlier)
    await until_reached(earlier)

    assert await later.compare([NET, one]) == []
    assert set(await world.rows("Logical_Switch_Port")) == {uuid_of("p1")}


async def test_after_an_unknown_the_same_apply_makes_no_second_row(world: World) -> None:
    nb = await world.member(impatient=True)
    await nb.apply(TERM, [NET])
    await world.hold(nb)
    async with hearing(nb) as heard:
        units = [group("pg_a", rules=5), port("p1", "net-1", ("pg_a",))]
        assert Outcome.UNKNOWN in (await nb.apply(TERM, units)).values()
        await heard.until(lambda: heard.everything)
    await world.release(nb)
    await until_reached(nb)

    found = await nb.apply(TERM, units)

    assert set(found.values()) == {Outcome.DONE}
    assert await nb.inventory() == {NET.key: 1, "security_group:pg_a": 6, "port:p1": 1}
    assert await nb.compare([NET, *units]) == []


BAD = [
    port("bad", "net-1", enabled="yes"),
    port("bad", "net-1", tag_request=True),
    port("bad", "net-1", tag_request="7"),
    port("bad", "net-1", type=frozenset({"two", "types"})),
    port("bad", "net-1", addresses=frozenset({"naïve"})),
    port("bad", "net-1", options="none"),
    port("bad", "net-1", no_such_column="x"),
    port("bad", "net-1", external_ids={UNIT: "port:other"}),
    switch("bad", ports=frozenset({uuid_of("p9")})),
    Unit("bad:table", (Row("No_Such_Table", uuid_of("bad"), {}),)),
    Unit("bad:parent", (Row("Logical_Switch_Port", uuid_of("bad"), {"name": "x"}),)),
    Unit(
        "bad:word",
        (
            Row(
                "ACL",
                uuid_of("bad"),
                {"priority": 1, "direction": "up", "match": "1", "action": "drop"},
                Place("Port_Group", uuid_of("pg_a"), "acls"),
            ),
        ),
    ),
    Unit(
        "bad:range",
        (
            Row(
                "ACL",
                uuid_of("bad"),
                {"priority": 99999, "direction": "to-lport", "match": "1", "action": "drop"},
                Place("Port_Group", uuid_of("pg_a"), "acls"),
            ),
        ),
    ),
    Unit(
        "bad:unsaid",
        (
            Row(
                "ACL",
                uuid_of("bad"),
                {"priority": 1, "match": "1"},
                Place("Port_Group", uuid_of("pg_a"), "acls"),
            ),
        ),
    ),
]


async def test_a_value_that_cannot_be_is_refused_and_the_rest_is_made(world: World) -> None:
    nb = await world.member()
    good = [NET, group("pg_a"), port("p1", "net-1"), port("p2", "net-1")]
    for bad in BAD:
        found = await nb.apply(TERM, [*good[:3], bad, good[3]])

        assert found == {**{u.key: Outcome.DONE for u in good}, bad.key: Outcome.REFUSED}, bad
    assert len(await nb.inventory()) == 4


async def test_a_name_that_somebody_has_already_is_refused_and_the_rest_is_made(
    world: World,
) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET])
    await world.insert("Logical_Switch_Port", {"name": "p3"}, PORTS_OF_NET)

    found = await nb.apply(TERM, [port(f"p{n}", "net-1") for n in range(6)])

    assert {key for key, outcome in found.items() if outcome is Outcome.REFUSED} == {"port:p3"}
    assert list(found.values()).count(Outcome.DONE) == 5


async def test_damage_is_heard_of_found_and_mended(world: World) -> None:
    nb = await world.member()
    one, two, rules = port("p1", "net-1", ("pg_a",)), port("p2", "net-1"), group("pg_a", rules=2)
    units = [NET, one, two, rules]
    await nb.apply(TERM, units)
    first_rule, of_group = uuid_of("pg_a/0"), Place("Port_Group", uuid_of("pg_a"), "acls")

    async with hearing(nb) as heard:
        await world.set("Logical_Switch_Port", uuid_of("p1"), "addresses", frozenset({"unknown"}))
        await heard.of(one.key)
        await world.set("Port_Group", uuid_of("pg_a"), "ports", frozenset())
        await heard.of(one.key)
        await world.delete("Logical_Switch_Port", uuid_of("p2"), PORTS_OF_NET)
        await heard.of(two.key)
        await world.delete("ACL", first_rule, of_group)
        await heard.of(rules.key)
        await world.set("Logical_Switch", uuid_of("net-1"), "external_ids", {})
        await heard.of(NET.key)

    assert set(await nb.compare(units)) == {unit.key for unit in units}
    assert set((await nb.apply(TERM, units)).values()) == {Outcome.DONE}
    assert await nb.compare(units) == []
    rows = await world.rows("Logical_Switch_Port")
    assert rows[uuid_of("p1")]["addresses"] == {"02:00:00:00:00:01 10.0.0.5"}
    assert set(rows) == {uuid_of("p1"), uuid_of("p2")}
    assert uuid_of("p1") in (await world.rows("Port_Group"))[uuid_of("pg_a")]["ports"]


async def test_a_removed_switch_is_made_again_with_its_ports(world: World) -> None:
    nb = await world.member()
    units = [NET, port("p1", "net-1"), port("p2", "net-1")]
    await nb.apply(TERM, units)
    async with hearing(nb) as heard:
        await world.delete("Logical_Switch", uuid_of("net-1"))
        await heard.until(lambda: heard.units == {unit.key for unit in units})

    await nb.apply(TERM, units)

    assert await nb.compare(units) == []
    assert len(await world.rows("Logical_Switch_Port")) == 2


async def test_a_row_that_bears_a_units_key_and_is_none_of_it_is_found_and_removed(
    world: World,
) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET])
    copied = await world.insert("Logical_Switch", {"name": "copy", "external_ids": {UNIT: NET.key}})
    async with hearing(nb) as heard:
        await world.set("Logical_Switch", copied, "name", "copied")
        await heard.of(NET.key)

    assert await nb.inventory() == {NET.key: 2}
    assert await nb.compare([NET]) == [NET.key]
    await nb.apply(TERM, [NET])
    assert set(await world.rows("Logical_Switch")) == {uuid_of("net-1")}


async def test_others_rows_and_keys_stay_as_they_are(world: World) -> None:
    nb = await world.member()
    theirs = await world.insert("Logical_Switch", {"name": "theirs", "external_ids": {"a": "b"}})
    (scheme,) = await world.rows("NB_Global")
    await world.set("NB_Global", scheme, "external_ids", {"theirs": "kept"})
    one = port("p1", "net-1", options={"requested-chassis": "h1", "hostname": "one"})
    await nb.apply(TERM, [NET, one])
    before = await world.rows("Logical_Switch_Port")
    ids, options = before[uuid_of("p1")]["external_ids"], before[uuid_of("p1")]["options"]
    assert isinstance(ids, dict)
    assert isinstance(options, dict)
    await world.set("Logical_Switch_Port", uuid_of("p1"), "external_ids", {**ids, "x": "y"})
    await world.set("Logical_Switch_Port", uuid_of("p1"), "options", {**options, "theirs": "1"})
    assert await nb.compare([one]) == []

    await nb.apply(TERM, [port("p1", "net-1", options={"hostname": "uno"})])

    row = (await world.rows("Logical_Switch_Port"))[uuid_of("p1")]
    assert row["options"] == {"hostname": "uno", "theirs": "1"}
    assert row["external_ids"] == {UNIT: one.key, KEYS: '{"options":["hostname"]}', "x": "y"}
    await nb.apply(TERM, [gone(one), gone(NET)])
    assert set(await world.rows("Logical_Switch")) == {theirs}
    marks = (await world.rows("NB_Global"))[scheme]["external_ids"]
    assert isinstance(marks, dict)
    assert marks["theirs"] == "kept"
    assert marks["unkai_term"] == str(TERM)


async def test_a_map_that_is_ours_whole_has_our_keys_alone(world: World) -> None:
    nb = await world.member()
    vips = {"10.0.0.1:80": "10.0.0.5:80"}
    row = Row("Load_Balancer", uuid_of("lb"), {"name": "lb", "vips": vips})
    unit = Unit("load_balancer:lb", (row,))
    await nb.apply(TERM, [unit])
    async with hearing(nb) as heard:
        await world.set("Load_Balancer", uuid_of("lb"), "vips", {"10.0.0.9:80": "10.0.0.6:80"})
        await heard.of(unit.key)

    assert await nb.compare([unit]) == [unit.key]
    await nb.apply(TERM, [unit])

    assert (await world.rows("Load_Balancer"))[uuid_of("lb")]["vips"] == vips


async def test_a_router_goes_with_the_chassis_group_that_its_port_holds(world: World) -> None:
    nb = await world.member()
    group_at = Place("HA_Chassis_Group", uuid_of("hcg"), "ha_chassis")
    chassis = {"chassis_name": "h1", "priority": 1}
    gateway = Row(
        "Logical_Router_Port",
        uuid_of("lrp"),
        {
            "name": "lrp",
            "mac": "02:00:00:00:00:01",
            "networks": frozenset({"192.0.2.2/24"}),
            "ha_chassis_group": uuid_of("hcg"),
        },
        Place("Logical_Router", uuid_of("rtr"), "ports"),
    )
    alone = Row("Logical_Router", uuid_of("rtr"), {"name": "rtr"})
    of_group = (
        Row("HA_Chassis_Group", uuid_of("hcg"), {"name": "hcg"}),
        Row("HA_Chassis", uuid_of("hc"), chassis, group_at),
    )
    router = Unit("router:rtr", (alone, gateway, *of_group))
    await nb.apply(TERM, [router])

    assert await nb.apply(TERM, [Unit(router.key, (alone,))]) == {router.key: Outcome.DONE}
    assert await nb.inventory() == {router.key: 1}
    await nb.apply(TERM, [router])
    assert await nb.apply(TERM, [gone(router)]) == {router.key: Outcome.DONE}
    assert await nb.inventory() == {}
    assert not await world.rows("HA_Chassis_Group")


async def test_numbers_in_maps_and_empty_values_are_written_as_they_are(world: World) -> None:
    nb = await world.member()
    limit = Row(
        "QoS",
        uuid_of("qos"),
        {
            "priority": 100,
            "direction": "from-lport",
            "match": "1",
            "bandwidth": {"rate": 1000, "burst": 800},
        },
        Place("Logical_Switch", uuid_of("net-1"), "qos_rules"),
    )
    unit = Unit("port:p1", (*port("p1", "net-1", enabled=True).rows, limit))
    await nb.apply(TERM, [NET, unit])
    cleared = Unit(unit.key, (*port("p1", "net-1", enabled=()).rows, limit))

    assert await nb.apply(TERM, [cleared]) == {unit.key: Outcome.DONE}

    assert (await world.rows("Logical_Switch_Port"))[uuid_of("p1")]["enabled"] == frozenset()
    assert (await world.rows("QoS"))[uuid_of("qos")]["bandwidth"] == {"rate": 1000, "burst": 800}


async def test_own_writes_are_no_news(world: World) -> None:
    nb, other = await world.member(), await world.member()
    async with hearing(nb) as heard:
        await nb.apply(TERM, [NET, group("pg_a", rules=2), port("p1", "net-1", ("pg_a",))])
        await nb.apply(TERM, [port("p1", "net-1"), port("p2", "net-1", ("pg_a",))])
        await nb.apply(TERM, [gone(port("p1", "net-1"))])
        # What another did is heard of, and only that.
        await other.apply(TERM, [switch("net-1", other_config={"a": "b"})])
        await heard.until(lambda: heard.units)

        assert heard.units == {NET.key}
        assert not heard.everything


async def test_what_others_do_during_an_own_write_is_not_missed(world: World) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET, port("p1", "net-1", enabled=True)])
    missed = 0
    async with hearing(nb) as heard:
        for number in range(count(200)):
            one = port("p1", "net-1", enabled=bool(number % 2))
            theirs = frozenset({f"dynamic {number}"})
            await asyncio.gather(
                nb.apply(TERM, [one]),
                world.set("Logical_Switch_Port", uuid_of("p1"), "addresses", theirs),
            )
            if await nb.compare([one]):
                missed += 1
                await heard.of(one.key)
            heard.units.clear()
    print(f"{missed} changes came after the own write was put together")


async def test_an_unreachable_database_is_said_to_be_so_at_once(world: World) -> None:
    nb = await world.member()
    await nb.apply(TERM, [NET])
    async with hearing(nb) as heard:
        await world.stop()
        unreachable = await until_lost(nb)
        assert unreachable.reason == "OVN_UNREACHABLE"
        for ask in (nb.apply(TERM, [port("p1", "net-1")]), nb.compare([NET])):
            with pytest.raises(Unavailable):
                await ask

        await world.start()
        await heard.until(lambda: heard.everything)
        await until_reached(nb)

    assert await nb.compare([NET]) == []
    assert await nb.apply(TERM, [port("p1", "net-1")]) == {"port:p1": Outcome.DONE}
    assert await nb.inventory() == {NET.key: 1, "port:p1": 1}

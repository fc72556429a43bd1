"""The switch by its program, which a stand-in plays: what is asked, and what is made of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agent import an_instance_id
from tests.support.fake_vsctl import FakeSwitch
from tests.support.ports import a_port, a_port_id
from unkai_agent.network.driver import Datapath, JoinSettings, SwitchTls
from unkai_agent.network.ovs import Switch
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError
from unkai_wire.ids import uuid_of

SETTINGS = JoinSettings(
    host_id="hst-1",
    host_name="h1",
    remotes=("ssl:10.0.0.1:6642", "ssl:10.0.0.2:6642"),
    encap_address="10.0.0.3",
    datapath=Datapath.NETDEV,
    bridge_mappings={"public": "br-public", "lab": "br-lab"},
    tls=SwitchTls(Path("/pki/a key"), Path("/pki/host.crt"), Path("/pki/ca.crt")),
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeSwitch:
    return FakeSwitch(tmp_path)


@pytest.fixture
def switch(fake: FakeSwitch) -> Switch:
    return Switch(OvsDatabase(fake.program))


def ids_of(fake: FakeSwitch) -> dict[str, str]:
    return fake.state["Open_vSwitch"][0]["external_ids"]


async def test_a_host_joins_under_its_id(fake: FakeSwitch, switch: Switch) -> None:
    await switch.join(SETTINGS)
    assert ids_of(fake) == {
        "system-id": "hst-1",
        "unkai-host": "hst-1",
        "hostname": "h1",
        "ovn-remote": "ssl:10.0.0.1:6642,ssl:10.0.0.2:6642",
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": "10.0.0.3",
        "ovn-bridge-datapath-type": "netdev",
        "ovn-bridge-mappings": "lab:br-lab,public:br-public",
        "ovn-monitor-all": "true",
        "ovn-remote-probe-interval": "60000",
        "ovn-openflow-probe-interval": "30",
        "ovn-ofctrl-wait-before-clear": "2000",
    }
    assert fake.state["SSL"][0]["private_key"] == "/pki/a key"
    assert len(fake.writes) == 1


async def test_joining_again_writes_nothing(fake: FakeSwitch, switch: Switch) -> None:
    await switch.join(SETTINGS)
    await switch.join(SETTINGS)
    assert len(fake.writes) == 1


async def test_in_userspace_ovn_is_told_of_no_translation_that_changes_nothing(
    fake: FakeSwitch, switch: Switch
) -> None:
    fake.has_datapaths()
    before = fake.can()

    await switch.join(replace(SETTINGS, datapath=Datapath.SYSTEM))
    assert fake.can() == before

    await switch.join(SETTINGS)
    assert fake.can() == before | {"netdev": {"ct_zero_snat": "false", "ct_timeout": "true"}}

    # The switch states it anew when it starts.
    fake.has_datapaths()
    await switch.join(SETTINGS)
    await switch.join(SETTINGS)
    assert fake.can()["netdev"]["ct_zero_snat"] == "false"
    assert len(fake.writes) == 3


async def test_a_mapping_that_is_gone_is_removed(fake: FakeSwitch, switch: Switch) -> None:
    await switch.join(SETTINGS)
    await switch.join(JoinSettings("hst-1", "h1", SETTINGS.remotes, "10.0.0.3", Datapath.NETDEV))
    assert "ovn-bridge-mappings" not in ids_of(fake)


async def test_a_switch_that_is_another_hosts_is_left_alone(
    fake: FakeSwitch, switch: Switch
) -> None:
    await switch.join(SETTINGS)
    with pytest.raises(FailedPrecondition) as caught:
        await switch.join(JoinSettings("hst-2", "h2", (), "10.0.0.4", Datapath.NETDEV))
    assert caught.value.reason == "SWITCH_JOINED_OTHERWISE"
    assert ids_of(fake)["system-id"] == "hst-1"


@pytest.mark.parametrize("guests", [0, 1])
async def test_the_datapath_changes_only_while_no_guest_uses_it(
    fake: FakeSwitch, switch: Switch, guests: int
) -> None:
    fake.change(Bridge=[{"name": "br-int", "datapath_type": "system"}])
    if guests:
        fake.plug(a_port().device, a_port().interface_id, "some-vm")
        with pytest.raises(FailedPrecondition) as caught:
            await switch.join(SETTINGS)
        assert caught.value.reason == "DATAPATH_IN_USE"
        assert not fake.writes
    else:
        await switch.join(SETTINGS)
        assert ids_of(fake)["ovn-bridge-datapath-type"] == "netdev"


async def test_what_a_crash_left_of_a_port_goes_in_a_transaction_of_its_own(
    fake: FakeSwitch, switch: Switch
) -> None:
    port = a_port()
    fake.plug(port.device, port.interface_id, "gone")
    fake.plug("tapother0000000", port.interface_id)  # another device that claims to be it
    fake.plug(a_port(2).device, a_port(2).interface_id)
    await switch.clear([port.port_id])
    assert fake.devices() == [a_port(2).device]
    [write] = fake.writes
    assert "--no-wait" not in write
    assert "add-port" not in write


async def test_clearing_what_is_not_there_writes_nothing(fake: FakeSwitch, switch: Switch) -> None:
    await switch.clear([a_port_id()])
    assert not fake.writes


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, ""),
        ({"external_ids": {"ovn-installed": "false"}}, "PORT_NOT_INSTALLED"),
        ({"ofport": -1, "error": "could not open network device"}, "PORT_NO_DEVICE"),
        ({"ofport": []}, "PORT_NO_DEVICE"),
    ],
)
async def test_a_port_is_installed_or_it_is_said_why_not(
    fake: FakeSwitch, switch: Switch, row: dict[str, object], reason: str
) -> None:
    port = a_port()
    fake.plug(port.device, port.interface_id, "vm", **row)
    wiring = (await switch.wirings([port]))[port.port_id]
    assert (wiring.installed, wiring.reason) == (not reason, reason)
    assert wiring.installed_ms == (0 if reason else 1_700_000_000_000)
    assert bool(wiring.problem) is bool(reason)


async def test_a_port_that_is_not_plugged_or_plugged_twice_is_said_so(
    fake: FakeSwitch, switch: Switch
) -> None:
    first, second = a_port(1), a_port(2)
    fake.plug(second.device, second.interface_id)
    fake.plug("tapother0000000", second.interface_id)
    wirings = await switch.wirings([first, second])
    assert wirings[first.port_id].reason == "PORT_NOT_PLUGGED"
    assert wirings[second.port_id].reason == "PORT_DUPLICATE"
    assert "tapother0000000" in wirings[second.port_id].problem


async def test_a_sweep_takes_only_ports_of_machines_that_are_gone(
    fake: FakeSwitch, switch: Switch
) -> None:
    runs, gone = (str(uuid_of(an_instance_id(number))) for number in (1, 2))
    fake.plug(a_port(1).device, a_port(1).interface_id, runs)
    fake.plug(a_port(2).device, a_port(2).interface_id, gone)
    fake.plug(a_port(3).device, a_port(3).interface_id)  # nobody's machine
    fake.plug("vnet0", "x", gone)  # not ours
    fake.plug("um0000000000", "meta-1")
    assert await switch.sweep({an_instance_id(1)}) == [a_port(2).device]
    assert a_port(2).device not in fake.devices()
    assert len(fake.devices()) == 4


async def test_a_port_whose_device_is_there_is_not_swept(
    fake: FakeSwitch, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.plug(a_port().device, a_port().interface_id, "gone")
    monkeypatch.setattr("unkai_agent.network.ovs._device_exists", lambda name: True)
    assert await switch.sweep(set()) == []
    assert fake.devices() == [a_port().device]


async def test_who_asks_together_shares_a_read_that_begins_after(fake: FakeSwitch) -> None:
    database = OvsDatabase(fake.program)
    first = asyncio.ensure_future(database.interfaces())
    while not fake.calls:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    fake.plug(a_port().device, a_port().interface_id)
    later = await asyncio.gather(*(database.interfaces() for _ in range(20)))
    await first
    assert all(rows[0]["name"] == a_port().device for rows in later)
    assert len([call for call in fake.calls if "list" in call]) == 2


@pytest.mark.parametrize("text", ['a "quoted" one', "a,b=c", "[]", "{x}", ""])
async def test_every_value_arrives_as_it_is(fake: FakeSwitch, text: str) -> None:
    switch = Switch(OvsDatabase(fake.program))
    await switch.join(JoinSettings("hst-1", text, (), "10.0.0.3", Datapath.SYSTEM))
    assert ids_of(fake)["hostname"] == text


async def test_a_switch_that_fails_is_unavailable_with_its_words(
    fake: FakeSwitch, switch: Switch
) -> None:
    fake.change(fail="ovs-vsctl: unix:/run/db.sock: database connection failed (No such file)")
    with pytest.raises(Unavailable) as caught:
        await switch.clear([a_port_id()])
    assert caught.value.reason == "SWITCH_UNAVAILABLE"
    assert "database connection failed" in caught.value.message


async def test_a_switch_that_hangs_is_given_up(
    fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unkai_agent.network.ovs_database._END_S", -0.9)
    fake.change(hang_s=60)
    with pytest.raises(Unavailable) as caught:
        await Switch(OvsDatabase(fake.program, timeout_s=1)).clear([a_port_id()])
    assert caught.value.reason == "SWITCH_UNAVAILABLE"


async def test_a_host_without_a_switch_says_what_to_install() -> None:
    with pytest.raises(UnkaiError) as caught:
        await Switch(OvsDatabase(["/nowhere/ovs-vsctl"])).clear([a_port_id()])
    assert caught.value.reason == "SWITCH_MISSING"
    assert "openvswitch-switch" in caught.value.fix

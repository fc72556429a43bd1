"""What every switch of a host does: the fake one, and the real driver over a stand-in and over OVS.

The real driver's namespaces are real, in a folder of the test's own. Open vSwitch and all of OVN
run for it in namespaces of their own.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.agent import an_instance_id
from tests.support.fake_control_socket import FakeProgram
from tests.support.fake_vsctl import FakeSwitch
from tests.support.namespaces import cleaned, needs_namespaces, run
from tests.support.ovn_host import HOST_ID, OvnHost, ovn_host, unavailable_reason
from tests.support.ports import a_port
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.driver import (
    Datapath,
    JoinSettings,
    NetworkDriver,
    NetworkSite,
    SiteIdentity,
)
from unkai_agent.network.fake import FakeNetwork
from unkai_agent.network.namespaces import Namespaces, device_of, namespace_of
from unkai_agent.network.ovs_database import OvsDatabase
from unkai_agent.network.ovs_driver import OvsNetwork
from unkai_agent.network.switch_programs import programs_beside
from unkai_wire.errors import FailedPrecondition, NotFound, Unavailable
from unkai_wire.ids import new_id, uuid_of

INSTANCE = an_instance_id()


class Damage(Enum):
    """What becomes of a namespace."""

    DELETED = "deleted"
    UNMOUNTED = "unmounted"
    BARE_FILE = "bare file"
    """As an agent leaves it that is killed before it mounts one."""


class Harness(Protocol):
    """A driver, and a hand on the world behind it."""

    @property
    def driver(self) -> NetworkDriver: ...

    def plug(self, port: PortSpec) -> None:
        """Let the machine's device appear, as its start does; return once it is installed."""

    def crash(self, port: PortSpec) -> None:
        """Let the device vanish, as a crash of the host does."""

    def hanging(self, program: str) -> AbstractContextManager[None]:
        """Let a program of the switch stand still meanwhile."""

    def damage(self, network_id: str, kind: Damage) -> None:
        """Do to a network's namespace what somebody may do by hand."""

    def trouble(self, network_id: str) -> AbstractContextManager[None]:
        """Let nobody make a network's namespace meanwhile."""


class _Fake:
    def __init__(self) -> None:
        self.driver = FakeNetwork()

    def plug(self, port: PortSpec) -> None:
        self.driver.plug(INSTANCE, port.device, True)

    def crash(self, port: PortSpec) -> None:
        pass  # it has no devices

    @contextmanager
    def hanging(self, program: str) -> Iterator[None]:
        said = f"the host's switch does nothing: {program} has not answered"
        self.driver.faults.away = Unavailable(said, reason="SWITCH_PROGRAM_HANGS")
        yield
        self.driver.faults.away = None

    def damage(self, network_id: str, kind: Damage) -> None:
        self.driver.damage(network_id)

    @contextmanager
    def trouble(self, network_id: str) -> Iterator[None]:
        self.driver.faults.sites[network_id] = Unavailable("no", reason="NAMESPACE_FAILED")
        yield
        del self.driver.faults.sites[network_id]


class _Namespaces:
    """A hand on namespaces in a folder."""

    _root: Path

    def damage(self, network_id: str, kind: Damage) -> None:
        path = self._root / namespace_of(network_id)
        run("umount", str(path))
        if kind is Damage.DELETED:
            path.unlink()
        if kind is Damage.BARE_FILE:
            run("ip", "link", "del", device_of(network_id))

    @contextmanager
    def trouble(self, network_id: str) -> Iterator[None]:
        path = self._root / namespace_of(network_id)
        path.mkdir(parents=True)  # nothing can be mounted there
        yield
        path.rmdir()


class _Ovs(_Namespaces):
    def __init__(self, folder: Path) -> None:
        self._root = folder / "netns"
        self._switch = FakeSwitch(folder)
        programs = programs_beside(f"unix:{folder}/db.sock", folder)
        self._programs = {each.name: FakeProgram(folder, each.name) for each in programs}
        database = OvsDatabase(self._switch.program)
        self.driver = OvsNetwork(database, Namespaces(folder / "netns"), programs=programs)

    def plug(self, port: PortSpec) -> None:
        self._switch.plug(port.device, port.interface_id, str(uuid_of(INSTANCE)))

    def crash(self, port: PortSpec) -> None:
        pass  # devices that the stand-in names are not there

    @contextmanager
    def hanging(self, program: str) -> Iterator[None]:
        self._programs[program].hang()
        yield
        self._programs[program].wake()


class _Real(_Namespaces):
    def __init__(self, host: OvnHost, folder: Path) -> None:
        self._root = folder / "netns"
        self._host = host
        database = OvsDatabase(("ovs-vsctl", f"--db={host.database}"))
        self.driver = OvsNetwork(database, Namespaces(folder / "netns"), programs=host.programs)

    def plug(self, port: PortSpec) -> None:
        self._host.add_device(port, str(uuid_of(INSTANCE)))

    def crash(self, port: PortSpec) -> None:
        self._host.drop_device(port)

    def hanging(self, program: str) -> AbstractContextManager[None]:
        return self._host.hanging(program)


@pytest.fixture(scope="module")
def real_host() -> Iterator[OvnHost]:
    with ovn_host() as host:
        yield host


_WHY_NOT = unavailable_reason()
_REAL = (pytest.mark.real, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT))


@pytest.fixture(
    params=[
        "fake",
        pytest.param("stand-in", marks=needs_namespaces),
        pytest.param("real", marks=_REAL),
    ]
)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    if request.param != "real":
        yield _Fake() if request.param == "fake" else _Ovs(tmp_path)
        return
    host = request.getfixturevalue("real_host")
    made = _Real(host, tmp_path)
    await made.driver.join(host.membership)
    host.await_bridge()
    yield made
    host.forget_ports()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[list[NetworkSite]]:
    made = [
        NetworkSite(new_id("network"), f"meta-{n}", f"02:00:00:00:fe:0{n}", 1442) for n in (1, 2)
    ]
    with cleaned(tmp_path / "netns", *(site.network_id for site in made)):
        yield made


def settings(host_id: str = "hst-1") -> JoinSettings:
    return JoinSettings(host_id, "h1", ("ssl:10.0.0.1:6642",), "10.0.0.3", Datapath.NETDEV)


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def identities(harness: Harness, sites: list[NetworkSite]) -> list[SiteIdentity | None]:
    return [await harness.driver.site_identity(site.network_id) for site in sites]


async def test_a_host_belongs_to_ovn_under_one_name(harness: Harness) -> None:
    await harness.driver.join(settings(HOST_ID))
    await harness.driver.join(settings(HOST_ID))
    with pytest.raises(FailedPrecondition) as caught:
        await harness.driver.join(settings("hst-2"))
    assert caught.value.reason == "SWITCH_JOINED_OTHERWISE"


async def test_a_port_is_installed_from_its_plugging_to_its_clearing(harness: Harness) -> None:
    port, other = a_port(1), a_port(2)
    assert (await harness.driver.wirings([port]))[port.port_id].reason == "PORT_NOT_PLUGGED"
    harness.plug(port)
    harness.plug(other)
    wirings = await harness.driver.wirings([port, other])
    assert all(wiring.installed and wiring.installed_ms for wiring in wirings.values())
    await harness.driver.clear([port.port_id])
    await harness.driver.clear([port.port_id])
    wirings = await harness.driver.wirings([port, other])
    assert [wirings[p.port_id].installed for p in (port, other)] == [False, True]


async def test_a_sweep_takes_ports_of_machines_that_are_gone(harness: Harness) -> None:
    harness.plug(a_port())
    assert await harness.driver.sweep({INSTANCE}) == []
    harness.crash(a_port())
    assert await harness.driver.sweep({INSTANCE}) == []
    assert await harness.driver.sweep({an_instance_id(9)}) == [a_port().device]
    assert await harness.driver.sweep(set()) == []


async def test_sockets_are_made_in_networks_that_are_served(
    harness: Harness, sites: list[NetworkSite]
) -> None:
    first, second = sites
    assert await identities(harness, sites) == [None, None]
    assert await harness.driver.ensure_sites(sites) == {}
    made = await identities(harness, sites)
    assert None not in made
    assert await harness.driver.ensure_sites(sites) == {}
    assert await identities(harness, sites) == made
    for site in sites:
        (await harness.driver.open_socket(site.network_id, listener)).close()
    await harness.driver.ensure_sites([second])
    (await harness.driver.open_socket(second.network_id, listener)).close()
    with pytest.raises(NotFound) as caught:
        await harness.driver.open_socket(first.network_id, listener)
    assert caught.value.reason == "NETWORK_NOT_HERE"
    await harness.driver.ensure_sites([])
    with pytest.raises(NotFound):
        await harness.driver.open_socket(second.network_id, listener)


@pytest.mark.parametrize("kind", Damage)
async def test_a_namespace_that_is_taken_away_is_seen_and_made_again(
    harness: Harness, sites: list[NetworkSite], kind: Damage
) -> None:
    first, second = sites
    await harness.driver.ensure_sites(sites)
    before = await identities(harness, sites)
    with await harness.driver.open_socket(first.network_id, listener):  # it keeps its namespace
        harness.damage(first.network_id, kind)
        assert await identities(harness, sites) == [None, before[1]]
        assert await harness.driver.ensure_sites(sites) == {}
        anew = await identities(harness, sites)
    assert anew[0] not in {None, before[0]}
    assert anew[1] == before[1]
    for site in (first, second):
        (await harness.driver.open_socket(site.network_id, listener)).close()
    await harness.driver.ensure_sites([])
    assert await identities(harness, sites) == [None, None]


async def test_one_networks_trouble_leaves_others_whole(
    harness: Harness, sites: list[NetworkSite]
) -> None:
    first, second = sites
    with harness.trouble(first.network_id):
        failed = await harness.driver.ensure_sites(sites)
        assert failed.keys() == {first.network_id}
        none, stands = await identities(harness, sites)
        assert none is None
        (await harness.driver.open_socket(second.network_id, listener)).close()
    assert await harness.driver.ensure_sites(sites) == {}
    made, other = await identities(harness, sites)
    assert made is not None
    assert other == stands
    await harness.driver.ensure_sites([])


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovn-controller"])
async def test_a_program_that_stands_still_is_told_until_it_goes_on(
    harness: Harness, program: str
) -> None:
    processes = await harness.driver.see_alive()
    assert processes
    with harness.hanging(program):
        with pytest.raises(Unavailable, match=program) as caught:
            await harness.driver.see_alive()
        assert caught.value.reason == "SWITCH_PROGRAM_HANGS"
    assert await harness.driver.see_alive() == processes


async def test_counters_are_told(harness: Harness) -> None:
    assert isinstance(dict(await harness.driver.statistics()), dict)


@needs_namespaces
async def test_a_device_that_went_is_unplugged_before_it_comes_again(
    tmp_path: Path, sites: list[NetworkSite]
) -> None:
    """Else a switch in userspace goes on with the device that is gone, without a word."""
    site = sites[0]
    switch = FakeSwitch(tmp_path)
    namespaces = Namespaces(tmp_path / "netns")
    driver = OvsNetwork(OvsDatabase(switch.program), namespaces)
    await driver.ensure_sites([site])
    await driver.ensure_sites([site])
    assert len(switch.writes) == 2  # one that unplugs what may be left, one that plugs
    await namespaces.remove(site.network_id)  # as a reboot does
    await driver.ensure_sites([site])
    unplug, plug = switch.writes[2:]
    assert "del-port" in unplug
    assert "add-port" not in unplug
    assert "add-port" in plug
    [row] = switch.state["Interface"]
    assert row["external_ids"] == {
        "iface-id": site.interface_id,
        "unkai-network": site.network_id,
    }

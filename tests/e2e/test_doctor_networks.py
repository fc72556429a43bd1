"""The story of a doctor's rounds where networks are: each fault of OVN and of a host's switch is
named with its fix; a healthy lab has nothing.

Every fault is a real one, and mended afterwards. What the agent would mend within seconds is broken
while it is down.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.planted import Fault, Planted, is_healthy
from tests.support.ward import HOST, Visit, Ward
from unkai_lab.lab import Lab
from unkai_lab.ovn import NORTHBOUND, NORTHD, SOUTHBOUND, OvnDatabase, ovn_pki
from unkai_lab.spec import CONTROL, EXTERNAL_BRIDGE, LabSpec
from unkai_lab.switches import CONTROLLER, DATABASE, SWITCH
from unkai_scheduler.certificates import write

pytestmark = pytest.mark.timeout(300)
DAY = dt.timedelta(days=1)
PLANTED = Planted()
fault = PLANTED.fault


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab of one host with a switch, whose agent is told not to use KVM."""
    skip_without_a_lab_machine(networks=True)
    spec = LabSpec(name="docn", hosts=1, networks=True, accelerator="tcg")
    with running_lab(unique(spec)) as made:
        yield made


@pytest.fixture(scope="module")
def ward(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """The lab, as doctors see it."""
    folder = tmp_path_factory.mktemp("ward")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)
    return Ward(lab, folder)


# The host's switch


def dead(name: str, program: str, check: str, fix: str) -> None:
    """Add a program of the switch that is dead for good, and one that hangs."""

    @fault(f"{name} that is dead", check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        ward.lab.switch(HOST).kill(program)
        try:
            yield ward.on_host()
        finally:
            ward.lab.switch(HOST).start()

    @fault(f"{name} that hangs", check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        with ward.stopped(HOST, program):
            yield ward.on_host()


dead("an ovsdb-server", DATABASE, "switch-answers", "systemctl restart openvswitch-switch")
dead("an ovs-vswitchd", SWITCH, "switch-answers", "systemctl restart openvswitch-switch")
dead("an ovn-controller", CONTROLLER, "ovn-controller", "systemctl restart ovn-controller")


@fault("from afar: an ovs-vswitchd that is dead", "switch-answers", "openvswitch-switch")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.switch(HOST).kill(SWITCH)
    try:
        yield ward.from_afar()
    finally:
        ward.lab.switch(HOST).start()


@contextmanager
def _without_agent(ward: Ward) -> Iterator[None]:
    ward.lab.kill_agent(HOST)
    try:
        yield
    finally:
        ward.lab.start_agent(HOST)


def said(name: str, key: str, value: str, fix: str = "systemctl restart unkai-agent") -> None:
    """Add a word of the switch's that is wrong; the agent sets it right when it is back."""

    @fault(name, "switch-joined", fix)
    def _(ward: Ward) -> Iterator[Visit]:
        with _without_agent(ward):
            word = f"external_ids:{key}={value}" if value else ""
            change = ["set", "Open_vSwitch", ".", word]
            if not value:
                change = ["remove", "Open_vSwitch", ".", "external_ids", key]
            ward.lab.switch(HOST).vsctl(*change)
            yield ward.on_host()


said("a switch of another name", "system-id", "hst-01m8e3pwjef6zb7bzqwyajf0dw")
said("a switch that asks elsewhere", "ovn-remote", '"ssl:127.0.0.1:9"')
said("a switch whose tunnels end elsewhere", "ovn-encap-ip", "127.0.0.1")
said("a switch that leads to no operator's network", "ovn-bridge-mappings", "")


@fault("a bridge that is gone", "tunnels", f"ovs-vsctl add-br {EXTERNAL_BRIDGE}")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.switch(HOST).vsctl("del-br", EXTERNAL_BRIDGE)
    try:
        yield ward.on_host()
    finally:
        ward.lab.switch(HOST).start_switch()


@fault("an address of tunnels that no device has", "tunnels", "ip address add")
def _(ward: Ward) -> Iterator[Visit]:
    spec = ward.lab.spec
    address = f"{spec.tunnel_address(HOST)}/{spec.tunnel_network.prefixlen}"
    ward.lab.run(HOST, ["ip", "address", "del", address, "dev", "br-phys"])
    try:
        yield ward.on_host()
    finally:
        ward.lab.run(HOST, ["ip", "address", "add", address, "dev", "br-phys"])


# OVN


def central(name: str, program: str, check: str, fix: str) -> None:
    """Add a program of OVN's that is dead."""

    @fault(name, check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        ward.lab.control.ovn.kill(program)
        try:
            yield ward.on_control()
        finally:
            ward.lab.control.ovn.start()


central("a northbound database that is dead", "ovn-nb", "ovn-reachable", "ovn-central")
central("a southbound database that is dead", "ovn-sb", "ovn-reachable", "ovn-central")
central("an ovn-northd that is dead", NORTHD, "ovn-northd", "systemctl restart ovn-northd")


@fault("an ovn-northd that hangs", "ovn-northd|ovn-reachable", "ovn-northd")
def _(ward: Ward) -> Iterator[Visit]:
    ctl = ward.lab.control.ovn.ctl
    with ward.stopped(CONTROL, NORTHD):
        ctl(NORTHBOUND, "ls-add", "planted")
        try:
            yield ward.on_control()
        finally:
            ctl(NORTHBOUND, "ls-del", "planted")


@fault("a host without its southbound database", "ovn-controller", "ovn-controller")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.control.ovn.kill("ovn-sb")
    try:
        yield ward.on_host()
    finally:
        ward.lab.control.ovn.start()


# Certificates towards OVN


def ends(name: str, begun: dt.timedelta) -> None:
    """Add certificates of one age: a scheduler's, a switch's, each database's."""

    @fault(f"a scheduler's certificate towards OVN that {name}", "certificate-dates", "ovn-client")
    def _(ward: Ward) -> Iterator[Visit]:
        folder = ward.new_path("pki")
        ward.ovn_of(begun).issue_client("s1").write(folder)
        files = {"ca": "ovn-ca.crt", "certificate": "ovn-client.crt", "key": "ovn-client.key"}
        changes = {f"network.tls.{key}": str(folder / each) for key, each in files.items()}
        yield ward.on_control(ward.settings("scheduler", changes))

    @fault(f"a switch's certificate that {name}", "certificate-dates", "cert host h1 --host-id")
    def _(ward: Ward) -> Iterator[Visit]:
        folder = ward.certificate_of(begun=begun)
        tls = {"certificate": str(folder / "host.crt"), "key": str(folder / "host.key")}
        yield ward.on_host(ward.settings("agent", {"network.tls": tls}))

    for database in (NORTHBOUND, SOUTHBOUND):
        of_database(f"a certificate of {database.program} that {name}", database, begun)


def of_database(name: str, database: OvnDatabase, begun: dt.timedelta) -> None:
    """Add a certificate of a database, whose server shows it."""

    @fault(name, "ovn-trust", "unkai-scheduler cert ovn NAME --address")
    def _(ward: Ward) -> Iterator[Visit]:
        lab = ward.lab
        bundles = ward.ovn_of(begun).issue_databases(CONTROL, [lab.spec.address(CONTROL)])
        made = ward.new_path("pki")
        write(bundles, made)
        try:
            with _in_place(made, ovn_pki(lab.paths, CONTROL)):
                _restart(ward, database)
                yield ward.on_control()
        finally:
            _restart(ward, database)


@contextmanager
def _in_place(given: Path, folder: Path) -> Iterator[None]:
    """Let files stand in the place of others meanwhile."""
    kept = folder.with_name(f"{folder.name}.kept")
    shutil.copytree(folder, kept)
    try:
        shutil.copytree(given, folder, dirs_exist_ok=True)
        yield
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


def _restart(ward: Ward, database: OvnDatabase) -> None:
    ward.lab.control.ovn.kill(database.program)
    ward.lab.control.ovn.start()


ends("ends next week", -358 * DAY)
ends("has ended", -400 * DAY)


# The claims


def test_a_healthy_lab_has_nothing(ward: Ward) -> None:
    wait_for(lambda: is_healthy(ward.from_afar()), "all have settled", 60)
    for visit in (ward.on_host(), ward.on_control(), ward.from_afar()):
        assert visit.findings == []


@pytest.mark.parametrize("broken", [pytest.param(each, id=each.name) for each in PLANTED.faults])
def test_a_fault_of_networks_is_named_with_its_fix(broken: Fault, ward: Ward) -> None:
    PLANTED.is_named(broken, ward)


def test_the_lab_that_was_mended_has_nothing(ward: Ward, shows: Shows) -> None:
    wait_for(lambda: is_healthy(ward.from_afar()), "all have settled", 120)
    wait_for(lambda: is_healthy(ward.on_host()), "the host has settled", 60)
    assert ward.on_control().findings == []
    assert len(PLANTED.seen) == len(PLANTED.faults)
    shows("doctor of networks", f"{len(PLANTED.seen)} faults named with their fix")

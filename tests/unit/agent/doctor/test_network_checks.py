"""What is found of a host's switch."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from unkai_agent.doctor import networks
from unkai_agent.doctor.checks import certificate_dates
from unkai_agent.doctor.scene import Paths, Scene
from unkai_agent.doctor.switch_facts import SwitchFacts, look_at_switch
from unkai_agent.domain.clock import system_clock
from unkai_agent.settings import NetworkSettings, NetworkTlsSettings, Settings, TlsSettings
from unkai_scheduler import certificates
from unkai_wire.doctor.findings import Finding, Severity
from unkai_wire.tls import Principal, Role

CHECKS = (
    networks.switch_answers,
    networks.switch_joined,
    networks.ovn_controller,
    networks.switch_datapath,
    networks.tunnels,
)
REMOTE = "ssl:10.0.0.1:6642"
OPEN = {"name": "tap1", "type": "", "ofport": 3, "error": (), "options": {}, "external_ids": {}}
TUNNEL = OPEN | {"name": "ovn-h2-0", "type": "geneve", "options": {"remote_ip": "10.0.0.4"}}
WELL = SwitchFacts(
    said={
        "system-id": "hst-1",
        "ovn-remote": REMOTE,
        "ovn-encap-ip": "127.0.0.1",
        "ovn-bridge-mappings": "external:br-ex",
    },
    bridges={"br-int": "netdev", "br-ex": "netdev"},
    interfaces=(OPEN, TUNNEL),
    controller="connected",
)


def _saying(key: str, value: str) -> SwitchFacts:
    return replace(WELL, said={**WELL.said, key: value})


def found(facts: SwitchFacts, tmp_path: Path, **network: object) -> list[Finding]:
    given = {
        "southbound": (REMOTE,),
        "datapath": "netdev",
        "bridge_mappings": {"external": "br-ex"},
        "encap_address": "127.0.0.1",
    } | network
    settings = Settings(network=NetworkSettings(**given))  # type: ignore[arg-type]
    scene = Scene(settings, paths=Paths(system_id=tmp_path / "system-id.conf"))
    scene.principal = Principal(Role.HOST, "h1", "hst-1")
    scene.switch = lambda: facts  # type: ignore[method-assign,assignment]
    return [each for check in CHECKS for each in check(scene)]


def test_a_switch_that_is_well_is_nothing(tmp_path: Path) -> None:
    assert found(WELL, tmp_path) == []


def test_a_host_without_networks_is_asked_nothing(tmp_path: Path) -> None:
    assert found(SwitchFacts("no such file"), tmp_path, southbound=()) == []


@pytest.mark.parametrize(
    ("facts", "said", "fix"),
    [
        (SwitchFacts("ovs-vsctl is not installed"), "does not answer", "apt install"),
        (SwitchFacts("no answer within 4 s"), "no answer within 4 s", "systemctl restart"),
        (replace(WELL, forwarder="no such file"), "ovs-vswitchd, which forwards", "systemctl"),
        (_saying("system-id", ""), "system-id not set", "unkai-agent"),
        (_saying("ovn-remote", "ssl:1"), "ovn-remote ssl:1", "unkai-agent"),
        (_saying("ovn-encap-ip", "10.0.0.9"), "ovn-encap-ip 10.0.0.9", "unkai-agent"),
        (_saying("ovn-bridge-mappings", ""), "not external:br-ex", "unkai-agent"),
        (replace(WELL, controller="not connected"), "not connected", "certificate"),
        (replace(WELL, controller="cannot read pidfile"), "cannot read pidfile", "journalctl"),
        (replace(WELL, bridges={"br-ex": "netdev"}), "no bridge br-int", "ovn-controller"),
        (replace(WELL, bridges={"br-int": "netdev"}), "no bridge br-ex", "add-br br-ex"),
        (replace(WELL, interfaces=(TUNNEL | {"ofport": -1},)), "tunnel to 10.0.0.4", "restart"),
        (replace(WELL, interfaces=(OPEN | {"error": "no device"},)), "tap1: no device", "restart"),
    ],
)
def test_each_thing_that_is_wrong_is_told_with_what_to_type(
    tmp_path: Path, facts: SwitchFacts, said: str, fix: str
) -> None:
    (only,) = found(facts, tmp_path)
    assert said in only.what
    assert fix in only.fix


def test_an_address_of_tunnels_that_no_device_has_is_told(tmp_path: Path) -> None:
    (only,) = found(_saying("ovn-encap-ip", "192.0.2.9"), tmp_path, encap_address="192.0.2.9")
    assert "no device of this host has 192.0.2.9" in only.what
    assert "ip address add 192.0.2.9" in only.fix


def test_another_datapath_than_the_settings_name_is_told(tmp_path: Path) -> None:
    (only,) = found(WELL, tmp_path, datapath="system")
    assert "datapath is netdev" in only.what


def test_a_name_that_the_start_script_would_give_back_is_told(tmp_path: Path) -> None:
    (tmp_path / "system-id.conf").write_text("6a6f\n")
    (only,) = found(WELL, tmp_path)
    assert only.severity is Severity.WARN
    assert only.fix == f"echo hst-1 > {tmp_path}/system-id.conf"


def test_a_switch_that_is_down_says_so(tmp_path: Path) -> None:
    facts = look_at_switch(f"unix:{tmp_path}/none", tmp_path)
    assert facts.trouble


@pytest.mark.parametrize(
    ("remote", "of_its_own", "told"),
    [(REMOTE, True, True), (REMOTE, False, False), ("tcp:10.0.0.1:6642", True, False)],
)
def test_the_switchs_own_certificate_is_looked_at_where_it_has_one(
    tmp_path: Path, remote: str, of_its_own: bool, told: bool
) -> None:
    now = system_clock()
    older = lambda: now - timedelta(days=400)  # noqa: E731 - a clock that stands
    authority = certificates.init(tmp_path / "ca", clock=older)
    authority.issue_host("h1", ["10.0.0.3"]).write(tmp_path / "switch")
    certificates.load(tmp_path / "ca").issue_host("h1", ["10.0.0.3"]).write(tmp_path)
    own = TlsSettings(tmp_path / "ca.crt", tmp_path / "host.crt", tmp_path / "host.key")
    folder = tmp_path / "switch"
    given = NetworkTlsSettings(certificate=folder / "host.crt", key=folder / "host.key")
    network = NetworkSettings(
        southbound=(remote,), tls=given if of_its_own else NetworkTlsSettings()
    )
    scene = Scene(Settings(tls=own, network=network))
    found = [each for each in certificate_dates(scene) if "ended" in each.what]
    assert [str(folder / "host.crt") in each.what for each in found] == [True] * told
    assert all("unkai-scheduler cert host" in each.fix for each in found)

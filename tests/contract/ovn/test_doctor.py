"""What the scheduler's doctor finds of OVN's databases, on real ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.etcd import Authority
from tests.support.ovn import OvsdbServer
from tests.support.ovn_databases import OvnDatabases
from unkai_scheduler import certificates, ovn_certificates
from unkai_scheduler.cluster.etcd_access import Access
from unkai_scheduler.doctor import networks
from unkai_scheduler.doctor.checks import certificate_dates
from unkai_scheduler.doctor.scene import Scene
from unkai_scheduler.domain.clock import system_clock
from unkai_scheduler.network_settings import NetworkSettings, NetworkTlsSettings
from unkai_scheduler.settings import Settings
from unkai_wire.cluster_records import HostRecord
from unkai_wire.doctor.findings import Finding, Severity
from unkai_wire.tls import TlsFiles

CHECKS = (networks.reachable, networks.trusted, networks.northd, networks.patience)


@pytest.fixture
def central(tmp_path: Path) -> Iterator[OvnDatabases]:
    made = OvnDatabases(tmp_path)
    try:
        made.start()
        made.see()
        yield made
    finally:
        made.stop()


def found(network: NetworkSettings) -> list[Finding]:
    scene = Scene(Settings(name="s1", network=network))
    return [each for check in CHECKS for each in check(scene)]


def of(central: OvnDatabases) -> list[Finding]:
    northbound = f"unix:{central.northbound.socket}"
    return found(NetworkSettings(northbound=(northbound,), southbound=(central.sb,)))


def test_an_ovn_that_is_well_is_nothing(central: OvnDatabases) -> None:
    central.nbctl("--wait=sb", "ls-add", "blue")
    assert of(central) == []
    assert of(central) == [], "asking for northd's lock left something behind"


def test_a_cloud_without_networks_is_asked_nothing() -> None:
    assert found(NetworkSettings()) == []


def test_a_northd_that_does_not_run_is_told(central: OvnDatabases) -> None:
    central.end_northd()
    (only,) = of(central)
    assert "ovn-northd does not run" in only.what
    assert "systemctl restart ovn-northd" in only.fix


def test_a_northd_that_hangs_is_told(central: OvnDatabases) -> None:
    central.freeze_northd()
    central.nbctl("ls-add", "blue")
    (only,) = of(central)
    assert "networks not translated: 1" in only.what


def test_databases_that_are_away_are_told(central: OvnDatabases, tmp_path: Path) -> None:
    away = f"unix:{tmp_path}/nothing"
    told = found(NetworkSettings(northbound=(away,), southbound=(central.sb,)))
    assert [away in each.what for each in told] == [True]
    assert "ovn-nbctl get-connection" in told[0].fix


def test_a_listener_without_patience_is_told_with_what_gives_it(central: OvnDatabases) -> None:
    central.nbctl("set-connection", "ptcp:0:127.0.0.1")
    (only,) = of(central)
    assert only.severity is Severity.WARN
    assert "5000 ms" in only.what
    words = only.fix.split()
    assert words[0] == "ovn-nbctl"
    central.nbctl(*words[1:])
    assert of(central) == []


@pytest.mark.parametrize("strangers", ["theirs", "ours"])
def test_who_does_not_trust_whom_is_told_apart_from_silence(tmp_path: Path, strangers: str) -> None:
    own, other = Authority.make(tmp_path / "own"), Authority.make(tmp_path / "other")
    server = OvsdbServer(tmp_path, tls=own.issue("ovn"))
    ours = (other if strangers == "ours" else own).issue("scheduler")
    ca = (other if strangers == "theirs" else own).ca_file
    tls = NetworkTlsSettings(ca=ca, certificate=ours.certificate, key=ours.key)
    server.start()
    try:
        told = found(NetworkSettings(northbound=(server.remote,), tls=tls))
        well = own.issue("us")
        tls = NetworkTlsSettings(ca=own.ca_file, certificate=well.certificate, key=well.key)
        assert found(NetworkSettings(northbound=(server.remote,), tls=tls)) == []
    finally:
        server.stop()
    (only,) = told
    assert "do not trust each other" in only.what


@pytest.mark.parametrize(
    ("whose", "begun_days", "severity", "said", "command"),
    [
        ("database", -350, Severity.WARN, "ends", "cert ovn NAME --address 127.0.0.1"),
        ("database", -400, Severity.FAIL, "has ended", "cert ovn NAME --address 127.0.0.1"),
        ("scheduler", -350, Severity.WARN, "ends", "cert ovn-client s1"),
        ("scheduler", -400, Severity.FAIL, "ended", "cert ovn-client s1"),
    ],
)
def test_certificates_that_end_are_told_with_what_makes_them_anew(
    tmp_path: Path, whose: str, begun_days: int, severity: Severity, said: str, command: str
) -> None:
    now = system_clock()
    cloud = certificates.init(tmp_path / "pki", clock=lambda: now - timedelta(days=500))
    ovn_certificates.authority(cloud, tmp_path / "ovn", clock=lambda: now - timedelta(days=500))

    def issuer(who: str) -> ovn_certificates.OvnAuthority:
        days = begun_days if who == whose else 0
        clock = lambda: now + timedelta(days=days)  # noqa: E731 - a clock that stands
        return ovn_certificates.authority(cloud, tmp_path / "ovn", clock=clock)

    servers, own = tmp_path / "c1", tmp_path / "s1"
    certificates.write(issuer("database").issue_databases("c1", ["127.0.0.1"]), servers)
    issuer("scheduler").issue_client("s1").write(own)
    tls = NetworkTlsSettings(
        ca=own / "ovn-ca.crt", certificate=own / "ovn-client.crt", key=own / "ovn-client.key"
    )
    files = TlsFiles(servers / "ovn-nb-ca.crt", servers / "ovn-nb.crt", servers / "ovn-nb.key")
    server = OvsdbServer(servers, tls=files)
    server.start()
    try:
        network = NetworkSettings(northbound=(server.remote,), tls=tls)
        scene = Scene(Settings(name="s1", network=network))
        told = [*networks.trusted(scene), *certificate_dates(scene)]
    finally:
        server.stop()
    by_file = [each for each in told if str(tmp_path) in each.what or server.remote in each.what]
    of_it = [each for each in by_file if command in each.fix]
    assert [each.severity for each in of_it] == [severity], told
    assert said in of_it[0].what


def test_files_of_ours_that_are_missing_are_not_the_databases_fault(tmp_path: Path) -> None:
    tls = NetworkTlsSettings(ca=tmp_path / "ca.crt")
    (only,) = found(NetworkSettings(northbound=("ssl:127.0.0.1:6641",), tls=tls))
    assert "our own files cannot be used" in only.what


def test_a_physical_network_that_no_host_has_is_told_and_a_missing_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = NetworkSettings(northbound=("unix:/nb",), physical_networks={"a": 1500, "b": 1500})
    scene = Scene(Settings(name="s1", network=network))
    host = HostRecord(
        *("hst-1", "h1", "192.0.2.1:7", "h", 1, 1, 1, "tcg", "", (), "boot", "1"),
        physical_networks=("a",),
    )
    monkeypatch.setattr(scene, "access", lambda: Access(answered=True, hosts=(host,)))
    (only,) = networks.physical_networks(scene)
    assert only.what == "no host is attached to physical network b"

    monkeypatch.setenv("PATH", "/nowhere")
    assert [f.fix for f in networks.programs(scene)] == [
        "apt install ovn-common",
        "apt install openvswitch-common",
    ]

"""Who of OVN's parties trusts whose certificate, and what `cert ovn` writes."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from unkai_scheduler import certificates, ovn_certificates
from unkai_scheduler.certificates import Bundle
from unkai_scheduler.main import main
from unkai_scheduler.network_settings import NetworkTlsSettings
from unkai_wire.errors import AlreadyExists, FailedPrecondition


@pytest.fixture
def cloud(tmp_path: Path) -> certificates.Authority:
    return certificates.init(tmp_path / "pki")


@pytest.fixture
def ovn(cloud: certificates.Authority, tmp_path: Path) -> ovn_certificates.OvnAuthority:
    return ovn_certificates.authority(cloud, tmp_path / "ovn")


def lets_in(server: Bundle, client: Bundle) -> bool:
    """Tell whether a server takes a client's certificate."""
    verifier = PolicyBuilder().store(_store(server)).build_client_verifier()
    try:
        verifier.verify(x509.load_pem_x509_certificate(client.certificate), [])
    except VerificationError:
        return False
    return True


def trusts(client: Bundle, server: Bundle, address: str) -> bool:
    """Tell whether a client takes who shows a server's certificate at an address."""
    at = x509.IPAddress(ipaddress.ip_address(address))
    verifier = PolicyBuilder().store(_store(client)).build_server_verifier(at)
    try:
        verifier.verify(x509.load_pem_x509_certificate(server.certificate), [])
    except VerificationError:
        return False
    return True


def _store(bundle: Bundle) -> Store:
    return Store(x509.load_pem_x509_certificates(bundle.ca))


def test_hosts_write_to_the_southbound_database_alone_and_schedulers_to_both(
    cloud: certificates.Authority, ovn: ovn_certificates.OvnAuthority
) -> None:
    north, south = ovn.issue_databases("c1", ["192.0.2.1"])
    host, scheduler = cloud.issue_host("h1"), ovn.issue_client("s1")
    others = (cloud.issue_client("ada"), cloud.issue_scheduler("s1"), cloud.issue_monitor("m1"))

    assert [lets_in(north, each) for each in (scheduler, host, *others)] == [True] + 4 * [False]
    assert [lets_in(south, each) for each in (scheduler, host)] == [True, True]


def test_their_clients_know_the_databases_by_the_address_that_they_call(
    cloud: certificates.Authority, ovn: ovn_certificates.OvnAuthority
) -> None:
    north, south = ovn.issue_databases("c1", ["192.0.2.1", "fd00::1"])
    host, scheduler = cloud.issue_host("h1"), ovn.issue_client("s1")

    for address in ("192.0.2.1", "fd00::1"):
        assert trusts(scheduler, north, address)
        assert trusts(scheduler, south, address)
        assert trusts(host, south, address)
        assert not trusts(host, north, address)
    assert not trusts(scheduler, north, "192.0.2.2")


def test_a_schedulers_certificate_serves_nothing(ovn: ovn_certificates.OvnAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(ovn.issue_client("s1").certificate)

    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "scheduler-s1"


def test_renewed_certificates_are_of_the_same_authority(
    cloud: certificates.Authority, ovn: ovn_certificates.OvnAuthority, tmp_path: Path
) -> None:
    north, _ = ovn.issue_databases("c1", ["192.0.2.1"])
    again = ovn_certificates.authority(cloud, tmp_path / "ovn")

    assert lets_in(north, again.issue_client("s1"))
    renewed, _ = again.issue_databases("c1", ["192.0.2.1"])
    assert renewed.ca == north.ca


def test_half_an_authority_is_not_made_anew(
    cloud: certificates.Authority, ovn: ovn_certificates.OvnAuthority, tmp_path: Path
) -> None:
    (tmp_path / "ovn" / "ca.key").unlink()

    with pytest.raises(FailedPrecondition) as caught:
        ovn_certificates.authority(cloud, tmp_path / "ovn")
    assert caught.value.reason == "NO_CA"


def test_of_two_databases_certificates_both_are_written_or_none(
    ovn: ovn_certificates.OvnAuthority, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ovn-sb.key").touch()

    with pytest.raises(AlreadyExists):
        certificates.write(ovn.issue_databases("c1", ["192.0.2.1"]), out)
    assert [path.name for path in out.iterdir()] == ["ovn-sb.key"]


def test_the_commands_write_what_the_settings_name_by_default(tmp_path: Path) -> None:
    runner, where = CliRunner(), ["--dir", str(tmp_path)]
    runner.invoke(main, ["init", "--name", "s1", *where])
    servers = ["cert", "ovn", "c1", "--address", "192.0.2.1", *where, "--out"]
    client = ["cert", "ovn-client", "s1", *where, "--out"]

    for command, folder in ((servers, "servers"), (client, "client")):
        made = runner.invoke(main, [*command, str(tmp_path / folder)])
        assert made.exit_code == 0, made.output
        again = runner.invoke(main, [*command, str(tmp_path / folder)])
        assert (again.exit_code, "exists" in again.output) == (1, True)

    modes = {
        path.name: path.stat().st_mode & 0o777
        for folder in ("servers", "client")
        for path in (tmp_path / folder).iterdir()
    }
    keys = dict.fromkeys(("ovn-nb.key", "ovn-sb.key", "ovn-client.key"), 0o600)
    open_to_all = ("ovn-nb.crt", "ovn-nb-ca.crt", "ovn-sb.crt", "ovn-sb-ca.crt")
    assert modes == keys | dict.fromkeys((*open_to_all, "ovn-client.crt", "ovn-ca.crt"), 0o644)
    defaults = NetworkTlsSettings()
    assert {defaults.ca.name, defaults.certificate.name, defaults.key.name} == {
        path.name for path in (tmp_path / "client").iterdir()
    }


def test_without_the_clouds_authority_none_of_ovn_is_made(tmp_path: Path) -> None:
    made = CliRunner().invoke(main, ["cert", "ovn", "c1", "--dir", str(tmp_path)])

    assert made.exit_code == 1
    assert "NO_CA" in made.output
    assert list(tmp_path.iterdir()) == []

"""Certificates name their holder, chain to one CA, and never overwrite each other."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509

from unkai_scheduler import certificates
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from unkai_wire.ids import is_id
from unkai_wire.tls import (
    SCHEDULER_TLS_NAME,
    Principal,
    Role,
    fleet_tls_name,
    host_tls_name,
    principal_of_uri,
)


def read(bundle: certificates.Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificate(bundle.certificate)


def names(bundle: certificates.Bundle) -> x509.SubjectAlternativeName:
    return read(bundle).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def holder(bundle: certificates.Bundle) -> Principal:
    (uri,) = names(bundle).get_values_for_type(x509.UniformResourceIdentifier)
    return principal_of_uri(uri)


def test_a_host_s_certificate_names_its_id_and_name_and_addresses(tmp_path: Path) -> None:
    bundle = certificates.init(tmp_path).issue_host("h1", ["10.0.0.1", "fd00::1"])

    who = holder(bundle)
    assert (who.role, who.name) == (Role.HOST, "h1")
    assert is_id("host", who.host_id)
    assert host_tls_name(who.host_id) in names(bundle).get_values_for_type(x509.DNSName)
    assert [str(ip) for ip in names(bundle).get_values_for_type(x509.IPAddress)] == [
        "10.0.0.1",
        "fd00::1",
    ]
    (common_name,) = read(bundle).subject
    assert common_name.value == who.host_id


def test_a_host_keeps_its_id_when_its_certificate_is_renewed(tmp_path: Path) -> None:
    authority = certificates.init(tmp_path)
    ident = holder(authority.issue_host("h1")).host_id

    assert holder(authority.issue_host("h1", host_id=ident)).host_id == ident


@pytest.mark.parametrize(
    ("kind", "role", "name"),
    [
        ("issue_client", Role.CLIENT, None),
        ("issue_monitor", Role.MONITOR, None),
        ("issue_scheduler", Role.SCHEDULER, SCHEDULER_TLS_NAME),
        ("issue_etcd", Role.ETCD, "localhost"),
        ("issue_database", Role.DATABASE, "localhost"),
        ("issue_etcd_client", Role.SCHEDULER, None),
        ("issue_fleet", Role.FLEET, fleet_tls_name("x1")),
    ],
)
def test_each_kind_names_its_role_and_what_its_clients_verify(
    tmp_path: Path, kind: str, role: Role, name: str | None
) -> None:
    bundle = getattr(certificates.init(tmp_path), kind)("x1")

    assert holder(bundle) == Principal(role, "x1")
    dns = names(bundle).get_values_for_type(x509.DNSName)
    assert (name in dns) if name else not dns


def test_a_leaf_is_signed_by_the_ca_and_can_sign_nothing(tmp_path: Path) -> None:
    authority = certificates.init(tmp_path)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    leaf = read(authority.issue_client("admin"))

    leaf.verify_directly_issued_by(ca)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is True


def test_lifetimes_are_ten_years_and_one_year(tmp_path: Path) -> None:
    now = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    authority = certificates.init(tmp_path, clock=lambda: now)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())

    leaf = read(authority.issue_client("admin"))
    assert ca.not_valid_after_utc - now == dt.timedelta(days=3652)
    assert leaf.not_valid_after_utc - now == dt.timedelta(days=365)
    # A machine whose clock is hours late must accept what was made a moment ago.
    for fresh in (ca, leaf):
        assert fresh.not_valid_before_utc <= now - dt.timedelta(hours=12)


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    certificates.init(tmp_path).issue_scheduler("s1").write(tmp_path)

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "issued": 0o755,
        "scheduler.crt": 0o644,
        "scheduler.key": 0o600,
    }


def test_whatever_the_umask_nobody_else_writes_what_the_ca_keeps(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certificates.init(tmp_path / "ca").issue_host("h1").write(tmp_path / "h1")
    finally:
        os.umask(before)

    made = [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o022]
    assert made == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.key"))


def test_an_existing_ca_or_half_of_one_is_never_overwritten(tmp_path: Path) -> None:
    certificates.init(tmp_path)
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(AlreadyExists):
        certificates.init(tmp_path)
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(AlreadyExists):
        certificates.init(tmp_path)

    assert (tmp_path / "ca.key").read_bytes() == before


def test_a_certificate_is_not_written_over_another_or_beside_another_ca(tmp_path: Path) -> None:
    ours, theirs = certificates.init(tmp_path / "a"), certificates.init(tmp_path / "b")
    out = tmp_path / "out"
    ours.issue_client("admin").write(out)

    with pytest.raises(AlreadyExists):
        ours.issue_client("admin").write(out)
    with pytest.raises(FailedPrecondition) as caught:
        theirs.issue_client("other").write(out)
    assert caught.value.reason == "OTHER_CA"


def test_a_loaded_ca_goes_on_signing(tmp_path: Path) -> None:
    certificates.init(tmp_path)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())

    read(certificates.load(tmp_path).issue_client("admin")).verify_directly_issued_by(ca)


def test_without_a_ca_the_fix_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        certificates.load(tmp_path)
    assert caught.value.reason == "NO_CA"
    assert "init" in caught.value.fix


@pytest.mark.parametrize("name", ["", "A", "a/b", "a" * 51, "-a", "unkai://client/x"])
def test_a_name_that_would_change_who_is_named_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        certificates.init(tmp_path).issue_client(name)


def test_a_bundle_does_not_print_its_key(tmp_path: Path) -> None:
    bundle = certificates.init(tmp_path).issue_client("admin")
    assert "PRIVATE" not in repr(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "scheduler.unkai.internal",
        "etcd.unkai.internal",
        "x.fleet.unkai.internal",
        "hst-01kawm4x2rf2qtfhyz7m9d1c3b.host.unkai.internal",
        "unkai.internal",
    ],
)
def test_nobody_is_named_as_another_s_server_is(tmp_path: Path, name: str) -> None:
    authority = certificates.init(tmp_path)
    for issue in (authority.issue_host, authority.issue_etcd, authority.issue_scheduler):
        with pytest.raises(InvalidArgument) as caught:
            issue(name)
        assert caught.value.reason == "RESERVED_NAME"


def test_the_ca_remembers_each_holder_once_until_it_is_told_to_forget(tmp_path: Path) -> None:
    authority = certificates.init(tmp_path)
    first = holder(authority.issue_host("h1"))
    authority.issue_host("renamed", host_id=first.host_id)
    authority.issue_scheduler("s1")
    authority.issue_etcd_client("s1")
    authority.etcd_root()

    again = certificates.load(tmp_path)
    assert again.issued() == [
        Principal(Role.HOST, "renamed", first.host_id),
        Principal(Role.SCHEDULER, "s1"),
    ]
    again.forget(first)
    assert again.issued() == [Principal(Role.SCHEDULER, "s1")]


def test_etcd_s_root_lives_for_minutes_and_can_serve_nothing(tmp_path: Path) -> None:
    root = certificates.init(tmp_path).etcd_root()

    (common_name,) = read(root).subject
    assert common_name.value == "root"
    lifetime = read(root).not_valid_after_utc - read(root).not_valid_before_utc
    assert lifetime <= dt.timedelta(minutes=15)
    assert not names(root).get_values_for_type(x509.DNSName)
    assert root.key.decode() not in repr(root)

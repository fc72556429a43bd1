"""What is found of certificates; each on files that our own CA made."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from unkai_scheduler import certificates as authority
from unkai_wire.doctor import certificates
from unkai_wire.tls import Role, TlsFiles

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
RENEW = "make it anew"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    ca = authority.init(tmp_path / "ca", clock=lambda: NOW)
    ca.issue_host("h1", ["192.0.2.11"]).write(tmp_path / "pki")
    pki = tmp_path / "pki"
    return TlsFiles(pki / "ca.crt", pki / "host.crt", pki / "host.key")


def looked(files: TlsFiles) -> certificates.Certificate:
    return certificates.look(files, RENEW)


def test_a_sound_certificate_has_nothing(files: TlsFiles) -> None:
    found = looked(files)
    assert not [
        *certificates.unreadable(found),
        *certificates.exposed_key(found),
        *certificates.other_key(found),
        *certificates.other_ca(found),
        *certificates.dates(found, NOW),
        *certificates.identity(found, Role.HOST),
        *certificates.address(found, "192.0.2.11"),
    ]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (NOW - dt.timedelta(days=2), "is valid from"),
        (NOW + dt.timedelta(days=340), "ends"),
        (NOW + dt.timedelta(days=366), "ended"),
    ],
)
def test_dates_are_told_before_and_after(files: TlsFiles, when: dt.datetime, said: str) -> None:
    assert any(said in f.what for f in certificates.dates(looked(files), when))


def test_every_ca_in_a_file_of_several_is_looked_at(files: TlsFiles, tmp_path: Path) -> None:
    older = authority.init(tmp_path / "older", clock=lambda: NOW - dt.timedelta(days=3600))
    files.ca.write_bytes(files.ca.read_bytes() + older.pem)
    found = looked(files)
    assert not list(certificates.other_ca(found)), "the first one counts there"
    (ends,) = certificates.dates(found, NOW + dt.timedelta(days=40))
    assert ends.what.startswith(f"{files.ca} end")


def test_each_file_that_cannot_be_used_is_named(files: TlsFiles) -> None:
    files.key.unlink()
    files.certificate.write_text("no PEM")
    found = list(certificates.unreadable(looked(files)))
    assert {f.what for f in found} == {
        f"{files.key}: No such file or directory",
        f"{files.certificate}: holds no PEM of its kind",
    }
    assert all(f.fix.startswith(RENEW) for f in found)


def test_what_cannot_be_read_is_told_once_and_judged_no_further(files: TlsFiles) -> None:
    for path in (files.ca, files.certificate, files.key):
        path.unlink()
    found = looked(files)
    assert len(list(certificates.unreadable(found))) == 3
    assert not [
        *certificates.exposed_key(found),
        *certificates.other_key(found),
        *certificates.other_ca(found),
        *certificates.dates(found, NOW),
        *certificates.identity(found, Role.HOST),
        *certificates.address(found, "192.0.2.99"),
    ]


def test_a_key_that_is_missing_is_no_other_certificate_s(files: TlsFiles) -> None:
    files.key.unlink()
    assert not list(certificates.other_key(looked(files)))


def test_a_ca_that_is_missing_has_not_refused_anybody(files: TlsFiles) -> None:
    files.ca.unlink()
    assert not list(certificates.other_ca(looked(files)))


def test_a_key_of_another_certificate_is_told(files: TlsFiles, tmp_path: Path) -> None:
    authority.load(tmp_path / "ca").issue_host("h2", []).write(tmp_path / "h2")
    mixed = TlsFiles(files.ca, files.certificate, tmp_path / "h2" / "host.key")
    (found,) = certificates.other_key(looked(mixed))
    assert f"{mixed.key} is not the key of" in found.what


def test_a_certificate_of_another_cloud_is_told(files: TlsFiles, tmp_path: Path) -> None:
    other = authority.init(tmp_path / "other", clock=lambda: NOW)
    other.issue_host("h1", []).write(tmp_path / "theirs")
    mixed = TlsFiles(files.ca, tmp_path / "theirs/host.crt", tmp_path / "theirs/host.key")
    (found,) = certificates.other_ca(looked(mixed))
    assert "was not made by the CA" in found.what
    assert not list(certificates.other_key(looked(mixed)))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_may_read_is_told(files: TlsFiles, mode: int) -> None:
    files.key.chmod(mode)
    (found,) = certificates.exposed_key(looked(files))
    assert f"mode {mode:04o}" in found.what


def test_an_address_that_is_a_name_is_left_to_the_resolver(files: TlsFiles) -> None:
    assert not list(certificates.address(looked(files), "h1.example.org"))


def test_a_client_in_a_hosts_place_is_named(files: TlsFiles) -> None:
    (found,) = certificates.identity(looked(files), Role.CLIENT)
    assert "host:h1" in found.what


def test_what_renews_a_certificate_keeps_its_addresses_and_adds_the_one_it_lacks(
    files: TlsFiles,
) -> None:
    found = certificates.look(files, "cert host h1", "; restart")
    (lacking,) = certificates.address(found, "192.0.2.99")
    assert lacking.fix == "cert host h1 --address 192.0.2.11 --address 192.0.2.99; restart"
    (ended,) = certificates.dates(found, NOW + dt.timedelta(days=340))
    assert ended.fix == "cert host h1 --address 192.0.2.11; restart"

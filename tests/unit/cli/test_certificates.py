"""A certificate that cannot be used is told as such, and at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api import make_certificates, tls_files
from tests.support.command_line import Outcome, unkai
from tests.support.served_api import ServedApi
from unkai_cli import certificates as looked_at
from unkai_scheduler import certificates
from unkai_wire.tls import TlsFiles

HOUR = dt.timedelta(hours=1)
Ask = Callable[[TlsFiles], Outcome]


@pytest.fixture
def ask(cloud: ServedApi, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`unkai flavor list` over mTLS; no pause between two tries is allowed."""

    def asked(files: TlsFiles) -> Outcome:
        monkeypatch.delenv("UNKAI_SOCKET")
        monkeypatch.setattr("unkai_cli.client._pause", lambda *_: pytest.fail("tried again"))
        monkeypatch.setenv("UNKAI_ADDRESS", f"127.0.0.1:{cloud.api.port}")
        monkeypatch.setenv("UNKAI_CA", str(files.ca))
        monkeypatch.setenv("UNKAI_CERTIFICATE", str(files.certificate))
        monkeypatch.setenv("UNKAI_KEY", str(files.key))
        return unkai("flavor", "list", "-o", "name")

    return asked


def _issued(pki: Path, folder: Path, start: dt.timedelta) -> TlsFiles:
    """Make a client's certificate that begins `start` from now and is good for an hour."""
    now = dt.datetime.now(dt.UTC)
    authority = certificates.load(pki, lifetime=HOUR, clock=lambda: now + start)
    authority.issue_client("ada").write(folder)
    return tls_files(folder, "client-ada")


def _refused(outcome: Outcome, *words: str) -> None:
    assert (outcome.code, outcome.out) == (7, "")
    assert "CERTIFICATE_INVALID" in outcome.err
    assert "unkai-scheduler cert client" in outcome.err
    assert all(word in outcome.err for word in words), outcome.err


def test_a_good_certificate_opens_the_door(ask: Ask, pki: Path, tmp_path: Path) -> None:
    files = _issued(pki, tmp_path / "ada", dt.timedelta(0))
    assert "nano" in ask(files).out.split()
    assert looked_at.problem(files) == ""


def test_a_certificate_that_has_ended_is_told(ask: Ask, pki: Path, tmp_path: Path) -> None:
    _refused(ask(_issued(pki, tmp_path / "ada", -5 * HOUR)), "expired", "client-ada.crt")


def test_a_certificate_that_has_not_begun_is_told(ask: Ask, pki: Path, tmp_path: Path) -> None:
    _refused(ask(_issued(pki, tmp_path / "ada", 5 * HOUR)), "not yet valid")


def test_a_certificate_of_another_ca_is_told(ask: Ask, pki: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    other = tls_files(tmp_path / "other", "client-admin")
    _refused(ask(TlsFiles(pki / "ca.crt", other.certificate, other.key)), "issuer")


def test_a_key_of_another_certificate_is_told(ask: Ask, pki: Path) -> None:
    files = TlsFiles(pki / "ca.crt", pki / "client-admin.crt", pki / "scheduler.key")
    _refused(ask(files), "is not the key of")


@pytest.mark.parametrize("wrong", ["ca", "certificate", "key"])
def test_a_file_that_is_no_pem_is_told(wrong: str, ask: Ask, pki: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("not PEM")
    good = tls_files(pki, "client-admin")
    paths = {"ca": good.ca, "certificate": good.certificate, "key": good.key} | {wrong: junk}
    _refused(ask(TlsFiles(**paths)), str(junk), "PEM")


def test_a_scheduler_of_another_cloud_is_not_trusted(ask: Ask, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    outcome = ask(tls_files(tmp_path / "other", "client-admin"))
    assert (outcome.code, outcome.out) == (7, "")
    assert "SCHEDULER_NOT_TRUSTED" in outcome.err
    assert "unkai context show" in outcome.err


def test_a_scheduler_that_is_away_is_still_looked_for(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr("unkai_cli.client._pause", lambda failures, _: pauses.append(failures))
    files = tls_files(pki, "client-admin")
    monkeypatch.setenv("UNKAI_ADDRESS", "127.0.0.1:1")
    for name, path in (("CA", files.ca), ("CERTIFICATE", files.certificate), ("KEY", files.key)):
        monkeypatch.setenv(f"UNKAI_{name}", str(path))
    outcome = unkai("flavor", "list")
    assert outcome.code == 6
    assert pauses == [1, 2, 3, 4, 5]

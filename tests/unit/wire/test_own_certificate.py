"""Daemons read their own certificates without a library for that, as the library would."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from unkai_agent import host_facts
from unkai_scheduler import certificates
from unkai_wire.errors import FailedPrecondition
from unkai_wire.own_certificate import end_of, uris_of
from unkai_wire.tls import Role

KEYS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def a_certificate(*names: x509.GeneralName, key: str = "ec", years: int = 1) -> str:
    private = KEYS[key]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "h1")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + years))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if key == "ed25519" else hashes.SHA256()
    return builder.sign(private, algorithm).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("key", KEYS)
def test_the_uris_are_read_among_other_names(key: str) -> None:
    pem = a_certificate(
        x509.DNSName("a" * 200 + ".host.unkai.internal"),
        x509.UniformResourceIdentifier("unkai://host/hst-1/h1"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.UniformResourceIdentifier("https://example.org/" + "x" * 300),
        key=key,
    )
    assert uris_of(pem) == ["unkai://host/hst-1/h1", "https://example.org/" + "x" * 300]


def test_of_a_chain_the_first_counts_and_text_around_it_does_not() -> None:
    first = a_certificate(x509.UniformResourceIdentifier("unkai://host/hst-1/h1"))
    second = a_certificate(x509.UniformResourceIdentifier("unkai://host/hst-2/h2"))
    assert uris_of(f"subject=CN=h1\n{first}\n{second}") == ["unkai://host/hst-1/h1"]


def test_a_certificate_without_names_has_no_uris() -> None:
    assert uris_of(a_certificate()) == []


@pytest.mark.parametrize("years", [1, 10, 23, 24, 100])
def test_the_end_is_read_in_either_century(years: int) -> None:
    pem = a_certificate(years=years)
    wanted = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    assert end_of(pem) == wanted == dt.datetime(2026 + years, 1, 1, tzinfo=dt.UTC)


def test_a_host_s_own_certificate_says_which_host_it_is(tmp_path: Path) -> None:
    certificates.init(tmp_path / "ca").issue_host("h1", ["10.0.0.1"]).write(tmp_path)
    principal = host_facts.principal_of_certificate(tmp_path / "host.crt")
    assert (principal.role, principal.name) == (Role.HOST, "h1")


@pytest.mark.parametrize(
    "text",
    ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_a_file_that_is_no_certificate_is_no_identity(tmp_path: Path, text: str) -> None:
    file = tmp_path / "host.crt"
    file.write_text(text)
    with pytest.raises(FailedPrecondition) as caught:
        host_facts.principal_of_certificate(file)
    assert caught.value.reason == "NO_IDENTITY"


WHOLE = ssl.PEM_cert_to_DER_cert(
    a_certificate(x509.UniformResourceIdentifier("unkai://host/hst-1/h1"))
)


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), length=st.integers(0, 2000))
def test_a_damaged_certificate_is_unreadable_or_read_and_nothing_else(
    at: int, byte: int, length: int
) -> None:
    damaged = (WHOLE[:at] + bytes((byte,)) + WHOLE[at + 1 :])[:length]
    for read in (uris_of, end_of):
        with contextlib.suppress(ValueError):
            read(ssl.DER_cert_to_PEM_cert(damaged))

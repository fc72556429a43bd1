"""Checks of a party's certificate, key and CA: what a handshake would trip over, said in time.

`look` reads the files; the judges are pure. Only the names of files are ever shown.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from unkai_wire.doctor.findings import Finding, Severity, finding
from unkai_wire.tls import Principal, Role, TlsFiles, principal_of_uri

SOON = dt.timedelta(days=30)
"""A year's certificate is renewed in its last month."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the files of one party hold; None: it could not be read."""

    files: TlsFiles
    renew: str
    """The command that makes them anew, addresses left out."""
    then: str
    """What is left to do after it."""
    own: x509.Certificate | None
    ca: x509.Certificate | None
    public_key: bytes | None
    """Of the key file, in DER."""
    key_mode: int
    other_cas: tuple[x509.Certificate, ...] = ()
    """What follows the first in the CA's file."""
    problems: tuple[tuple[str, str], ...] = ()
    """Files that cannot be used, each with why."""

    def fix(self, *more_addresses: str) -> str:
        """Return what makes them anew, with the addresses that they have and some more."""
        addresses = dict.fromkeys((*map(str, _addresses(self.own)), *more_addresses))
        return self.renew + "".join(f" --address {each}" for each in addresses) + self.then


def look(files: TlsFiles, renew: str, then: str = "") -> Certificate:
    """Read the files."""
    problems: list[tuple[str, str]] = []

    def read(path: object, parse: object) -> object:
        try:
            return parse(path.read_bytes())  # type: ignore[operator, attr-defined]
        except OSError as error:
            problems.append((str(path), error.strerror or type(error).__name__))
        except (ValueError, TypeError):
            problems.append((str(path), "holds no PEM of its kind"))
        return None

    own = read(files.certificate, x509.load_pem_x509_certificate)
    cas = _list(read(files.ca, x509.load_pem_x509_certificates))
    public_key = read(files.key, _public_key)
    try:
        mode = stat.S_IMODE(files.key.stat().st_mode)
    except OSError:
        mode = 0o600
    return Certificate(
        files,
        renew,
        then,
        own,  # type: ignore[arg-type]
        cas[0] if cas else None,
        public_key,  # type: ignore[arg-type]
        mode,
        tuple(cas[1:]),
        tuple(problems),
    )


def _list(found: object) -> list[x509.Certificate]:
    return found if isinstance(found, list) else []


def _public_key(pem: bytes) -> bytes:
    return _der(serialization.load_pem_private_key(pem, password=None).public_key())


def _der(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def unreadable(found: Certificate) -> Iterable[Finding]:
    """Judge: files that are missing or broken."""
    for path, why in found.problems:
        yield finding(
            Severity.FAIL,
            f"{path}: {why}",
            "no connection of this party can be made or taken",
            found.fix(),
        )


def exposed_key(found: Certificate) -> Iterable[Finding]:
    """Judge: a key that others than its owner may read."""
    if found.key_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield finding(
            Severity.FAIL,
            f"{found.files.key} has mode {found.key_mode:04o}",
            "whoever reads it can pass for this party",
            f"chmod 0600 {found.files.key}; if others have been on this machine: {found.fix()}",
        )


def other_key(found: Certificate) -> Iterable[Finding]:
    """Judge: a key that is not the certificate's."""
    if found.own is None or found.public_key is None:
        return
    if _der(found.own.public_key()) != found.public_key:
        yield finding(
            Severity.FAIL,
            f"{found.files.key} is not the key of {found.files.certificate}",
            "no handshake succeeds",
            f"copy both files of one pair; or {found.fix()}",
        )


def other_ca(found: Certificate) -> Iterable[Finding]:
    """Judge: a certificate that this CA has not signed."""
    if found.own is None or found.ca is None:
        return
    try:
        found.own.verify_directly_issued_by(found.ca)
    except (ValueError, TypeError, InvalidSignature):
        yield finding(
            Severity.FAIL,
            f"{found.files.certificate} was not made by the CA in {found.files.ca}",
            "this party trusts another cloud than the one that trusts it",
            f"copy ca.crt from the control machine; or {found.fix()}",
        )


def dates(found: Certificate, now: dt.datetime) -> Iterable[Finding]:
    """Judge: certificates that have ended, end soon, or have not begun."""
    cas = [(found.files.ca, ca) for ca in (found.ca, *found.other_cas)]
    named = ((found.files.certificate, found.own), *cas)
    for path, certificate in named:
        if certificate is None:
            continue
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < start:
            yield finding(
                Severity.FAIL,
                f"{path} is valid from {start:%Y-%m-%d %H:%M} UTC; here it is {now:%Y-%m-%d %H:%M}",
                "this machine's clock is behind, or was when the certificate was made ahead",
                "set the clock: timedatectl set-ntp true",
            )
        elif now >= end:
            yield finding(
                Severity.FAIL,
                f"{path} ended {end:%Y-%m-%d %H:%M} UTC",
                "every handshake with it fails",
                f"{found.fix()}; if it should be valid, the clock is ahead: timedatectl",
            )
        elif end - now < SOON:
            yield finding(
                Severity.WARN,
                f"{path} ends {end:%Y-%m-%d %H:%M} UTC, in {(end - now).days} days",
                "every handshake with it will fail then",
                found.fix(),
            )


def identity(found: Certificate, role: Role) -> Iterable[Finding]:
    """Judge: a certificate of another role, or of none."""
    if found.own is None:
        return
    principal = principal_of(found.own)
    if principal is None or principal.role is not role:
        is_a = "names no party of a cloud" if principal is None else f"is {principal}'s"
        yield finding(
            Severity.FAIL,
            f"{found.files.certificate} {is_a}, where a {role.value}'s must be",
            "this party may do nothing of what it must",
            found.fix(),
        )


def principal_of(certificate: x509.Certificate) -> Principal | None:
    """Return who a certificate says its holder is."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return principal_of_uri(names.get_values_for_type(x509.UniformResourceIdentifier)[0])
    except (ValueError, IndexError, x509.ExtensionNotFound):
        return None


def _addresses(certificate: x509.Certificate | None) -> list[object]:
    """Return the addresses in a certificate."""
    if certificate is None:
        return []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(names.get_values_for_type(x509.IPAddress))


def address(found: Certificate, advertised: str) -> Iterable[Finding]:
    """Judge: an address at which this party is reached and which its certificate lacks."""
    if found.own is None:
        return
    try:
        wanted = ipaddress.ip_address(advertised)
    except ValueError:
        return  # a name, which everybody looks up anew
    if wanted not in _addresses(found.own):
        yield finding(
            Severity.WARN,
            f"{found.files.certificate} does not name {advertised}, where this party is reached",
            "Prometheus, and whoever verifies addresses, refuses it",
            found.fix(advertised),
        )

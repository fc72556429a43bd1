"""A minimal certificate authority: one CA for the cloud, one short chain for each party.

Used by the `init` and `cert` commands alone; no daemon holds the CA's key. Names follow
`unkai_wire.tls`: the URI says who the holder is, a DNS name that does not depend on the address
is what its clients verify, the common name is what etcd knows it as. Files appear whole or not
at all, keys with mode 0600; what exists is never overwritten. The CA remembers whom it has made
certificates for: etcd's users are made from that.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from unkai_wire.ids import NewId, check_id, new_id
from unkai_wire.new_files import write_all_new
from unkai_wire.tls import (
    ETCD_ROOT,
    ETCD_TLS_NAME,
    SCHEDULER_TLS_NAME,
    TLS_DOMAIN,
    Principal,
    Role,
    common_name,
    fleet_tls_name,
    host_tls_name,
    principal_of_uri,
    principal_uri,
)

CA_LIFETIME = dt.timedelta(days=3652)
"""Ten years: renewing a CA touches every party."""
LEAF_LIFETIME = dt.timedelta(days=365)
"""One year: a lost key ends by itself."""
ROOT_LIFETIME = dt.timedelta(minutes=10)
"""Long enough for one command that changes etcd's users; it is never written to a disk."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_ISSUED = "issued"
"""Folder beside the CA: a file for each holder of a certificate, which contains its URI."""
_BACKDATE = dt.timedelta(days=1)
"""A fresh certificate must be valid at once on all hosts, also where a clock is hours late."""
_SHORT_BACKDATE = dt.timedelta(minutes=5)
"""The same for one that does not live for a day."""
_HOLDER = re.compile(r"[a-z0-9]([a-z0-9.-]{0,48}[a-z0-9])?")
"""At most 50: with its role before it, a common name may have 64 (RFC 5280, appendix A)."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A certificate with its key and its CA, all PEM."""

    name: str
    """Stem of its files: `scheduler`, `host`, `client-admin`."""
    certificate: bytes
    key: bytes
    ca: bytes
    """Whom its holder trusts: the CA that made it, unless said otherwise."""
    ca_name: str = "ca"
    """Stem of the file with that."""

    def __repr__(self) -> str:
        return f"Bundle({self.name!r}, key=****)"

    def write(self, folder: Path) -> list[Path]:
        """Write `NAME.crt`, `NAME.key` and the CA's; refuse to replace a certificate or key."""
        return write([self], folder)


def write(bundles: Sequence[Bundle], folder: Path) -> list[Path]:
    """Write all files of several bundles, or none; refuse to replace a certificate or key."""
    for path in (folder / f"{each.name}.{kind}" for each in bundles for kind in ("crt", "key")):
        if path.exists():
            raise AlreadyExists.of("certificate", str(path))
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    files: list[tuple[Path, bytes, int]] = []
    paths: list[Path] = []
    for each in bundles:
        certificate, key = folder / f"{each.name}.crt", folder / f"{each.name}.key"
        ca = folder / f"{each.ca_name}.crt"
        if not ca.exists():
            files.append((ca, each.ca, 0o644))
        elif ca.read_bytes() != each.ca:
            raise FailedPrecondition(
                f"{ca} is the certificate of another CA",
                reason="OTHER_CA",
                fix="choose another folder, or remove the old files",
                metadata={"path": str(ca)},
            )
        files += [(key, each.key, 0o600), (certificate, each.certificate, 0o644)]
        paths += [certificate, key, ca]
    write_all_new(files)
    return paths


class Authority:
    """The CA in memory. Load it with `load`, make it with `init`."""

    def __init__(
        self,
        folder: Path,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        lifetime: dt.timedelta = LEAF_LIFETIME,
        clock: Clock = system_clock,
        make_id: NewId = new_id,
    ) -> None:
        self._issued = folder / _ISSUED
        self._certificate = certificate
        self._key = key
        self._lifetime = lifetime
        self._clock = clock
        self._make_id = make_id

    @property
    def pem(self) -> bytes:
        """The CA's own certificate."""
        return _pem(self._certificate)

    def issue_host(
        self, name: str, addresses: Sequence[str] = (), host_id: str | None = None
    ) -> Bundle:
        """Make an agent's certificate; a new host id unless one is given."""
        ident = check_id("host", host_id, "host_id") if host_id else self._make_id("host")
        principal = Principal(Role.HOST, name, ident)
        return self._issue("host", principal, (host_tls_name(ident), name), addresses)

    def issue_client(self, name: str) -> Bundle:
        """Make the certificate of a person or program."""
        return self._issue(f"client-{name}", Principal(Role.CLIENT, name))

    def issue_monitor(self, name: str) -> Bundle:
        """Make the certificate of a program that reads figures, and may do nothing else."""
        return self._issue(f"monitor-{name}", Principal(Role.MONITOR, name))

    def issue_scheduler(self, name: str, addresses: Sequence[str] = ()) -> Bundle:
        """Make a scheduler's certificate."""
        names = (SCHEDULER_TLS_NAME, name, "localhost")
        return self._issue("scheduler", Principal(Role.SCHEDULER, name), names, addresses)

    def issue_etcd(self, name: str, addresses: Sequence[str] = ()) -> Bundle:
        """Make an etcd member's certificate, for its clients and its peers."""
        names = (ETCD_TLS_NAME, name, "localhost")
        return self._issue("etcd", Principal(Role.ETCD, name), names, addresses)

    def issue_etcd_client(self, name: str) -> Bundle:
        """Make the certificate a scheduler shows to etcd, whose user is the common name."""
        return self._issue("etcd-client", Principal(Role.SCHEDULER, name))

    def issue_database(self, name: str, addresses: Sequence[str] = ()) -> Bundle:
        """Make a database server's certificate; clients compare it with the address they call."""
        principal = Principal(Role.DATABASE, name)
        return self._issue("database", principal, (name, "localhost"), addresses)

    def issue_ovn_database(self, stem: str, name: str, addresses: Sequence[str] = ()) -> Bundle:
        """Make the certificate of one of OVN's databases on a machine. `stem`: of its files."""
        principal = Principal(Role.DATABASE, name)
        return self._issue(stem, principal, (name, "localhost"), addresses)

    def issue_ovn_client(self, name: str) -> Bundle:
        """Make the certificate a scheduler shows to OVN's databases."""
        return self._issue("ovn-client", Principal(Role.SCHEDULER, name))

    def issue_fleet(self, name: str, addresses: Sequence[str] = ()) -> Bundle:
        """Make the certificate of many simulated hosts in one process."""
        return self._issue("fleet", Principal(Role.FLEET, name), (fleet_tls_name(name),), addresses)

    def etcd_root(self) -> Bundle:
        """Make the certificate of etcd's root, good for minutes; it is not for writing."""
        principal = Principal(Role.ETCD, ETCD_ROOT)
        return self._sign("etcd-root", principal, user=ETCD_ROOT, lifetime=ROOT_LIFETIME)

    def issued(self) -> list[Principal]:
        """Return all that have a certificate of this CA, by common name."""
        if not self._issued.is_dir():
            return []
        files = sorted(file for file in self._issued.iterdir() if not file.name.startswith("."))
        return [principal_of_uri(file.read_text().strip()) for file in files]

    def forget(self, principal: Principal) -> None:
        """Remove a holder from those that `issued` returns."""
        (self._issued / common_name(principal)).unlink(missing_ok=True)

    def _issue(
        self,
        stem: str,
        principal: Principal,
        dns_names: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> Bundle:
        if not _HOLDER.fullmatch(principal.name):
            raise InvalidArgument.field(
                "name",
                f"{principal.name[:64]!r} must be 1 to 50 characters of a-z, 0-9, . and -",
                reason="INVALID_NAME",
            )
        if f".{principal.name}".endswith(f".{TLS_DOMAIN}"):
            raise InvalidArgument.field(
                "name",
                f"{principal.name} is kept for the cloud itself: with it in its certificate, "
                "the holder could pass for another",
                reason="RESERVED_NAME",
            )
        user = common_name(principal)
        bundle = self._sign(
            stem,
            principal,
            user=user,
            lifetime=self._lifetime,
            dns_names=dns_names,
            addresses=addresses,
        )
        self._issued.mkdir(mode=0o755, exist_ok=True)
        _replace(self._issued / user, f"{principal_uri(principal)}\n".encode())
        return bundle

    def _sign(
        self,
        stem: str,
        principal: Principal,
        *,
        user: str,
        lifetime: dt.timedelta,
        dns_names: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> Bundle:
        alternatives: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(principal_uri(principal))
        ]
        alternatives += [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
        alternatives += [x509.IPAddress(_ip(text)) for text in dict.fromkeys(addresses)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if dns_names:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        builder = _builder(user, key, now, now + lifetime)
        certificate = (
            builder.issuer_name(self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Bundle(stem, _pem(certificate), _key_pem(key), _pem(self._certificate))


Issue = Callable[[Authority], Bundle]
"""Makes one bundle from the CA."""


def init(
    folder: Path, *, lifetime: dt.timedelta = LEAF_LIFETIME, clock: Clock = system_clock
) -> Authority:
    """Make the CA in a folder; raise `AlreadyExists` when a CA, or half of one, is there."""
    certificate_path, key_path = folder / "ca.crt", folder / "ca.key"
    for path in (certificate_path, key_path):
        if path.exists():
            raise AlreadyExists.of("certificate", str(path))
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    now = clock()
    builder = _builder("unkai CA", key, now, now + CA_LIFETIME)
    certificate = (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unkai CA")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_all_new([(key_path, _key_pem(key), 0o600), (certificate_path, _pem(certificate), 0o644)])
    return Authority(folder, certificate, key, lifetime=lifetime, clock=clock)


def load(
    folder: Path, *, lifetime: dt.timedelta = LEAF_LIFETIME, clock: Clock = system_clock
) -> Authority:
    """Read the CA from a folder; raise `FailedPrecondition` when it is not whole."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"there is no usable CA in {folder}: {error}",
            reason="NO_CA",
            fix="make one with 'unkai-scheduler init'",
            metadata={"path": str(folder)},
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FailedPrecondition(
            f"the CA's key in {folder} is not an elliptic-curve key",
            reason="NO_CA",
            metadata={"path": str(folder)},
        )
    return Authority(folder, certificate, key, lifetime=lifetime, clock=clock)


def _builder(
    subject: str, key: ec.EllipticCurvePrivateKey, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - (_BACKDATE if end - start > _BACKDATE else _SHORT_BACKDATE))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument.field(
            "address", f"{text[:64]!r} is not an IP address", reason="INVALID_ADDRESS"
        ) from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew, so that readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o644), "wb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

"""A real etcd on loopback for tests: own ports and folder, plain or with client certificates."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import etcd3
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from unkai_wire.tls import TlsFiles

START_S = 20.0


def free_port() -> int:
    """Return a loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of one test."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path, name: str = "test ca") -> Authority:
        """Make one and write its certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        authority = cls(folder, key, certificate)
        authority.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return authority

    @property
    def ca_file(self) -> Path:
        """Path of its certificate."""
        return self.folder / "ca.crt"

    def issue(self, name: str, *, dns: tuple[str, ...] = ("localhost",)) -> TlsFiles:
        """Make a certificate for both ends, good for the DNS names and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(d) for d in dns]
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            _builder(_name(name), self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        files = TlsFiles(self.ca_file, self.folder / f"{name}.crt", self.folder / f"{name}.key")
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=60))
    )


class EtcdServer:
    """One etcd member as a child process; alone, or with peers that are named to it."""

    def __init__(self, folder: Path, *, server: TlsFiles | None = None, name: str = "one") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._server = server
        self._name = name
        self.quota_bytes = 0
        """Room it may take, from its next start on; 0: its own default."""
        self._port = free_port()
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"127.0.0.1:{self._port}"
        self.cluster = self.as_peer

    @property
    def as_peer(self) -> str:
        """How other members are told of this one."""
        return f"{self._name}={self._peer}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.await_answer()

    def launch(self) -> None:
        """Start it; a member of several answers only once most of them run."""
        scheme = "https" if self._server else "http"
        url, peer = f"{scheme}://{self.endpoint}", self._peer
        command = ["etcd", "--name", self._name, "--data-dir", str(self._folder / "etcd")]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", self.cluster, "--unsafe-no-fsync"]
        command += ["--log-level", "error", "--logger", "zap"]
        if self.quota_bytes:
            command += ["--quota-backend-bytes", str(self.quota_bytes)]
        if self._server:
            command += ["--cert-file", str(self._server.certificate)]
            command += ["--key-file", str(self._server.key), "--client-cert-auth"]
            command += ["--trusted-ca-file", str(self._server.ca)]
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def await_answer(self) -> None:
        """Wait until it answers; stop it and raise when it does not."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._answers():
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError("etcd did not start: " + (self._folder / "etcd.log").read_text()[-2000:])

    def _answers(self) -> bool:
        with contextlib.closing(self.client()) as client:
            try:
                client.get("/ready")
            except etcd3.exceptions.Etcd3Exception:
                return False
            except grpc.RpcError as error:
                # A refusal is an answer: users and roles are kept with the data.
                return bool(error.code() is not grpc.StatusCode.UNAVAILABLE)
            return True

    def stop(self) -> None:
        """Kill it; its data stay."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def wipe(self) -> None:
        """Kill it, remove its data, start it anew."""
        self.forget()
        self.start()

    def forget(self) -> None:
        """Kill it and remove its data."""
        self.stop()
        shutil.rmtree(self._folder / "etcd")

    def freeze(self) -> None:
        """Let it answer nothing while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self, tls: TlsFiles | None = None) -> Any:
        """Return a client to look at it with, by default with the server's own certificate."""
        shown = tls or self._server
        credentials = shown.channel_credentials() if shown else None
        endpoint = etcd3.Endpoint(
            "127.0.0.1",
            self._port,
            secure=self._server is not None,
            creds=credentials,
            time_retry=0,
        )
        return etcd3.MultiEndpointEtcd3Client([endpoint], timeout=2)

    def put(self, key: str, value: str) -> None:
        """Put a key."""
        with contextlib.closing(self.client()) as client:
            client.put(key, value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        with contextlib.closing(self.client()) as client:
            client.delete(key)


class EtcdTrio:
    """Three members, of which any two go on."""

    def __init__(self, folder: Path) -> None:
        names = ("one", "two", "three")
        self.members = [EtcdServer(folder / name, name=name) for name in names]
        for member in self.members:
            member.cluster = ",".join(each.as_peer for each in self.members)

    @property
    def endpoints(self) -> list[str]:
        """Client addresses of all members."""
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        """Start all and wait until each answers."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.await_answer()

    def stop(self) -> None:
        """Kill all; their data stay."""
        for member in self.members:
            member.stop()

    def wipe(self) -> None:
        """Kill all, remove all they held, and build them anew."""
        for member in self.members:
            member.forget()
        self.start()

    def leader(self) -> EtcdServer:
        """Return the member that the members have elected."""
        for member in self.members:
            with contextlib.closing(member.client()) as client:
                answer = client.maintenancestub.Status(etcd3.etcdrpc.StatusRequest(), timeout=5)
            if answer.leader == answer.header.member_id:
                return member
        raise RuntimeError("etcd has no leader")


@contextlib.contextmanager
def running_trio(folder: Path) -> Iterator[EtcdTrio]:
    """Run three members for the time of a test."""
    trio = EtcdTrio(folder)
    try:
        trio.start()
        yield trio
    finally:
        trio.stop()


@contextlib.contextmanager
def running_etcd(folder: Path, *, server: TlsFiles | None = None) -> Iterator[EtcdServer]:
    """Run one member for the time of a test."""
    etcd = EtcdServer(folder, server=server)
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.stop()

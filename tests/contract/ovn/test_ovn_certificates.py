"""A real ovsdb-server lets in whom it shall, with the files that `cert ovn` makes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ovn import PATIENCE_S, OvsdbServer, program
from unkai_scheduler import certificates, ovn_certificates
from unkai_scheduler.certificates import Bundle
from unkai_wire.tls import TlsFiles

pytestmark = pytest.mark.real
_STEMS = (ovn_certificates.NORTHBOUND, ovn_certificates.SOUTHBOUND)


@pytest.fixture
def cloud(tmp_path: Path) -> certificates.Authority:
    return certificates.init(tmp_path / "pki")


@pytest.fixture
def ovn(cloud: certificates.Authority, tmp_path: Path) -> ovn_certificates.OvnAuthority:
    return ovn_certificates.authority(cloud, tmp_path / "ovn")


@contextmanager
def _served(folder: Path, stem: str) -> Iterator[OvsdbServer]:
    """Serve a database with what lies in a folder for it."""
    own = folder / f"{stem}-database"
    own.mkdir()
    files = TlsFiles(folder / f"{stem}-ca.crt", folder / f"{stem}.crt", folder / f"{stem}.key")
    server = OvsdbServer(own, tls=files)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _gets_in(server: OvsdbServer, files: TlsFiles) -> bool:
    """Ask a database for its name, with a certificate."""
    done = subprocess.run(
        [
            *(program("ovsdb-client"), "--timeout=20", "list-dbs", server.remote),
            *("-p", files.key, "-c", files.certificate, "-C", files.ca),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0 or "ssl" in done.stderr.lower(), done.stderr
    return done.returncode == 0


def _written(bundle: Bundle, folder: Path, ca: str = "ca.crt") -> TlsFiles:
    bundle.write(folder)
    return TlsFiles(folder / ca, folder / f"{bundle.name}.crt", folder / f"{bundle.name}.key")


def test_a_host_gets_into_the_southbound_database_and_not_into_the_northbound(
    cloud: certificates.Authority, ovn: ovn_certificates.OvnAuthority, tmp_path: Path
) -> None:
    folder = tmp_path / "servers"
    certificates.write(ovn.issue_databases("c1", ["127.0.0.1"]), folder)
    host = _written(cloud.issue_host("h1"), tmp_path / "h1")
    # It may trust whom it likes: what counts is whom the server trusts.
    host_for_all = TlsFiles(folder / "ovn-sb-ca.crt", host.certificate, host.key)
    scheduler = _written(ovn.issue_client("s1"), tmp_path / "s1", "ovn-ca.crt")

    for stem, may_host in zip(_STEMS, (False, True), strict=True):
        with _served(folder, stem) as server:
            assert _gets_in(server, scheduler)
            assert _gets_in(server, host_for_all) is may_host

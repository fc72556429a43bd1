"""Story: every TCP port in the lab refuses plain text and a certificate of another CA."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import listening_addresses
from unkai_lab.configuration import ETCD_PEER_PORT
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL
from unkai_scheduler import certificates

PROBE = '''
"""Connect to a port in three ways; print which of them it answered."""
import socket, ssl, sys
address, port, ours, theirs = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
HTTP = b"GET /metrics HTTP/1.0\\r\\n\\r\\n"
HTTP2 = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0"

def answer(connection, data):
    connection.sendall(data)
    return connection.recv(4096)

def plain(data):
    with socket.create_connection((address, port), timeout=30) as raw:
        reply = answer(raw, data)
        # A TLS alert (content type 21) is a refusal.
        return bool(reply) and reply[:1] != b"\\x15" and not reply.startswith(b"HTTP/1.0 400")

def tls(folder, data):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    if folder:
        context.load_cert_chain(folder + ".crt", folder + ".key")
    with socket.create_connection((address, port), timeout=30) as raw:
        with context.wrap_socket(raw) as wrapped:
            return bool(answer(wrapped, data))

for name, call in (
    ("plain-http", lambda: plain(HTTP)),
    ("plain-http2", lambda: plain(HTTP2)),
    ("no-certificate", lambda: tls("", HTTP2)),
    ("another-ca", lambda: tls(theirs, HTTP2)),
    ("our-ca", lambda: tls(ours, HTTP2) or tls(ours, HTTP)),
):
    try:
        got = call()
    except (OSError, ssl.SSLError):
        got = False
    print(name, int(got))
'''


def test_every_port_refuses_plain_text_and_strangers(
    lab: Lab, shows: Shows, tmp_path: Path
) -> None:
    theirs = tmp_path / "client-mallory"
    certificates.init(tmp_path / "stranger").issue_client("mallory").write(tmp_path)
    peer, admin = lab.paths.cell(CONTROL) / "pki" / "etcd", lab.paths.pki / "client-admin"
    checked = []
    for cell in (CONTROL, *lab.spec.host_names):
        found = listening_addresses(lab, cell)
        assert found, f"{cell} listens on something"
        for address, port in found:
            target = lab.spec.address(cell) if address in ("0.0.0.0", "::") else address
            # etcd's peers take an etcd member's certificate only.
            ours = peer if port == ETCD_PEER_PORT else admin
            done = lab.run(
                cell,
                [sys.executable, "-c", PROBE, target, str(port), str(ours), str(theirs)],
                timeout_s=240,
            )
            answers = dict(line.split() for line in done.stdout.splitlines())
            assert answers.pop("our-ca") == "1", f"{cell} {address}:{port} is alive"
            assert set(answers.values()) == {"0"}, f"{cell} {address}:{port}: {answers}"
            checked.append(f"{cell}:{port}")
    assert len(checked) >= 4 + 2 * len(lab.spec.host_names)
    shows("6.2 ports", f"{len(checked)} refuse plain text and another CA: {' '.join(checked)}")


def test_the_scheduler_answers_an_administrator_over_tls(lab: Lab) -> None:
    pki = lab.paths.pki
    address = f"{lab.spec.address(CONTROL)}:7443"
    command = shlex.join(
        [
            "env",
            f"UNKAI_ADDRESS={address}",
            f"UNKAI_CA={pki / 'ca.crt'}",
            f"UNKAI_CERTIFICATE={pki / 'client-admin.crt'}",
            f"UNKAI_KEY={pki / 'client-admin.key'}",
            *(sys.executable, "-m", "unkai_cli", "host", "list", "-o", "name"),
        ]
    )
    if not (pki / "client-admin.crt").exists():
        pytest.fail("init makes an administrator's certificate")
    done = lab.run(CONTROL, ["sh", "-c", command])
    assert done.stdout.split() == list(lab.spec.host_names)

"""Story: a lab that is up is a cloud that takes instances, and speaks TLS only.

1. Every host is registered and sends figures. 2. Each TCP port refuses plain text, no certificate,
and a certificate of another CA. 3. A host that reboots comes back with a new boot id. 4. Simulated
hosts stand beside real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab import (
    listening_addresses,
    running_lab,
    skip_without_a_lab_machine,
    unique,
    wait_for,
)
from unkai.host.v1 import host_pb2
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, LabSpec
from unkai_lab.status import lab_status
from unkai_scheduler import certificates

# Run inside a cell: says `refused` or `accepted` for one way of connecting to one port. With TLS
# 1.3 a server refuses a client's certificate after the handshake, so something must be read too.
KNOCK = """
import socket, ssl, sys
host, port, ca, certificate, key = sys.argv[1:]
plain = socket.create_connection((host, int(port)), 5)
plain.settimeout(5)
try:
    if ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"] if int(port) in (7443, 7444, 2379) else ["http/1.1"])
        if certificate:
            context.load_cert_chain(certificate, key)
        connection = context.wrap_socket(plain)
    else:
        connection = plain
    if not ca or int(port) not in (7443, 7444, 2379):
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    answer = connection.recv(4096)
except (ConnectionError, ssl.SSLError):
    print("refused")
else:
    # A Go server may answer plain text with one line of plain text before it hangs up.
    is_refusal = not answer or b"HTTP request to an HTTPS server" in answer
    print("refused" if is_refusal else f"accepted {answer[:40]!r}")
"""


def test_every_host_is_registered_and_sends_figures(lab: Lab) -> None:
    hosts = lab.hosts()
    assert [host.name for host in hosts] == list(lab.spec.host_names)
    assert all(host.state == host_pb2.Host.STATE_UP for host in hosts)
    assert all(0 <= host.usage_age_s < 10 for host in hosts)
    assert len({host.boot_id for host in hosts}) == len(hosts)


def test_status_says_that_everything_runs(lab: Lab) -> None:
    status = lab_status(lab)
    assert status["state"] == "UP", status
    assert status["hosts_registered"] == status["hosts_wanted"] == 3
    assert [cell["name"] for cell in status["cells"]] == list(lab.spec.cells)
    assert json.loads(json.dumps(status)) == status


def _knock(lab: Lab, cell: str, address: tuple[str, int], *credentials: str) -> str:
    host, port = address
    command = [sys.executable, "-c", KNOCK, host, str(port), *credentials]
    return lab.run(cell, command).stdout.strip()


def test_every_tcp_port_refuses_plain_text_and_strangers(lab: Lab, tmp_path: Path) -> None:
    certificates.init(tmp_path).issue_client("admin").write(tmp_path)
    stranger = [str(tmp_path / name) for name in ("ca.crt", "client-admin.crt", "client-admin.key")]
    pki = lab.paths.pki
    friend = [str(pki / name) for name in ("ca.crt", "client-admin.crt", "client-admin.key")]
    found = {cell: listening_addresses(lab, cell) for cell in lab.spec.cells}
    ports = {cell: {port for _, port in addresses} for cell, addresses in found.items()}
    assert ports[CONTROL] == {2379, 2380, 7443, 9443}
    assert all(ports[host] == {7444, 9444} for host in lab.spec.host_names)

    for cell, addresses in found.items():
        for address in addresses:
            assert _knock(lab, cell, address, "", "", "") == "refused", f"plain text: {address}"
            no_certificate = [stranger[0], "", ""]
            assert _knock(lab, cell, address, *no_certificate) == "refused", f"none: {address}"
            assert _knock(lab, cell, address, *stranger) == "refused", f"other CA: {address}"
            # The same knock with our own certificate opens, so a refusal means the certificate.
            assert _knock(lab, cell, address, *friend).startswith("accepted"), address


def test_a_rebooted_host_comes_back_with_a_new_boot_id(lab: Lab) -> None:
    before = {host.name: host.boot_id for host in lab.hosts()}
    lab.reboot("h2")

    def after() -> dict[str, str] | None:
        boots = {h.name: h.boot_id for h in lab.hosts() if h.state == host_pb2.Host.STATE_UP}
        return boots if len(boots) == 3 and boots["h2"] != before["h2"] else None

    boots = wait_for(after, "h2 is up with a new boot id", 30)
    assert {name for name in boots if boots[name] != before[name]} == {"h2"}


def test_a_killed_scheduler_serves_again_after_a_start(lab: Lab) -> None:
    lab.kill_scheduler()
    assert lab.hosts() == []
    lab.start_scheduler()
    lab.wait_registered()


def test_the_command_line_reaches_the_lab_by_its_environment(lab: Lab) -> None:
    lines = subprocess.run(
        [sys.executable, "-m", "unkai_lab", "env", "--name", lab.spec.name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    script = f"{lines}exec {sys.executable} -m unkai_lab status -o json"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == lab.spec.name


def test_a_command_on_a_host_keeps_its_exit_code_and_output(lab: Lab) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "unkai_lab", "exec", "--name", lab.spec.name, "h1", "--"),
            *("sh", "-c", "hostname; exit 7"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "h1\n")


@pytest.mark.parametrize("simulated", [12])
def test_simulated_hosts_stand_beside_real_ones(simulated: int) -> None:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="sim", hosts=1, simulated=simulated))) as lab:
        hosts = lab.hosts()
        assert len(hosts) == 1 + simulated
        assert len({host.address for host in hosts}) == 2

"""Story: a stolen host key harms that host alone, and what is secret stays so.

1. With h1's certificate nothing of h2's is written, and no peer of etcd's is played.
2. It calls nothing of the scheduler's but an image's bytes, orders no agent, reads no figures.
3. User-data is in no log, and in no file that strangers may read.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import wait_for
from tests.support.user import User
from unkai_lab.configuration import (
    AGENT_METRICS_PORT,
    AGENT_PORT,
    ETCD_CLIENT_PORT,
    ETCD_PEER_PORT,
    SCHEDULER_METRICS_PORT,
    SCHEDULER_PORT,
)
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL
from unkai_wire.cluster_records import LEADER_KEY, host_key, scheduler_key
from unkai_wire.tls import SCHEDULER_TLS_NAME, host_tls_name

SECRET = "correct-horse-battery-staple"

CALL = '''
"""Call methods with a certificate; print each with the status it ended in."""
import sys, grpc
address, name, pki = sys.argv[1:4]
read = lambda file: open(f"{pki}/{file}", "rb").read()
credentials = grpc.ssl_channel_credentials(read("ca.crt"), read("host.key"), read("host.crt"))
options = [("grpc.ssl_target_name_override", name)]
with grpc.secure_channel(address, credentials, options) as channel:
    for method in sys.argv[4:]:
        call = channel.unary_stream(method)(b"", timeout=10)
        try:
            for _ in call:
                pass
            print(method, "OK")
        except grpc.RpcError as error:
            print(method, error.code().name)
'''

HTTPS = '''
"""Ask for a page with a certificate; print what came back."""
import ssl, sys, urllib.request
pki = sys.argv[2]
context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
context.check_hostname = False
context.load_cert_chain(f"{pki}/{sys.argv[3]}.crt", f"{pki}/{sys.argv[3]}.key")
try:
    with urllib.request.urlopen(sys.argv[1], context=context, timeout=10) as answer:
        print("ANSWERED", answer.status)
except OSError as error:
    print("REFUSED", type(error).__name__)
'''


def host_id(lab: Lab, name: str) -> str:
    return next(host.id for host in lab.hosts() if host.name == name)


def etcdctl(lab: Lab, host: str, *arguments: str) -> tuple[int, str]:
    """Run etcdctl on a host with that host's certificate."""
    pki = lab.paths.cell(host) / "pki"
    endpoint = f"https://{lab.spec.address(CONTROL)}:{ETCD_CLIENT_PORT}"
    argv = ["etcdctl", f"--endpoints={endpoint}", f"--cacert={pki / 'ca.crt'}"]
    argv += [f"--cert={pki / 'host.crt'}", f"--key={pki / 'host.key'}", "--command-timeout=30s"]
    done = lab.run(host, [*argv, *arguments], timeout_s=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_host_s_key_writes_no_record_but_its_own(lab: Lab, shows: Shows) -> None:
    own, other = host_key(host_id(lab, "h1")), host_key(host_id(lab, "h2"))
    assert etcdctl(lab, "h1", "get", own)[0] == 0
    for key in (other, LEADER_KEY, scheduler_key("scheduler"), "/anything"):
        for command in (["put", key, "forged"], ["del", key]):
            code, said = etcdctl(lab, "h1", *command)
            assert code != 0, key
            assert "permission denied" in said
    shows("security: etcd", "h1 writes neither h2's record nor the leader's")


def https(lab: Lab, address: str, pki: Path, stem: str) -> str:
    argv = [sys.executable, "-c", HTTPS, f"https://{address}", str(pki), stem]
    return lab.run(CONTROL, argv).stdout.split()[0]


def test_a_host_s_key_makes_no_peer_of_etcd_and_reads_no_figures(lab: Lab) -> None:
    control, etcd, h1 = lab.paths.pki, lab.paths.cell(CONTROL) / "pki", lab.paths.cell("h1") / "pki"
    peers = f"{lab.spec.address(CONTROL)}:{ETCD_PEER_PORT}/members"
    assert https(lab, peers, etcd, "etcd") == "ANSWERED"
    assert https(lab, peers, h1, "host") == "REFUSED"
    for cell, port in ((CONTROL, SCHEDULER_METRICS_PORT), ("h2", AGENT_METRICS_PORT)):
        figures = f"{lab.spec.address(cell)}:{port}/metrics"
        assert https(lab, figures, control, "client-admin") == "ANSWERED"
        assert https(lab, figures, h1, "host") == "REFUSED"


def call(lab: Lab, address: str, name: str, *methods: str) -> dict[str, str]:
    """Call methods with h1's certificate; return their statuses."""
    pki = lab.paths.cell("h1") / "pki"
    done = lab.run("h1", [sys.executable, "-c", CALL, address, name, str(pki), *methods])
    return dict(line.split() for line in done.stdout.splitlines())


def test_a_host_s_key_gives_no_orders(lab: Lab) -> None:
    scheduler = f"{lab.spec.address(CONTROL)}:{SCHEDULER_PORT}"
    download = "/unkai.storage.v1.ImageService/DownloadImage"
    answers = call(
        lab,
        scheduler,
        SCHEDULER_TLS_NAME,
        "/unkai.compute.v1.InstanceService/ListInstances",
        "/unkai.compute.v1.InstanceService/DeleteInstance",
        "/unkai.storage.v1.ImageService/ListImages",
        "/unkai.host.v1.HostService/CordonHost",
        "/unkai.event.v1.EventService/WatchEvents",
        "/unkai.scheduler.v1.PeerService/Wake",
        "/unkai.scheduler.v1.PeerService/Proxy",
        download,
    )
    assert answers.pop(download) == "INVALID_ARGUMENT"  # let in, but it named no image
    assert set(answers.values()) == {"PERMISSION_DENIED"}

    agent = f"{lab.spec.address('h2')}:{AGENT_PORT}"
    answers = call(
        lab,
        agent,
        host_tls_name(host_id(lab, "h2")),
        "/unkai.agent.v1.HostService/Describe",
        "/unkai.agent.v1.HostService/AnnounceTerm",
        "/unkai.agent.v1.MachineService/EnsureMachine",
        "/unkai.agent.v1.MachineService/RemoveMachine",
        "/unkai.agent.v1.MachineService/ReadConsoleLog",
        "/unkai.agent.v1.StorageService/EvictImage",
    )
    assert set(answers.values()) == {"PERMISSION_DENIED"}


def readable_by_strangers(path: Path) -> bool:
    """Tell whether a user who is nobody here can open a file: every folder above lets him pass."""
    return bool(path.stat().st_mode & 0o004) and all(
        folder.stat().st_mode & 0o001 for folder in path.parents
    )


def has_secret(path: Path) -> bool:
    """Tell whether the secret is in a file; one that is gone meanwhile has nothing."""
    with suppress(FileNotFoundError):
        return path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes()
    return False


def test_user_data_is_in_no_log_and_in_no_file_that_strangers_may_read(
    lab: Lab, user: User
) -> None:
    made = user.launch("secretive", user_data=f"#!/bin/sh\n: {SECRET}\n".encode())
    wait_for(lambda: "ready" in user.wait_log(made.id, "unkai-tiny: ready"), "the guest is up")

    found = [
        path
        for folder, _, names in os.walk(lab.paths.folder)
        for path in (Path(folder) / name for name in names)
        if has_secret(path)
    ]

    assert {path.name for path in found} >= {"seed.iso"}, "the search finds what is there"
    assert [path for path in found if path.suffix == ".log"] == []
    assert [path for path in found if readable_by_strangers(path)] == []
    private = [*lab.paths.folder.rglob("*.key"), lab.paths.scheduler_socket]
    private += [lab.agent_socket(host) for host in lab.spec.host_names]
    assert len(private) > 5
    assert [path for path in private if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("cell", ["h1", "h2"])
def test_no_stranger_enters_where_disks_are(lab: Lab, user: User, cell: str) -> None:
    for folder in ("ledger", "machines", "images"):
        assert not (lab.paths.cell(cell) / "agent" / folder).stat().st_mode & 0o007

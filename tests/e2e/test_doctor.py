"""The story of a doctor's rounds: what is broken is named with its fix; a healthy lab has nothing.

Every fault is a real one: stopped and hanging daemons, spoiled files, full disks, certificates of
the lab's own CA, an etcd without quorum, clocks that are wrong. Faults that a running daemon need
not suffer are in a copy of its settings.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.planted import Fault, Planted, is_healthy
from tests.support.ward import HOST, Visit, Ward, shifted_clock, without_program
from unkai_lab import configuration
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, LabSpec
from unkai_wire.cluster_records import HOSTS_PREFIX, SCHEDULERS_PREFIX

pytestmark = pytest.mark.timeout(300)
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab of one host, whose agent is told not to use KVM: where that hangs, a doctor says so."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="doc", hosts=1, accelerator="tcg"))) as made:
        yield made


@pytest.fixture(scope="module")
def ward(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """The lab, as doctors see it."""
    folder = tmp_path_factory.mktemp("ward")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)
    return Ward(lab, folder)


# Each fault: break it, let a doctor look, mend it.

PLANTED = Planted()
fault = PLANTED.fault


def in_settings(name: str, check: str, fix: str, key: str, value: object) -> None:
    """Add a fault that one line of the agent's settings is."""

    @fault(name, check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        yield ward.on_host(ward.settings("agent", {key: value}))


in_settings("a setting that does not exist", "settings", "mend", "listn", 1)
in_settings(
    "QEMU's user does not exist", "qemu-user", "libvirt.qemu_user", "libvirt.qemu_user", "nosuch"
)
in_settings("QEMU's user is root", "qemu-user", "libvirt-qemu", "libvirt.qemu_user", "root")
in_settings(
    "libvirtd runs guests as another",
    "qemu-identity|qemu-conf",
    "restart libvirtd",
    "libvirt.qemu_user",
    "nobody",
)
in_settings(
    "a group of the sampler is gone",
    "live-figures",
    "sampler.cgroup2",
    "sampler.cgroup2",
    "/sys/fs/cgroup/gone",
)
in_settings(
    "the certificate lacks the address",
    "certificate-address",
    "--address 10.255.255.1",
    "advertise",
    "10.255.255.1:7444",
)


@fault("settings that are no TOML", "settings", "mend")
def _(ward: Ward) -> Iterator[Visit]:
    file = ward.new_path("agent.toml")
    file.write_text("listen = \n")
    yield ward.on_host(file)


# Certificates


def certificate(name: str, fix: str, begun: dt.timedelta, days: int) -> None:
    """Add a fault of a certificate's dates."""

    @fault(name, "certificate-dates", fix)
    def _(ward: Ward) -> Iterator[Visit]:
        yield ward.on_host(ward.with_pki(ward.certificate_of(begun=begun, days=days)))


certificate("a certificate that has ended", "cert host h1 --host-id", -40 * DAY, 30)
certificate("a certificate that ends next week", "cert host h1 --host-id", -7 * DAY, 14)
certificate("a certificate that has not begun", "timedatectl", 2 * DAY, 30)


def files(name: str, check: str, fix: str) -> Callable[[Callable[[Ward, Path], None]], None]:
    """Add a fault of the certificate's files."""

    def take(spoil: Callable[[Ward, Path], None]) -> None:
        @fault(name, check, fix)
        def _(ward: Ward) -> Iterator[Visit]:
            folder = ward.pki("agent")
            spoil(ward, folder)
            yield ward.on_host(ward.with_pki(folder))

    return take


@files("a key that all may read", "key-mode", "chmod 0600")
def _(ward: Ward, pki: Path) -> None:
    (pki / "host.key").chmod(0o644)


@files("a key that is gone", "certificate-files", "unkai-scheduler cert host")
def _(ward: Ward, pki: Path) -> None:
    (pki / "host.key").unlink()


@files("a key of another certificate", "certificate-key", "copy both files of one pair")
def _(ward: Ward, pki: Path) -> None:
    other = ward.certificate_of(begun=dt.timedelta())
    shutil.copy2(other / "host.key", pki / "host.key")


@files("the CA of another cloud", "certificate-ca", "copy ca.crt")
def _(ward: Ward, pki: Path) -> None:
    from unkai_scheduler import certificates

    certificates.init(ward.new_path("other"))
    other = ward.new_path("again")
    certificates.init(other)
    shutil.copy2(other / "ca.crt", pki / "ca.crt")


@files("a person's certificate in a host's place", "certificate-identity", "cert host")
def _(ward: Ward, pki: Path) -> None:
    for suffix in ("crt", "key"):
        shutil.copy2(ward.lab.paths.pki / f"client-admin.{suffix}", pki / f"host.{suffix}")


@fault("a CA's key that all may read", "key-mode", "chmod 0600")
def _(ward: Ward) -> Iterator[Visit]:
    key = ward.lab.paths.pki / "ca.key"
    key.chmod(0o644)
    try:
        yield ward.on_control()
    finally:
        key.chmod(0o600)


# The machine


@fault("a clock that is ten minutes ahead", "clock-etcd", "chronyc makestep")
def _(ward: Ward) -> Iterator[Visit]:
    yield ward.on_host(before=shifted_clock(600))


@fault("a scheduler's clock that is ten seconds behind", "clock-etcd", "chronyc makestep")
def _(ward: Ward) -> Iterator[Visit]:
    yield ward.on_control(before=shifted_clock(-10))


@fault("qemu-img is not installed", "programs", "apt install --no-install-recommends qemu-utils")
def _(ward: Ward) -> Iterator[Visit]:
    yield ward.on_host(before=without_program(ward, "qemu-img"))


@fault("QEMU is not installed", "programs", "qemu-system-x86")
def _(ward: Ward) -> Iterator[Visit]:
    yield ward.on_host(before=without_program(ward, "qemu-system-x86_64"))


@fault("KVM is not for QEMU's user, or not there", "kvm", "accelerator = 'tcg'|usermod -aG kvm")
def _(ward: Ward) -> Iterator[Visit]:
    settings = ward.settings("agent", {"accelerator": "kvm"})
    node = ward.lab.paths.cell(HOST) / "kvm"
    if node.exists():
        node.chmod(0o600)
    try:
        yield ward.on_host(settings)
    finally:
        if node.exists():
            node.chmod(0o666)


@fault("a disk that is full", "disk-space", "du -xh")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.small_disk("size=16m") as disk:
        ward.lab.site.run(HOST, ["dd", "if=/dev/zero", f"of={disk}/full", "bs=1M"], check=False)
        yield ward.on_host(ward.settings("agent", {"state_dir": str(disk)}))


@fault("a disk without inodes", "disk-inodes", "du -x --inodes")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.small_disk("size=64m,nr_inodes=12") as disk:
        yield ward.on_host(ward.settings("agent", {"state_dir": str(disk)}))


@fault("a disk that became read-only", "disk-writable", "remount,rw")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.small_disk("size=64m,ro") as disk:
        yield ward.on_host(ward.settings("agent", {"state_dir": str(disk)}))


# The agent


@fault("an agent that is down", "agent-running", "systemctl start unkai-agent")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_agent(HOST)
    try:
        yield ward.on_host()
    finally:
        ward.lab.start_agent(HOST)


@fault("an agent that hangs", "agent-running", "systemctl restart unkai-agent")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.stopped(HOST, "agent"):
        yield ward.on_host()


@fault("a port that another process has", "agent-ports", "ss -tlnp")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_agent(HOST)
    try:
        listen = "s.setsockopt(1, 2, 1); s.bind(('', 7444)); s.listen(); time.sleep(300)"
        server = ["python3", "-c", f"import socket, time; s = socket.socket(); {listen}"]
        with ward.beside(HOST, server, ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7444"]):
            yield ward.on_host()
    finally:
        ward.lab.start_agent(HOST)


@fault("a second agent in the state folder", "state-owner", "ps -fp")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_agent(HOST)
    folder = ward.lab.paths.cell(HOST) / "agent"
    try:
        holder = ["flock", "-x", "--no-fork", str(folder), "sleep", "300"]
        taken = ["bash", "-c", f"! flock -n -x {folder} true"]
        with ward.beside(HOST, holder, taken):
            yield ward.on_host()
    finally:
        ward.lab.start_agent(HOST)


@fault("an agent that may open few files", "agent-files", "LimitNOFILE=65536")
def _(ward: Ward) -> Iterator[Visit]:
    process = ward.lab.site.running(HOST, "agent")
    assert process is not None
    limit = ["prlimit", f"--pid={process.pid}"]
    ward.lab.site.run_on_network(HOST, [*limit, "--nofile=512:"])
    try:
        yield ward.on_host()
    finally:
        ward.lab.site.run_on_network(HOST, [*limit, "--nofile=20000:"])


def in_ledger(name: str, fix: str, text: str) -> None:
    """Add a fault of the ledger."""

    @fault(name, "ledger", fix)
    def _(ward: Ward) -> Iterator[Visit]:
        folder = ward.new_path("state")
        (folder / "ledger/machines").mkdir(parents=True)
        (folder / "ledger/machines/ins-1.json").write_text(text)
        yield ward.on_host(ward.settings("agent", {"state_dir": str(folder)}))


in_ledger("a damaged file in the ledger", "restore the file", "{")
in_ledger(
    "a ledger of a newer agent", "install that version", '{"body": {"version": 99}, "sha256": ""}'
)


# libvirt


@fault("libvirtd that hangs", "libvirt-answers", "systemctl restart libvirtd")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.stopped(HOST, "libvirtd"):
        yield ward.on_host()


@fault("libvirtd that is down", "libvirt-answers", "systemctl restart libvirtd")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_libvirt(HOST)
    try:
        yield ward.on_host()
    finally:
        ward.lab.start_libvirt(HOST)


def in_qemu_conf(name: str, fix: str, old: str, new: str) -> None:
    """Add a fault of libvirt's settings."""

    @fault(name, "qemu-conf", fix)
    def _(ward: Ward) -> Iterator[Visit]:
        file = ward.lab.paths.cell(HOST) / "libvirt/etc/qemu.conf"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        try:
            yield ward.on_host()
        finally:
            file.write_text(text)


in_qemu_conf(
    "qemu.conf runs QEMU as root", "libvirt-qemu", 'user = "libvirt-qemu"', 'user = "root"'
)
in_qemu_conf(
    "qemu.conf takes files from the agent",
    "dynamic_ownership = 0",
    "dynamic_ownership = 0",
    "dynamic_ownership = 1",
)
in_qemu_conf(
    "qemu.conf without sandbox", "seccomp_sandbox = 1", "seccomp_sandbox = 1", "seccomp_sandbox = 0"
)
in_qemu_conf(
    "qemu.conf without a bound on console logs",
    'stdio_handler = "logd"',
    "dynamic_ownership = 0",
    'dynamic_ownership = 0\nstdio_handler = "file"',
)


# etcd


@fault("etcd that is down", "etcd-reachable", "systemctl status etcd")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_etcd()
    try:
        yield ward.on_host()
    finally:
        ward.lab.start_etcd()


@fault("etcd that hangs", "etcd-reachable", "systemctl status etcd")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.stopped(CONTROL, ward.lab.spec.etcd_names[0]):
        yield ward.on_control()


@fault("etcd that knows nothing of the host", "etcd-permission", "unkai-scheduler etcd secure")
def _(ward: Ward) -> Iterator[Visit]:
    stranger = "hst-01m8e3pwjef6zb7bzqwyajf0dw"
    yield ward.on_host(ward.with_pki(ward.certificate_of(begun=dt.timedelta(), host_id=stranger)))


@fault("etcd that asks nobody for permission", "etcd-secured", "unkai-scheduler etcd secure")
def _(ward: Ward) -> Iterator[Visit]:
    ward.etcdctl("auth", "disable", bundle=ward.authority.etcd_root())
    try:
        yield ward.on_host()
    finally:
        ward.lab.start_etcd()  # which secures it again


@contextmanager
def _other_etcd(ward: Ward, *changes: str, port: int = 12379) -> Iterator[str]:
    """Run one more etcd in the control cell; give its endpoint."""
    lab = ward.lab
    address = lab.spec.address(CONTROL)
    command = configuration.etcd_command(lab.spec, lab.paths, lab.spec.etcd_names[0])
    command = [
        part.replace(":2379", f":{port}").replace(":2380", f":{port + 1}") for part in command
    ]
    changes = (*changes, f"--data-dir={ward.new_path('data')}")
    replaced = [change.partition("=")[0] for change in changes]
    command = [part for part in command if part.partition("=")[0] not in replaced]
    listens = ["bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    with ward.beside(CONTROL, [*command, *changes], listens):
        yield f"{address}:{port}"


def _other_etcdctl(ward: Ward, endpoint: str, *arguments: str) -> bool:
    """Call such an etcd; tell whether it did as it was told."""
    command = configuration.etcdctl_command(ward.lab.spec, ward.lab.paths)
    command = [part for part in command if not part.startswith("--endpoints")]
    argv = [*command, f"--endpoints=https://{endpoint}", *arguments]
    return ward.lab.site.run(CONTROL, argv, check=False).returncode == 0


@fault("etcd without quorum", "etcd-quorum", "start the other members")
def _(ward: Ward) -> Iterator[Visit]:
    address = ward.lab.spec.address(CONTROL)
    both = f"--initial-cluster=one=https://{address}:12380,two=https://{address}:12382"
    with _other_etcd(ward, "--name=one", both) as endpoint:
        with _other_etcd(ward, "--name=two", both, port=12381):
            wait_for(lambda: _other_etcdctl(ward, endpoint, "endpoint", "health"), "both work", 60)
        settings = ward.settings("scheduler", {"etcd.endpoints": [endpoint]})
        wait_for(lambda: not _other_etcdctl(ward, endpoint, "endpoint", "health"), "one is alone")
        time.sleep(3)  # it believes in its leader for a second or two
        yield ward.on_control(settings)


@fault("etcd that is full", "etcd-space", "etcdctl alarm disarm")
def _(ward: Ward) -> Iterator[Visit]:
    with _other_etcd(ward, "--quota-backend-bytes=1048576") as endpoint:
        wait_for(lambda: _other_etcdctl(ward, endpoint, "endpoint", "health"), "it works")
        settings = ward.settings("scheduler", {"etcd.endpoints": [endpoint]})
        text = "x" * 100_000
        for number in range(40):
            if not _other_etcdctl(ward, endpoint, "put", f"/fill/{number}", text):
                break
        yield ward.on_control(settings)


@fault("etcd's certificate lacks its address", "etcd-trust", "unkai-scheduler cert etcd")
def _(ward: Ward) -> Iterator[Visit]:
    pki = ward.new_path("pki")
    ward.authority.issue_etcd("elsewhere", ["10.255.255.9"]).write(pki)
    changes = (f"--cert-file={pki}/etcd.crt", f"--key-file={pki}/etcd.key")
    with _other_etcd(ward, *changes) as endpoint:
        yield ward.on_host(ward.settings("agent", {"etcd.endpoints": [endpoint]}))


# What stands in etcd


def _record_of_host(ward: Ward) -> dict[str, object]:
    text = ward.etcdctl("get", "--print-value-only", HOSTS_PREFIX + ward.host_id())
    record: dict[str, object] = json.loads(text)
    return record


def in_etcd(what: str, check: str, fix: str, **changes: object) -> None:
    """Add a host's record as a fault, in an etcd that the lab's scheduler does not see.

    It would remember the host: one that was there once is missed for ever.
    """

    @fault(what, check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        other = "hst-01m8e3pwjef6zb7bzqwyajf0dw"
        own = _record_of_host(ward)
        ghost = {**own, "host_id": other, "name": "h9"}
        ghost |= {"tls_name": f"{other}.host.unkai.internal"} | changes
        with _other_etcd(ward) as endpoint:
            wait_for(lambda: _other_etcdctl(ward, endpoint, "endpoint", "health"), "it works")
            for record in (own, ghost):
                key = f"{HOSTS_PREFIX}{record['host_id']}"
                assert _other_etcdctl(ward, endpoint, "put", key, json.dumps(record))
            yield ward.on_control(ward.settings("scheduler", {"etcd.endpoints": [endpoint]}))


in_etcd("two hosts of one name", "host-names", "cert host NAME", name="h1", address="127.0.0.1:7")
in_etcd("two hosts at one address", "host-names", "advertise")
in_etcd("an agent behind a firewall", "agents-reached", "nc -zv", address="127.0.0.1:7")
in_etcd("an agent of another version", "versions", "pip install --upgrade", agent_version="0.0.1")


@fault("a scheduler of another version", "versions", "upgrade schedulers first")
def _(ward: Ward) -> Iterator[Visit]:
    address = f"{ward.lab.spec.address(CONTROL)}:7443"
    record = json.dumps({"name": "s9", "address": address, "version": "0.0.1"})
    with ward.record(f"{SCHEDULERS_PREFIX}s9", record):
        yield ward.on_host()


@fault(
    "a scheduler that agents do not reach", "scheduler-known", "systemctl status unkai-scheduler"
)
def _(ward: Ward) -> Iterator[Visit]:
    record = json.dumps({"name": "s9", "address": "127.0.0.1:7", "version": "0.1.0"})
    with ward.record(f"{SCHEDULERS_PREFIX}s9", record):
        yield ward.on_host()


@fault("a host that registers from elsewhere", "agent-registered", "restart unkai-agent")
def _(ward: Ward) -> Iterator[Visit]:
    other = f"{ward.lab.spec.address(HOST)}:7999"
    yield ward.on_host(ward.settings("agent", {"advertise": other}))


# The scheduler and its database


@fault("a scheduler that is down", "scheduler-running", "systemctl start unkai-scheduler")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_scheduler()
    try:
        yield ward.on_control()
    finally:
        ward.lab.start_scheduler()


@fault("no scheduler leads", "leader", "systemctl restart unkai-scheduler")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_scheduler()
    try:
        time.sleep(6)  # the dead leader's lease of 3 s ends, and etcd takes its key away
        yield ward.on_control()
    finally:
        ward.lab.start_scheduler()


def in_database(name: str, check: str, fix: str, spoil: Callable[[Path], None]) -> None:
    """Add a fault of a copy of the database."""

    @fault(name, check, fix)
    def _(ward: Ward) -> Iterator[Visit]:
        source = sqlite3.connect(ward.lab.paths.cell(CONTROL) / "unkai.db")
        file = ward.new_path("unkai.db")
        with sqlite3.connect(file) as copy:
            source.backup(copy)
        copy.close()
        source.close()
        file.chmod(0o600)
        spoil(file)
        yield ward.on_control(ward.settings("scheduler", {"database.url": f"sqlite:///{file}"}))


def _revision(to: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        with sqlite3.connect(file) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", [to])
        database.close()

    return spoil


def _tear(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for offset in range(8192, len(content), 4096):
        content[offset : offset + 512] = b"\xff" * 512
    file.write_bytes(content)


in_database(
    "a database that was not upgraded", "database-revision", "db upgrade", _revision("0001")
)
in_database(
    "a database of a newer version", "database-revision", "or a later one", _revision("9999")
)
in_database(
    "a damaged database", "database-integrity|database-reachable|checks-run", "backup", _tear
)
in_database("a database that is gone", "database-reachable", "restore a backup", Path.unlink)


# From afar


@fault("from afar: an agent that is down", "agent-answers", "unkai-agent")
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_agent(HOST)
    try:
        yield ward.from_afar()
    finally:
        ward.lab.start_agent(HOST)


@fault(
    "from afar: a scheduler that is down", "scheduler-answers", "systemctl status unkai-scheduler"
)
def _(ward: Ward) -> Iterator[Visit]:
    ward.lab.kill_scheduler()
    try:
        yield ward.from_afar()
    finally:
        ward.lab.start_scheduler()


@fault("from afar: libvirtd of a host hangs", "libvirt-answers", "systemctl restart libvirtd")
def _(ward: Ward) -> Iterator[Visit]:
    with ward.stopped(HOST, "libvirtd"):
        yield ward.from_afar()


# The claims


def test_a_healthy_lab_has_nothing(ward: Ward) -> None:
    wait_for(lambda: is_healthy(ward.from_afar()), "all have settled", 60)
    for visit in (ward.on_host(), ward.on_control(), ward.from_afar()):
        assert visit.findings == []
        assert visit.exit_code == 0
        assert "nothing found" in visit.words


@pytest.mark.parametrize("broken", [pytest.param(each, id=each.name) for each in PLANTED.faults])
def test_a_fault_is_named_with_its_fix(broken: Fault, ward: Ward) -> None:
    PLANTED.is_named(broken, ward)


def test_the_lab_that_was_mended_has_nothing(ward: Ward, shows: Shows) -> None:
    wait_for(lambda: is_healthy(ward.from_afar()), "all have settled", 60)
    assert ward.on_host().findings == ward.on_control().findings == []
    assert len(PLANTED.seen) >= 25
    shows(
        "solid 9 doctor", f"{len(PLANTED.seen)} faults named with their fix, healthy lab: nothing"
    )

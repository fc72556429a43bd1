"""Story: a real Prometheus scrapes a real cloud over mTLS; dashboards have series, alerts fire.

Each alert's condition is brought about where that takes seconds: daemons killed, a clock set back,
disks filled, rows planted in the database. What would take a broken machine or hours comes from a
small exporter that the same Prometheus scrapes; the test says which. The hosts are simulated (the
agent's own code on fake drivers) but for one, whose hypervisor is away.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2

from tests.support.acceptance import Shows
from tests.support.daemons import Cloud, Daemon, cloud_of_daemons, until
from tests.support.faults import fill, small_disk
from tests.support.images import built_tiny
from tests.support.prometheus import (
    Planted,
    Prometheus,
    alerts,
    grouped_by,
    labels_of,
    metrics_of,
    missing_programs,
    planted_exporter,
    running_prometheus,
)
from tests.support.user_commands import CommandLine
from tools import dashboards
from unkai_cli.client import Client, Patience
from unkai_cli.settings import Context
from unkai_scheduler.api import exporter
from unkai_wire.errors import DeadlineExceeded, PermissionDenied, Unavailable, UnkaiError

_MISSING = "root" if os.geteuid() else missing_programs()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(580),
    pytest.mark.skipif(bool(_MISSING), reason=f"needs {_MISSING}"),
]
MIB = 1 << 20
MONITOR = "monitor-prometheus"
"""The certificate that Prometheus shows: it only reads."""
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
FETCHES = "FETCHES"
HOST = "f2-0001"
"""The host that fetches the bytes of images; alone in its process."""
PLANTED = {
    "UnkaiTwoLeaders": {'unkai_leader{job="unkai-scheduler",instance="p1"}': 2.0},
    "UnkaiDatabaseAway": {'unkai_database_up{job="unkai-scheduler",instance="p1"}': 0.0},
    "UnkaiSchedulerClockSkew": {
        'unkai_scheduler_clock_ahead_seconds{job="unkai-scheduler",instance="p1"}': -90.0
    },
    "UnkaiHostStarved": {
        'unkai_host_memory_full_pressure_ratio{job="unkai-agent",instance="p2",host="p2"}': 0.4
    },
    "UnkaiMixedVersions": {
        'unkai_build_info{job="unkai-agent",instance="p2",role="agent",version="0.0.1"}': 1.0
    },
    "UnkaiOvnAway": {'unkai_ovn_up{job="unkai-scheduler",instance="p1"}': 0.0},
    "UnkaiOvnBehind": {
        'unkai_ovn_oldest_due_seconds{job="unkai-scheduler",instance="p1"}': 900.0,
        'unkai_leader{job="unkai-scheduler",instance="p1"}': 1.0,
    },
    "UnkaiGuestDiskErrors": {
        'unkai_agent_guest_disk_errors_total{job="unkai-agent",instance="p2",error="FAILED"}': 1.0
    },
}
"""What a test cannot bring about in seconds, as it would look."""
RISING = PLANTED["UnkaiGuestDiskErrors"]
"""What counts only once it rises."""


class Site:
    """The cloud under watch."""

    def __init__(self, folder: Path, cloud: Cloud, planted: Planted) -> None:
        self.folder = folder
        self.cloud = cloud
        self.planted = planted
        self.prometheus: Prometheus
        self.caused: dict[str, str] = {}

    def daemon(self, name: str) -> Daemon:
        return self.cloud.daemons[name]

    @property
    def client(self) -> Client:
        return self.cloud.client(self.daemon("s1"), patience=Patience(tries=1, timeout_s=5))

    def fires(self, name: str, how: str, within_s: float = 40) -> None:
        """Wait until an alert has fired, and note how; the story's end tells who never did."""
        with suppress(AssertionError):
            until(lambda: name in self.prometheus.ever_fired(), f"{name} fires", within_s)
            self.caused[name] = how
            print(f"  {name}: {how}", flush=True)

    def create(self, name: str, *, wait_s: int = 0, request_id: str = "", **fields: Any) -> Any:
        """Create an instance; for half a minute the same request is made until it is answered."""
        client, wait = self.client, duration_pb2.Duration(seconds=wait_s)
        request_id, end_s = request_id or str(uuid.uuid4()), time.monotonic() + 30
        while True:
            try:
                answer = client.call(
                    "InstanceService",
                    "CreateInstance",
                    instance=fields | {"name": name},
                    capacity_wait=wait if wait_s else None,
                    request_id=request_id,
                )
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.2)
            else:
                client.close()
                return answer.instance

    def instance(self, ident: str) -> Any:
        client = self.client
        row = client.call("InstanceService", "GetInstance", instance_id=ident).instance
        client.close()
        return row

    def state_of(self, ident: str) -> str:
        row = self.instance(ident)
        return str(row.State.Name(row.state))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Open the scheduler's database beside it."""
        with sqlite3.connect(self.folder / "db" / "unkai.db", timeout=20) as conn:
            conn.execute("PRAGMA foreign_keys = ON")
            yield conn
        conn.close()


def test_dashboards_and_alerts_on_a_real_prometheus(tmp_path: Path, shows: Shows) -> None:
    with (
        small_disk(tmp_path / "db", 24 * MIB),
        small_disk(tmp_path / "images", 64 * MIB),
        small_disk(tmp_path / "h2-state", 32 * MIB),
        cloud_of_daemons(tmp_path / "cloud") as cloud,
        planted_exporter() as planted,
    ):
        planted.plant(dict.fromkeys(RISING, 0.0))
        site = Site(tmp_path, cloud, planted)
        scheduler = a_scheduler(site)
        cloud.fleet("f1", 3)
        cloud.fleet(
            "f2",
            1,
            traits=[FETCHES],
            fleet={"fetch_images": True},
            converge={"create_tries": 100, "backoff_cap_s": 1.0},
        )
        cloud.authority.issue_monitor("prometheus").write(cloud.pki)
        scheduler.start()
        with running_prometheus(
            tmp_path / "prometheus",
            Cloud.files(cloud.pki, MONITOR),
            [scheduler.metrics_port],
            planted.port,
        ) as site.prometheus:
            # 1. Nobody is registered yet, and Prometheus has found the scheduler by itself.
            site.fires("UnkaiNoAgents", "before a host was started", 60)
            # 2. A cloud at work: dashboards have their series.
            instances = at_work(site)
            checked = check_dashboards(site)
            shows("solid 11 prometheus", f"{checked}; {only_reads(site)}")
            # 3. What goes wrong with work, hosts, and the control plane.
            work_goes_wrong(site, instances)
            hosts_go_wrong(site)
            control_plane_goes_wrong(site)
            plant_the_rest(site)
            # 4. All have fired.
            names = {rule["alert"] for rule in alerts()}
            fired = site.prometheus.ever_fired() & names
            assert fired == names, f"never fired: {sorted(names - fired)}"
        real = sorted(set(site.caused) - set(PLANTED))
        shows(
            "solid 11 alerts",
            f"{len(fired)} of {len(names)} fired: {len(real)} by what they are about, by planted "
            f"series {', '.join(sorted(PLANTED))}",
        )


def only_reads(site: Site) -> str:
    """Try the certificate that Prometheus shows on what it may not do; return what was seen."""
    ends = f'unkai_certificate_not_after_seconds{{certificate="{MONITOR}"}}'
    assert site.prometheus.series(ends), "Prometheus sees when its own certificate ends"
    files = Cloud.files(site.cloud.pki, MONITOR)
    context = Context(
        name="prometheus",
        address=f"127.0.0.1:{site.daemon('s1').grpc_port}",
        ca=str(files.ca),
        certificate=str(files.certificate),
        key=str(files.key),
    )
    with pytest.raises(PermissionDenied) as refused:
        Client(context).call("HostService", "ListHosts")
    return f"the same certificate may not list hosts: {refused.value.reason}"


def a_scheduler(site: Site) -> Daemon:
    """Make the scheduler, its database and its images on small disks of their own."""
    return site.cloud.scheduler(
        "s1",
        database=site.folder / "db" / "unkai.db",
        images={"url": f"file://{site.folder / 'images'}", "reserve_bytes": 0},
        reconcile={"audit_s": 2.0, "backoff_cap_s": 1.0},
    )


# 2. At work.


def at_work(site: Site) -> dict[str, str]:
    """Start the hosts, and instances on them; return the instances' ids by name."""
    for name in ("f1", "f2"):
        site.daemon(name).start()
    command = CommandLine(site.cloud, site.daemon("s1"))
    until(lambda: command("host", "list").stdout.count(" UP ") == 4, "four hosts are UP", 90)
    tiny = built_tiny()
    command("image", "upload", "tiny", str(tiny))
    raw = site.folder / "other.raw"  # for a fetch that shall fail
    raw.write_bytes(b"\1" * MIB)
    command("image", "upload", "other", str(raw))
    image = site.client.resolve("image", "tiny")
    small = {"image_id": image, "vcpus": 1, "memory_bytes": 64 * MIB}
    made = {f"sim-{n}": site.create(f"sim-{n}", **small).id for n in range(4)}
    made["fetched"] = site.create("fetched", **small, required_traits=[FETCHES]).id
    for name, ident in made.items():
        until(lambda ident=ident: site.state_of(ident) == "STATE_RUNNING", f"{name} runs", 90)
    command("instance", "delete", "sim-3")
    return made


def check_dashboards(site: Site) -> str:
    """Ask Prometheus each expression; return what was seen."""
    prometheus = site.prometheus
    until(
        lambda: set(prometheus.targets().values()) == {"up"} and len(prometheus.targets()) == 4,
        "all targets are up",
        60,
    )
    panels = [(board, panel) for board in dashboards.BOARDS for panel in board.panels()]
    values = {"$__rate_interval": "10s", "$host": HOST, "$agent": HOST, "$name": "fetched"}

    def asked(expr: str) -> list[dict[str, Any]]:
        for variable, value in values.items():
            expr = expr.replace(variable, value)
        return prometheus.series(expr)

    def empty() -> list[str]:
        return [
            f"{board.uid}: {panel.title}: {query.expr}"
            for board, panel in panels
            for query in panel.queries
            if not panel.may_be_empty and not asked(query.expr)
        ]

    for _, panel in panels:
        for query in panel.queries:
            asked(query.expr)  # raises where Prometheus cannot make sense of it
    until(lambda: empty() == [], f"every panel has series; without: {empty()}", 60)
    expressions = [q.expr for _, p in panels for q in p.queries]
    expressions += [rule["expr"] for rule in alerts()]
    check_names(prometheus, expressions)
    up = prometheus.targets()
    return (
        f"{len(up)} endpoints found by /targets and scraped over mTLS ({', '.join(sorted(up))}); "
        f"{len(panels)} panels, {len(expressions)} expressions, none fails, each that shall have "
        "series has"
    )


def check_names(prometheus: Prometheus, expressions: list[str]) -> None:
    """Each metric is exported, with the labels that expressions ask of it."""
    exported = {row["metric"] for row in prometheus.get("targets/metadata")} | {"up", "ALERTS"}
    # This cloud has no networks: what the scheduler would say of them stands in its source.
    exported |= set(re.findall(r'"(unkai_ovn_\w+)"', inspect.getsource(exporter)))
    suffixes = ("_total", "_bucket", "_sum", "_count", "_info")
    exported |= {name + suffix for name in exported for suffix in suffixes}
    labels: dict[str, set[str]] = {"ALERTS": {"alertstate", "alertname"}}
    for expr in expressions:
        for name in metrics_of(expr):
            assert name in exported, f"{name} is exported by nobody: {expr}"
            if name not in labels:
                series = prometheus.series(name)
                labels[name] = {label for s in series for label in s["metric"]}
        for name, asked in labels_of(expr).items():
            if labels.get(name):
                assert asked <= labels[name], f"{name} has no {asked - labels[name]}: {expr}"
        known = {label for name in metrics_of(expr) for label in labels[name]}
        if all(labels[name] for name in metrics_of(expr)):
            assert grouped_by(expr) <= known, f"{grouped_by(expr) - known} is no label: {expr}"


# 3. What goes wrong.


def work_goes_wrong(site: Site, instances: dict[str, str]) -> None:
    site.fires("UnkaiHostEmulates", "a host whose accelerator is tcg")
    image = site.client.resolve("image", "tiny")

    # Nobody has so many CPUs.
    for number in range(8):
        site.create(f"giant-{number}", image_id=image, vcpus=256, memory_bytes=64 * MIB)
        time.sleep(0.7)
    site.create("patient", wait_s=600, image_id=image, vcpus=256, memory_bytes=64 * MIB)
    site.fires("UnkaiNoCapacity", "eight instances of 256 CPUs")
    site.fires("UnkaiOperationsFailing", "they failed")
    site.fires("UnkaiCapacityQueueOld", "one that waits, at 3 s in place of 300 s")

    # The database forgets an instance that a host holds.
    orphan = instances["sim-0"]
    with site.database() as conn:
        conn.execute("DELETE FROM claims WHERE instance_id = ?", (orphan,))
        conn.execute("DELETE FROM instances WHERE id = ?", (orphan,))
    site.fires("UnkaiInvariantViolation", "an instance's rows deleted from the database")

    # An image's bytes vanish from the store before a host has them.
    other = site.client.resolve("image", "other")
    for path in (site.folder / "images").rglob(f"*{other}*"):
        path.unlink()
    without_bytes(site, "late")
    site.fires("UnkaiImageFetchFailing", "an image's bytes removed from the store")
    site.fires("UnkaiStepsFailing", "the step that fetches it")
    site.fires("UnkaiMachinesFailed", "the machine made from it")


def without_bytes(site: Site, name: str) -> str:
    """Create an instance whose image no scheduler has any more; return its id."""
    small = a_small(site) | {"image_id": site.client.resolve("image", "other")}
    return str(site.create(name, **small, required_traits=[FETCHES]).id)


def hosts_go_wrong(site: Site) -> None:
    cloud = site.cloud
    # A host with a certificate for a day, no hypervisor, no switch, a full disk, a damaged ledger.
    state = site.folder / "h2-state"
    (state / "ledger" / "machines").mkdir(parents=True)
    for folder in (state / "ledger", state / "ledger" / "machines"):
        (folder / "ins-01m81ke6mzfyp8t5a7e618vztz.json").write_text("{ no json")
    host = cloud.host(
        "h2",
        lifetime=timedelta(days=1),
        state_dir=state,
        libvirt={"uri": f"qemu:///system?socket={site.folder}/nobody", "timeout_s": 1.0},
        capacity={"disk_bytes": 32 * MIB},
        network={
            "southbound": ["unix:/nowhere/sb.sock"],
            "switch": f"unix:{site.folder}/no-switch",
            "datapath": "netdev",
        },
    )
    host.start()
    site.fires("UnkaiSwitchNotJoined", "a host without its switch")
    site.fires("UnkaiCertificateEnding", "a certificate good for one day", 90)
    site.fires("UnkaiCertificateEndsNow", "the same")
    site.fires("UnkaiLedgerDamaged", "a file of the ledger overwritten")
    site.fires("UnkaiHypervisorAway", "an agent without its libvirtd")
    fill(state, leave_bytes=MIB)
    site.fires("UnkaiHostDiskNearlyFull", "the disk of its state filled")

    # Agents that come and go, with a clock that is late.
    fleet = site.daemon("f1")
    fleet.environment = {"LD_PRELOAD": FAKETIME, "FAKETIME": "-60s"}
    for _ in range(5):
        started_s = start_time(site.prometheus, fleet)
        fleet.restart()
        until(
            lambda old=started_s: start_time(site.prometheus, fleet) not in (old, None),
            "the restarted agent is scraped",
            30,
        )
    site.fires("UnkaiAgentRestarting", "an agent killed and started five times")
    site.fires("UnkaiMachineLost", "simulated machines, whose disks went with their agent")
    site.fires("UnkaiClockSkew", "an agent whose clock is a minute late")
    fleet.kill()
    site.fires("UnkaiAgentDown", "an agent killed")
    site.fires("UnkaiHostLost", "its hosts")
    site.fires("UnkaiHostSilent", "its hosts' figures, at an age of 3 s in place of 30 s")


def start_time(prometheus: Prometheus, daemon: Daemon) -> str | None:
    port = daemon.metrics_port
    found = prometheus.series(f'process_start_time_seconds{{instance=~".*:{port}|{daemon.name}"}}')
    return found[0]["value"][1] if found else None


def control_plane_goes_wrong(site: Site) -> None:
    scheduler, etcd = site.daemon("s1"), site.cloud.etcd

    # The images' disk, then the database's.
    fill(site.folder / "images")
    command = CommandLine(site.cloud, scheduler)
    for number in range(5):
        with suppress(subprocess.CalledProcessError):
            command("image", "upload", f"none-{number}", str(built_tiny()))
    site.fires("UnkaiImageStoreFailing", "uploads to a full disk")
    site.fires("UnkaiSchedulerDiskNearlyFull", "that disk filled")
    ballast = fill(site.folder / "db")
    site.daemon("h2").kill()  # that it is lost cannot be written
    with busy(lambda: a_flavor(site)):
        site.fires("UnkaiDatabaseFailing", "the database's disk filled")
        site.fires("UnkaiLoopFailing", "the leader's loops meanwhile")
    ballast.unlink()

    # etcd goes: no leader, yet requests are taken.
    again = str(uuid.uuid4())
    ident = until(
        lambda: site.create("waiting", request_id=again, **a_small(site)), "the database is back"
    ).id
    asking = without_bytes(site, "asking")
    until(lambda: site.instance(asking).host_name == HOST, f"{HOST} is asked for it", 30)
    # At once: the leader would take it from a host that fails it for some seconds.
    etcd.stop()
    site.fires("UnkaiEtcdAway", "etcd stopped")
    site.fires("UnkaiAgentNotRegistered", "etcd stopped")
    site.fires("UnkaiNoLeader", "etcd stopped")
    site.create("unstamped", **a_small(site))
    with site.database() as conn:
        conn.execute("UPDATE operations SET deadline_time = '2020-01-01 00:00:00.000000' "
                     "WHERE end_time IS NULL")  # fmt: skip
    site.fires("UnkaiEventsLagging", "an instance made while nobody leads")
    site.fires("UnkaiOperationsStuck", "its deadline set back in the database")
    assert ident

    # An agent is started anew while nobody leads: it asks before it goes on with a machine.
    site.fires("UnkaiNoLeaderWatches", "agents while nobody leads")
    site.daemon("f2").restart()
    site.fires("UnkaiMachinesAwaitPermit", "an agent started anew while nobody leads")
    etcd.start()

    # A lead that is lost and won again.
    with busy(lambda: lose_the_lead(site)):
        site.fires("UnkaiLeaderChangesOften", "a leader stopped and revived again and again", 90)
    scheduler.kill()
    site.fires("UnkaiSchedulerDown", "the scheduler killed")


def a_small(site: Site) -> dict[str, Any]:
    return {"image_id": site.client.resolve("image", "tiny"), "vcpus": 1, "memory_bytes": 64 * MIB}


def a_flavor(site: Site) -> None:
    """Write something, or fail to."""
    flavor = {"name": f"f-{time.monotonic_ns()}", "vcpus": 1, "memory_bytes": 64 * MIB}
    with suppress(UnkaiError):
        site.client.call("FlavorService", "CreateFlavor", flavor=flavor | {"disk_bytes": 1 << 30})
    time.sleep(0.05)


def lose_the_lead(site: Site) -> None:
    """Stop the scheduler for longer than its lease lasts."""
    until(lambda: site.prometheus.series("unkai_leader > 0"), "it leads", 30)
    site.daemon("s1").signal(signal.SIGSTOP)
    time.sleep(4.0)
    site.daemon("s1").signal(signal.SIGCONT)


@contextmanager
def busy(act: Callable[[], None]) -> Iterator[None]:
    """Do something again and again meanwhile."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            with suppress(AssertionError, UnkaiError):
                act()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def plant_the_rest(site: Site) -> None:
    for name, series in PLANTED.items():
        site.planted.plant(series)
        site.fires(name, "planted series")

"""The agent's settings: one frozen tree, and within which bounds each value must be.

Plain data: what reads and checks it is `settings_reader`, in a process of its own for the daemon
(`settings_apart`). Each field says its unit and why it has its default. Nothing here opens or
connects; who the host is comes from its certificate, not from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from unkai_wire.setting_values import Checked, split_address
from unkai_wire.tls import TlsFiles
from unkai_wire.tracing import check_endpoint

DEFAULT_FILE = Path("/etc/unkai/agent.toml")
_PKI = Path("/etc/unkai/pki")


class InvalidSettings(Exception):
    """The settings cannot be used. `problems`: one sentence each, naming key and source."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _address(text: str) -> str:
    split_address(text)
    return text


def _optional_address(text: str) -> str:
    return _address(text) if text else text


def _optional_ip(text: str) -> str:
    return str(ip_address(text)) if text else text


def _southbound(text: str) -> str:
    scheme, _, place = text.partition(":")
    if scheme == "unix" and place.startswith("/"):
        return text
    if scheme not in ("ssl", "tcp"):
        raise ValueError(f"{text[:64]!r} is neither ssl:ADDRESS:PORT, tcp:… nor unix:/PATH")
    host, _ = split_address(place)
    ip_address(host.strip("[]"))  # ovn-controller(8): resolving names would block it
    return text


def _switch(text: str) -> str:
    if not text.startswith("unix:/"):
        raise ValueError(f"{text[:64]!r} is not unix:/PATH")
    return text


def _physical_network(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", text):
        raise ValueError(f"{text[:64]!r} is no name of a physical network")
    return text


def _bridge(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text):
        raise ValueError(f"{text[:64]!r} is no name of a bridge")
    return text


Address = Annotated[str, Checked(_address)]
OptionalAddress = Annotated[str, Checked(_optional_address)]


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Where the PEM files lie that we show and check."""

    ca: Path = _PKI / "ca.crt"
    """Certificate of the CA that every party's certificate must come from."""
    certificate: Path = _PKI / "host.crt"
    """Our certificate; it says which host this is."""
    key: Path = _PKI / "host.key"
    """Our private key; readable by us alone."""

    def files(self) -> TlsFiles:
        """Return the three paths as the wire package wants them."""
        return TlsFiles(ca=self.ca, certificate=self.certificate, key=self.key)


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where this host registers. The host's certificate is shown to etcd too."""

    endpoints: Annotated[tuple[Address, ...], MinLen(1)] = ("127.0.0.1:2379",)
    """Client addresses of the members, `HOST:PORT`; all are tried in turn."""
    timeout_s: Annotated[float, Gt(0), Le(30)] = 2.0
    """Seconds one call may take: shorter than the lease of 6 s, so that a slow member is seen."""


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """What this host offers to instances. 0 means: found out."""

    cpus: Annotated[int, Ge(0), Le(4096)] = 0
    """CPUs; 0: those this process may run on, or as many whole ones as the quota of the sampler's
    groups allows."""
    memory_bytes: Annotated[int, Ge(0)] = 0
    """Memory in bytes; 0: the machine's or the limit of the sampler's group, less the reserve."""
    disk_bytes: Annotated[int, Ge(0)] = 0
    """Disk in bytes; 0: the size of the file system of `state_dir`, less the reserve."""
    memory_reserve_bytes: Annotated[int, Ge(0)] = 1 << 30
    """Memory in bytes kept for the host itself; at most half of it is taken."""
    disk_reserve_bytes: Annotated[int, Ge(0)] = 4 << 30
    """Disk in bytes kept for the host itself and the image cache; at most half of it is taken."""


@dataclass(frozen=True, slots=True)
class LibvirtSettings:
    """The hypervisor."""

    uri: str = "qemu:///system"
    """libvirt's connection URI."""
    qemu_user: str = "libvirt-qemu"
    """User that QEMU runs as; disks and seeds are given to it. Never root."""
    timeout_s: Annotated[float, Gt(0), Le(300)] = 20.0
    """Seconds one call may take before its outcome counts as unknown."""


@dataclass(frozen=True, slots=True)
class NetworkTlsSettings:
    """What this host's switch shows to OVN's databases; by default, what the agent shows.

    OVN lets a host change its own rows alone where the certificate's common name is the host's id,
    as in those that 'unkai-scheduler cert host' makes."""

    ca: Path | None = None
    """Certificate of the CA that the databases' certificates come from."""
    certificate: Path | None = None
    """The switch's certificate."""
    key: Path | None = None
    """Its key; readable by ovn-controller's user."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Virtual networks: how this host's Open vSwitch belongs to OVN."""

    southbound: tuple[Annotated[str, Checked(_southbound)], ...] = ()
    """OVN's southbound database: `ssl:ADDRESS:PORT` (of a cluster all), `tcp:ADDRESS:PORT` or
    `unix:/PATH`; none: this host has no networks, and machines with ports are not placed on it."""
    encap_address: Annotated[str, Checked(_optional_ip)] = ""
    """IP address of this host at which tunnels from other hosts end; empty: that of `advertise`."""
    datapath: Literal["auto", "system", "netdev"] = "auto"
    """What forwards frames: `system` is the kernel's module, `netdev` the switch's own process;
    `auto` asks the kernel. Machines' hardware depends on it: change it while none runs."""
    bridge_mappings: Mapping[
        Annotated[str, Checked(_physical_network)], Annotated[str, Checked(_bridge)]
    ] = field(default_factory=dict)
    """The operator's networks that this host is attached to: name to the bridge of Open vSwitch."""
    switch: Annotated[str, Checked(_switch)] = "unix:/run/openvswitch/db.sock"
    """Database of this host's Open vSwitch; ovs-vswitchd's pid file and control socket are beside
    it."""
    controller_dir: Path = Path("/run/ovn")
    """Folder of ovn-controller's pid file and control socket."""
    tls: NetworkTlsSettings = NetworkTlsSettings()
    """Credentials of the switch."""

    @property
    def enabled(self) -> bool:
        """Whether this host has networks."""
        return bool(self.southbound)


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """Where live figures come from. All empty: the whole machine's."""

    interval_s: Annotated[float, Ge(0.1), Le(60)] = 2.0
    """Seconds between samples; the scheduler takes no sample older than 10 s."""
    cgroup2: Path | None = None
    """Group of the unified hierarchy that holds all of this host's processes."""
    memory_v1: Path | None = None
    """Group of the version 1 memory controller."""
    blkio_v1: Path | None = None
    """Group of the version 1 blkio controller."""
    cpu_v1: Path | None = None
    """Group of the version 1 cpu controller."""


@dataclass(frozen=True, slots=True)
class ConvergeSettings:
    """How machines are brought to what they shall be."""

    permit_autonomy_s: Annotated[float, Ge(0), Le(3600)] = 30.0
    """Seconds without a leader's answer after which machines whose writable disks all lie here
    are started without its permit; twice as long while a leader is there, yet silent about them.
    Keep the latter above the leader's backoff, or a crashing guest is restarted sooner."""
    starts: Annotated[int, Ge(1), Le(64)] = 4
    """Machines made or started at once: more only makes all of them slower."""
    create_tries: Annotated[int, Ge(1), Le(100)] = 4
    """Tries for a machine that never ran; then it is FAILED for good and may go elsewhere."""
    backoff_base_s: Annotated[float, Gt(0)] = 0.5
    """First wait before the next try; doubles each time, with jitter."""
    backoff_cap_s: Annotated[float, Gt(0)] = 30.0
    """Longest such wait."""
    resync_s: Annotated[float, Gt(0), Le(600)] = 15.0
    """Seconds between looks at everything, whatever the hypervisor's events say."""
    poll_s: Annotated[float, Gt(0), Le(60)] = 1.0
    """Seconds between looks at a guest that was asked to shut down."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Simulated hosts in this process, for labs: `unkai-agent simulate`."""

    hosts: Annotated[int, Ge(0), Le(20_000)] = 0
    """How many."""
    cpus: Annotated[int, Ge(1)] = 16
    """CPUs of each."""
    memory_bytes: Annotated[int, Ge(1 << 20)] = 64 << 30
    """Memory in bytes of each."""
    disk_bytes: Annotated[int, Ge(1 << 20)] = 1 << 40
    """Disk in bytes of each."""
    background_load_ratio: Annotated[float, Ge(0), Le(1)] = 0.05
    """CPU load that is not a machine's, as a share of the CPUs."""
    fetch_images: bool = False
    """Really fetch image bytes, to be checked and thrown away, once for each host."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """This host's part of the traces that schedulers begin; needs `unkai[tracing]`."""

    endpoint: Annotated[str, Checked(check_endpoint)] = ""
    """`https://HOST:PORT` of the collector (OTLP over gRPC, our certificates), or `http://` on this
    machine; empty: no traces, at no cost."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the agent."""

    listen: Address = "0.0.0.0:7444"
    """`HOST:PORT` of the gRPC server (mTLS)."""
    advertise: OptionalAddress = ""
    """`IP:PORT` at which schedulers reach us; empty: `listen`, and where that is all addresses,
    the address from which this machine reaches etcd."""
    socket: Path = Path("/run/unkai/agent.sock")
    """Unix socket (mode 0600) for root on this machine."""
    metrics_listen: OptionalAddress = "0.0.0.0:9444"
    """`HOST:PORT` of the Prometheus endpoint (mTLS); empty: none."""
    state_dir: Path = Path("/var/lib/unkai/agent")
    """Holds the ledger, the image cache and the machines."""
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    """File that tells one boot from the next. Labs give each host its own."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """What runs guests' CPUs; `auto` finds out by running whether KVM works."""
    traits: tuple[str, ...] = ()
    """Traits that this host has beside those found out."""
    log_format: Literal["json", "console"] = "json"
    """How log lines look on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""
    shutdown_grace_s: Annotated[float, Ge(0), Le(120)] = 3.0
    """Seconds that calls under way get to end after SIGTERM. Guests are not touched."""
    tls: TlsSettings = TlsSettings()
    """Our credentials."""
    etcd: EtcdSettings = EtcdSettings()
    """Where this host registers."""
    capacity: CapacitySettings = CapacitySettings()
    """What this host offers."""
    libvirt: LibvirtSettings = LibvirtSettings()
    """The hypervisor."""
    network: NetworkSettings = NetworkSettings()
    """Virtual networks."""
    sampler: SamplerSettings = SamplerSettings()
    """Live figures."""
    converge: ConvergeSettings = ConvergeSettings()
    """How machines are brought to what they shall be."""
    fleet: FleetSettings = FleetSettings()
    """Simulated hosts."""
    tracing: TracingSettings = TracingSettings()
    """Traces of API calls."""

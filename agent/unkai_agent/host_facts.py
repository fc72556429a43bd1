"""What this host is: identity, capacity, traits, boot. Read once, at start.

Identity comes from the certificate alone, so that a host cannot call itself another's name.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from unkai_agent.domain.hosts import Accelerator, Capacity, HostIdentity
from unkai_agent.metrics import GroupLimits
from unkai_agent.settings import CapacitySettings, Settings
from unkai_wire.cluster_records import HostRecord
from unkai_wire.errors import FailedPrecondition
from unkai_wire.own_certificate import uris_of
from unkai_wire.setting_values import split_address
from unkai_wire.tls import Principal, Role, principal_of_uri

FEATURES = ("machines.v1", "machine_specs.v1", "diagnose.v1")
"""Features of the contract this agent has, for mixed versions."""
PORT_FEATURE = "ports.v1"
"""It acts on ports of machines: hosts with networks, and simulated ones."""
NETWORK_FEATURE = "networks.v1"
"""It serves networks to guests and is told their names: hosts with networks alone."""
MAX_REASON = 1024
"""Characters of the reason for the accelerator: a record longer than readers take is none."""


def agent_version() -> str:
    """Return the version of this agent."""
    try:
        return version("unkai")
    except PackageNotFoundError:
        return "0"


def principal_of_certificate(path: Path) -> Principal:
    """Read who a certificate says its holder is; raise `FailedPrecondition` when it does not."""
    try:
        uris = uris_of(path.read_text(encoding="ascii"))
        if not uris:
            raise ValueError("it has no URI among its names")
        return principal_of_uri(uris[0])
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"certificate {path} does not say who this is: {error}",
            reason="NO_IDENTITY",
            fix="make one with 'unkai-scheduler cert host NAME' and copy it here",
            metadata={"path": str(path)},
        ) from error


def host_identity(path: Path) -> HostIdentity:
    """Read which host this is from its certificate; raise `FailedPrecondition` for another's."""
    principal = principal_of_certificate(path)
    if principal.role is not Role.HOST:
        raise FailedPrecondition(
            f"certificate {path} is a {principal.role.value}'s, not a host's",
            reason="NO_IDENTITY",
            fix="make one with 'unkai-scheduler cert host NAME' and copy it here",
            metadata={"path": str(path), "role": principal.role.value},
        )
    return HostIdentity(host_id=principal.host_id, name=principal.name)


def boot_id(path: Path) -> str:
    """Return what tells this boot from others; without the file, one that no other boot has."""
    try:
        return path.read_text().strip()
    except OSError:
        # Taken for a new boot: machines then wait for a permit, which is safe.
        return f"unknown-{secrets.token_hex(8)}"


def recall_accelerator(path: Path, boot: str) -> Accelerator | None:
    """Return what was proven earlier in this boot, or None: a proof takes seconds."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["boot_id"] == boot:
            return Accelerator(name=str(kept["name"]), reason=str(kept["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def note_accelerator(path: Path, boot: str, accelerator: Accelerator) -> None:
    """Remember a proof for the rest of this boot; a full disk costs only the seconds."""
    with suppress(OSError):
        path.write_text(
            json.dumps({"boot_id": boot, "name": accelerator.name, "reason": accelerator.reason})
        )


def capacity(settings: CapacitySettings, state_dir: Path, limits: GroupLimits) -> Capacity:
    """Return what this host offers: as set, or found out less the reserve.

    What is found out is never more than its groups allow; of a CPU in parts, the whole ones.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = min(memory, limits.memory_bytes or memory)
    cpus = len(os.sched_getaffinity(0))
    cpus = max(1, min(cpus, int(limits.cpu_cores or cpus)))
    files = os.statvfs(state_dir)
    disk = files.f_frsize * files.f_blocks
    return Capacity(
        cpus=settings.cpus or cpus,
        memory_bytes=settings.memory_bytes or _less(memory, settings.memory_reserve_bytes),
        disk_bytes=settings.disk_bytes or _less(disk, settings.disk_reserve_bytes),
    )


def traits(accelerator: Accelerator, more: tuple[str, ...]) -> tuple[str, ...]:
    """Return what this host can do, sorted."""
    machine = platform.machine().upper().replace("-", "_")
    found = {f"CPU_{machine}", accelerator.name.upper(), *more}
    return tuple(sorted(found))


def advertised_address(settings: Settings) -> str:
    """Return `IP:PORT` at which schedulers reach us."""
    return settings.advertise or _reachable(settings.listen, settings)


def tunnel_address(settings: Settings) -> str:
    """Return the address of this host that tunnels from other hosts end at."""
    host, _ = split_address(advertised_address(settings))
    return settings.network.encap_address or host.strip("[]")


def advertised_metrics_address(settings: Settings) -> str:
    """Return `IP:PORT` of the metrics endpoint as others reach it; empty when there is none."""
    if not settings.metrics_listen:
        return ""
    _, port = split_address(settings.metrics_listen)
    host, _ = split_address(advertised_address(settings))
    return _join(host, port)


def record(
    settings: Settings,
    identity: HostIdentity,
    *,
    tls_name: str,
    offered: Capacity,
    accelerator: Accelerator,
    boot: str,
    more_features: tuple[str, ...] = (),
) -> HostRecord:
    """Return the record that this host registers."""
    return HostRecord(
        host_id=identity.host_id,
        name=identity.name,
        address=advertised_address(settings),
        tls_name=tls_name,
        cpus=offered.cpus,
        memory_bytes=offered.memory_bytes,
        disk_bytes=offered.disk_bytes,
        accelerator=accelerator.name,
        accelerator_reason=accelerator.reason[:MAX_REASON],
        traits=traits(accelerator, settings.traits),
        boot_id=boot,
        agent_version=agent_version(),
        features=FEATURES + more_features,
        metrics_address=advertised_metrics_address(settings),
    )


def _less(total: int, reserve: int) -> int:
    return total - min(reserve, total // 2)


def _reachable(listen: str, settings: Settings) -> str:
    host, port = split_address(listen)
    if host not in ("0.0.0.0", "::"):
        return _join(host, port)
    etcd_host, etcd_port = split_address(settings.etcd.endpoints[0])
    family = socket.AF_INET6 if ":" in etcd_host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sends nothing; it only chooses our address.
            probe.connect((etcd_host, etcd_port))
            return _join(str(probe.getsockname()[0]), port)
    except OSError as error:
        raise FailedPrecondition(
            f"this machine has no way to etcd at {etcd_host}: {error.strerror or error}",
            reason="NO_ADDRESS",
            fix="mend its network or 'etcd.endpoints', or set 'advertise' to its own address",
            metadata={"etcd": etcd_host},
        ) from error


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

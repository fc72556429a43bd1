"""The files and command lines of the lab's programs, rendered from the spec. Pure.

libvirt's files hold only what differs from its defaults, and why. Where a default would reach
outside the host's namespaces (cgroups, ownership of shared files, TCP), it is turned off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unkai_lab.cells import PrivateMount
from unkai_lab.cgroups import CellGroups
from unkai_lab.database import settings_of
from unkai_lab.ovn import NORTHBOUND, SOUTHBOUND, ovn_pki, remote
from unkai_lab.spec import (
    CONTROL,
    EXTERNAL_BRIDGE,
    FLEET,
    PHYSICAL_MTU,
    PHYSICAL_NETWORK,
    SQLITE,
    LabPaths,
    LabSpec,
)
from unkai_wire.tls import ETCD_TLS_NAME

SCHEDULER_PORT = 7443
AGENT_PORT = 7444
SCHEDULER_METRICS_PORT = 9443
AGENT_METRICS_PORT = 9444
ETCD_CLIENT_PORT = 2379
ETCD_PEER_PORT = 2380
"""Those of the first member; each further one's are ten higher."""
QEMU_USER = "libvirt-qemu"
REAL_TRAIT, SIMULATED_TRAIT = "REAL", "SIMULATED"
"""Traits by which an instance can ask for a host of either kind."""

HOST_FOLDERS: Mapping[str, str] = {
    "libvirt/etc": "/etc/libvirt",
    "libvirt/lib": "/var/lib/libvirt",
    "libvirt/cache": "/var/cache/libvirt",
    "libvirt/log": "/var/log/libvirt",
}
"""Folders of a host's cell that outlive a reboot, and what they are bound over."""
QEMU_FOLDERS = ("libvirt/lib/qemu", "libvirt/cache/qemu")
"""Those of them that belong to QEMU's user."""

QEMU_CONF = f"""\
# QEMU never runs as root, and filters its system calls.
user = "{QEMU_USER}"
group = "{QEMU_USER}"
seccomp_sandbox = 1
# The agent gives files to QEMU's user; libvirt would give them back to root.
dynamic_ownership = 0
remember_owner = 0
# A lab host is a set of namespaces and cgroups already.
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""

VIRTLOGD_CONF = """\
# Consoles are kept up to 2 MiB, and two older files of that size.
max_size = 2097152
max_backups = 2
"""


def libvirtd_conf(host_uuid: str) -> str:
    """Return libvirtd.conf: unix sockets for root alone, and a uuid no other host has."""
    return f"""\
# Two hosts with one uuid refuse to migrate to each other.
host_uuid = "{host_uuid}"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_ro_perms = "0700"
"""


def host_mounts(folder: Path, *, with_kvm: bool) -> tuple[PrivateMount, ...]:
    """Return what a host sees for itself; `/run` is empty at each boot, as on any host."""
    kept = tuple(
        PrivateMount(target, str(folder / below)) for below, target in HOST_FOLDERS.items()
    )
    kvm = (PrivateMount("/dev/kvm", str(folder / "kvm")),) if with_kvm else ()
    return (PrivateMount("/run"), *kept, *kvm)


def etcd_command(spec: LabSpec, paths: LabPaths, member: str) -> list[str]:
    """Return the command line of one of etcd's members: it demands certificates everywhere."""
    pki = etcd_pki(paths, member)
    client, peer = _etcd_urls(spec, member)
    cluster = ",".join(f"{name}={_etcd_urls(spec, name)[1]}" for name in spec.etcd_names)
    options = {
        "name": member,
        "data-dir": str(etcd_folder(paths, member)),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": cluster,
        "client-cert-auth": "true",
        "peer-client-cert-auth": "true",
        # Any certificate of the CA would do otherwise, and a peer asks nobody for permission.
        "peer-cert-allowed-hostname": ETCD_TLS_NAME,
        "auto-compaction-retention": "1h",
        # Passwords of its users are random and forgotten: hashing them long guards nothing.
        "bcrypt-cost": "4",
        "logger": "zap",
        "log-level": "warn",
    }
    for prefix in ("", "peer-"):
        options[f"{prefix}trusted-ca-file"] = str(pki / "ca.crt")
        options[f"{prefix}cert-file"] = str(pki / "etcd.crt")
        options[f"{prefix}key-file"] = str(pki / "etcd.key")
    return ["etcd", *(f"--{name}={value}" for name, value in options.items())]


def etcd_folder(paths: LabPaths, member: str) -> Path:
    """Return where a member keeps its data."""
    return paths.cell(CONTROL) / member


def etcd_pki(paths: LabPaths, member: str) -> Path:
    """Return the folder of a member's certificate."""
    return paths.cell(CONTROL) / ("pki" if member == "etcd" else f"pki-{member}")


def etcd_endpoints(spec: LabSpec) -> list[str]:
    """Return the client addresses of all members, `HOST:PORT`."""
    return [_etcd_urls(spec, name)[0].removeprefix("https://") for name in spec.etcd_names]


def _etcd_urls(spec: LabSpec, member: str) -> tuple[str, str]:
    """Return a member's URLs for clients and for peers."""
    address, step = spec.address(CONTROL), 10 * spec.etcd_names.index(member)
    client, peer = ETCD_CLIENT_PORT + step, ETCD_PEER_PORT + step
    return f"https://{address}:{client}", f"https://{address}:{peer}"


def etcd_secure_command(spec: LabSpec, paths: LabPaths) -> list[str]:
    """Return what follows `unkai-scheduler` to let each certificate write its own keys only."""
    endpoints = [part for each in etcd_endpoints(spec) for part in ("--endpoint", each)]
    return ["etcd", "secure", "--dir", str(paths.folder), *endpoints]


def etcdctl_command(spec: LabSpec, paths: LabPaths, member: str = "") -> list[str]:
    """Return etcdctl with all it needs to reach a member, or whichever of them answers."""
    named = [_etcd_urls(spec, member)[0].removeprefix("https://")] if member else []
    pki = scheduler_pki(spec, paths, spec.scheduler_names[0])
    return [
        "etcdctl",
        f"--endpoints={','.join(named or etcd_endpoints(spec))}",
        f"--cacert={pki / 'ca.crt'}",
        f"--cert={pki / 'etcd-client.crt'}",
        f"--key={pki / 'etcd-client.key'}",
        "--command-timeout=2s",
        "--dial-timeout=1s",
    ]


def etcd_health_command(spec: LabSpec, paths: LabPaths, member: str = "") -> list[str]:
    """Return a command that succeeds once a member, or each of them, commits."""
    return [*etcdctl_command(spec, paths, member), "endpoint", "health"]


def scheduler_pki(spec: LabSpec, paths: LabPaths, name: str) -> Path:
    """Return the folder of a scheduler's certificates: one alone has them beside the CA."""
    return paths.pki if spec.schedulers == 1 else paths.cell(spec.scheduler_cell(name)) / "pki"


def scheduler_settings(spec: LabSpec, paths: LabPaths, name: str) -> dict[str, Any]:
    """Return the settings of a scheduler. Several share the database and the image store."""
    cell = spec.scheduler_cell(name)
    address, pki = spec.address(cell), scheduler_pki(spec, paths, name)
    database = settings_of(spec, paths)
    if spec.database != SQLITE:
        database["tls"] = _tls(pki, "scheduler")
    return {
        "name": name,
        "listen": f"{address}:{SCHEDULER_PORT}",
        "advertise": f"{address}:{SCHEDULER_PORT}",
        "socket": str(paths.socket(cell)),
        "metrics_listen": f"{address}:{SCHEDULER_METRICS_PORT}",
        "log_format": "console",
        "tls": _tls(pki, "scheduler"),
        "database": database,
        "images": {"url": f"file://{paths.cell(CONTROL) / 'images'}"},
        "etcd": {
            "endpoints": etcd_endpoints(spec),
            "tls": _tls(pki, "etcd-client"),
        },
        **({"network": _scheduler_network(spec, paths, name)} if spec.networks else {}),
    }


def agent_settings(spec: LabSpec, paths: LabPaths, host: str, groups: CellGroups) -> dict[str, Any]:
    """Return the settings of a host's agent."""
    folder = paths.cell(host)
    sampler = {"cgroup2": str(groups.unified)}
    for controller in ("memory", "blkio", "cpu"):
        if group := groups.controller(controller):
            sampler[f"{controller}_v1"] = str(group)
    return {
        **_agent(spec, folder, host),
        "traits": [REAL_TRAIT],
        "socket": "/run/unkai/agent.sock",
        "boot_id_file": str(folder / "boot-id"),
        "accelerator": spec.accelerator,
        "tls": _tls(folder / "pki", "host"),
        "etcd": _agent_etcd(spec),
        "capacity": {
            "cpus": spec.host_cpus,
            "memory_bytes": spec.host_memory_bytes,
            "disk_bytes": spec.host_disk_bytes,
        },
        "libvirt": {"uri": "qemu:///system", "qemu_user": QEMU_USER},
        "sampler": sampler,
        **({"network": _agent_network(spec, host)} if spec.networks else {}),
    }


def fleet_settings(spec: LabSpec, paths: LabPaths) -> dict[str, Any]:
    """Return the settings of the process that holds the simulated hosts."""
    folder = paths.cell(FLEET)
    return {
        **_agent(spec, folder, FLEET),
        "traits": [SIMULATED_TRAIT],
        "socket": str(folder / "agent.sock"),
        "tls": _tls(folder / "pki", "fleet"),
        "etcd": _agent_etcd(spec),
        "fleet": {"hosts": spec.simulated},
    }


def toml_text(settings: Mapping[str, Any]) -> str:
    """Return settings as TOML: scalars and lists first, then a table for each mapping."""
    return "\n".join(_toml_lines(settings, ())) + "\n"


def _agent(spec: LabSpec, folder: Path, cell: str) -> dict[str, Any]:
    address = spec.address(cell)
    return {
        "listen": f"{address}:{AGENT_PORT}",
        "advertise": f"{address}:{AGENT_PORT}",
        "metrics_listen": f"{address}:{AGENT_METRICS_PORT}",
        "state_dir": str(folder / "agent"),
        "log_format": "console",
    }


def _scheduler_network(spec: LabSpec, paths: LabPaths, name: str) -> dict[str, Any]:
    pki = ovn_pki(paths, name)
    return {
        "northbound": [remote(spec, NORTHBOUND)],
        "southbound": [remote(spec, SOUTHBOUND)],
        "tls": _tls(pki, "ovn-client") | {"ca": str(pki / "ovn-ca.crt")},
        "physical_networks": {PHYSICAL_NETWORK: PHYSICAL_MTU},
    }


def _agent_network(spec: LabSpec, host: str) -> dict[str, Any]:
    gateway = host in spec.gateway_hosts
    return {
        "southbound": [remote(spec, SOUTHBOUND)],
        "encap_address": spec.tunnel_address(host),
        "datapath": "netdev",
        **({"bridge_mappings": {PHYSICAL_NETWORK: EXTERNAL_BRIDGE}} if gateway else {}),
    }


def _agent_etcd(spec: LabSpec) -> dict[str, Any]:
    return {"endpoints": etcd_endpoints(spec)}


def _tls(folder: Path, stem: str) -> dict[str, str]:
    return {
        "ca": str(folder / "ca.crt"),
        "certificate": str(folder / f"{stem}.crt"),
        "key": str(folder / f"{stem}.key"),
    }


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    # A JSON scalar or list of ASCII is a TOML one too.
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in table.items()
        if not isinstance(value, Mapping)
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            below = (*path, key)
            lines += ["", f"[{'.'.join(below)}]", *_toml_lines(value, below)]
    return lines

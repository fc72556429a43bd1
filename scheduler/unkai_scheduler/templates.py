"""Files that `init` lays down for the operator: settings, etcd's settings, the systemd unit.

The last two are those of `scheduler/systemd` in the sources, which every wheel carries, with this
installation's own path and the address put in. Pure but for reading them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

UNIT = "unkai-scheduler.service"
ETCD = "etcd.conf"
_PORT, _ETCD_PORT = 7443, 2379
_EXAMPLE_ADDRESS = "192.0.2.1"
"""The address in `etcd.conf` as shipped: documentation's own (RFC 5737)."""
_SHIPPED_PROGRAM = "/opt/unkai/bin/unkai-scheduler"
_SHIPPED_FOLDER = "/etc/unkai/"


def unit(folder: Path) -> str:
    """Return the unit that runs this installation's program with the settings in `folder`."""
    text = _shipped(UNIT).replace(
        _SHIPPED_PROGRAM, str(Path(sys.executable).with_name("unkai-scheduler"))
    )
    return text.replace(_SHIPPED_FOLDER, f"{folder}{os.sep}")


def etcd(address: str) -> str:
    """Return the settings of the first etcd member, which listens at `address`."""
    return _shipped(ETCD).replace(_EXAMPLE_ADDRESS, _host(address) if address else "127.0.0.1")


def settings(name: str, pki: Path, address: str) -> str:
    """Return the scheduler's settings; with an address, they say that it is reached there."""
    # JSON's escapes are TOML's, whatever the folder's name holds.
    escaped = json.dumps(str(pki), ensure_ascii=False)[1:-1]
    advertise, endpoints = '# advertise = ""  ', '# endpoints = ["127.0.0.1:2379"]'
    if address:
        advertise = f'advertise = "{_host(address)}:{_PORT}"'
        endpoints = f'endpoints = ["{_host(address)}:{_ETCD_PORT}"]'
    return _SETTINGS.format(name=name, pki=escaped, advertise=advertise, endpoints=endpoints)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _shipped(name: str) -> str:
    """Read a file of the package; in a clone it lies beside it."""
    package = Path(__file__).parent
    inside = package / "systemd" / name
    return (inside if inside.exists() else package.parent / "systemd" / name).read_text()


_SETTINGS = """\
# Settings of unkai's scheduler. What is commented out shows the default.
# The environment wins: UNKAI_SCHEDULER_LISTEN, UNKAI_SCHEDULER_ETCD__ENDPOINTS='["h:2379"]' ...
# Check with: unkai-scheduler --check-config

name = "{name}"                         # unique among schedulers
# listen = "0.0.0.0:7443"               # gRPC (mTLS), HOST:PORT
{advertise}  # HOST:PORT others reach us at; empty: listen, or host name
# socket = "/run/unkai/scheduler.sock"  # for root on this machine, mode 0600
# metrics_listen = "0.0.0.0:9443"       # Prometheus (mTLS); empty: none
# log_format = "json"                   # or "console"
# log_level = "info"                    # debug, info, warning, error

[tls]
ca = "{pki}/ca.crt"
certificate = "{pki}/scheduler.crt"
key = "{pki}/scheduler.key"

[etcd]
{endpoints}  # HOST:PORT of each member
[etcd.tls]
ca = "{pki}/ca.crt"
certificate = "{pki}/etcd-client.crt"
key = "{pki}/etcd-client.key"

[database]
# url = "sqlite:////var/lib/unkai/scheduler/unkai.db"   # or postgresql://USER@HOST:PORT/DATABASE
# password_file = "/etc/unkai/database.password"        # of a server's user

[images]
# url = "file:///var/lib/unkai/scheduler/images"   # or s3://BUCKET/PREFIX
# max_size_bytes = 68719476736          # largest upload, 64 GiB

# [network]                             # virtual networks, which OVN carries; none: no networks
# northbound = ["ssl:192.0.2.1:6641"]   # OVN's databases, or unix:/PATH
# southbound = ["ssl:192.0.2.1:6642"]
# physical_networks = {{public = 1500}}   # the operator's networks that hosts reach: name = MTU
# [network.tls]
# ca = "{pki}/ovn-ca.crt"
# certificate = "{pki}/ovn-client.crt"
# key = "{pki}/ovn-client.key"

[placement]
# policy = "spread"                     # or "pack", for instances that name none
[placement.ratios]
# cpu = 4.0                             # virtual CPUs claimed for each CPU
# memory = 1.0
# disk = 1.0
"""

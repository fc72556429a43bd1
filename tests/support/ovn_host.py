"""One host with all of OVN around it, of a test's own: switch, controller, databases, libvirtd.

All of it runs in the namespaces of `libvirt.py`, where each program is started again when it ends.
The switch forwards in userspace, so that no kernel module is needed. `inside` lets the test's own
thread enter the network namespace: what it then asks of devices is asked of that host.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import libvirt
from tests.support.libvirt import PrivateLibvirt, private_libvirt
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.driver import Datapath, JoinSettings
from unkai_agent.network.switch_programs import Program, control_socket, programs_beside

HOST_ID = "hst-00000000000000000000000001"
ENCAP = "192.0.2.11"
PATIENCE_S = 60.0
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_PROGRAMS = (
    "ovsdb-server",
    "ovs-vswitchd",
    "ovs-vsctl",
    "ovn-controller",
    "ovn-northd",
    "ovn-nbctl",
)
_PRELUDE = f"""
mkdir -p "$root/run/openvswitch" "$root/ovn" /run/openvswitch
mount --bind "$root/run/openvswitch" /run/openvswitch
ip addr add {ENCAP}/32 dev lo
again() {{ while true; do "$@" || true; sleep 0.1; done; }}
share=/usr/share
ovsdb-tool create "$root/ovn/conf.db" $share/openvswitch/vswitch.ovsschema
ovsdb-tool create "$root/ovn/nb.db" $share/ovn/ovn-nb.ovsschema
ovsdb-tool create "$root/ovn/sb.db" $share/ovn/ovn-sb.ovsschema
again ovsdb-server "$root/ovn/conf.db" --no-chdir --remote=punix:/run/openvswitch/db.sock \\
  --unixctl="$root/ovn/switch.ctl" &
again ovsdb-server "$root/ovn/nb.db" "$root/ovn/sb.db" --no-chdir \\
  --remote=punix:"$root/ovn/nb.sock" --remote=punix:"$root/ovn/sb.sock" \\
  --unixctl="$root/ovn/central.ctl" &
ovs-vsctl --retry --timeout=20 --no-wait init
again ovs-vswitchd unix:/run/openvswitch/db.sock --no-chdir --disable-system \\
  --pidfile &
again ovn-northd --ovnnb-db=unix:"$root/ovn/nb.sock" --ovnsb-db=unix:"$root/ovn/sb.sock" \\
  --unixctl="$root/ovn/northd.ctl" &
again env OVN_RUNDIR="$root/ovn" ovn-controller unix:/run/openvswitch/db.sock --pidfile &
"""


def unavailable_reason() -> str:
    """Return why no such host can run here; empty when one can."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    return libvirt.unavailable_reason() or (f"needs {', '.join(missing)}" if missing else "")


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class OvnHost:
    """A running host. Join it first: `membership` says how."""

    def __init__(self, libvirt: PrivateLibvirt) -> None:
        self.libvirt = libvirt
        self._folder = libvirt.root / "ovn"
        self.database = f"unix:{libvirt.root}/run/openvswitch/db.sock"
        self.membership = JoinSettings(
            HOST_ID, "h1", (f"unix:{self._folder}/sb.sock",), ENCAP, Datapath.NETDEV
        )

    def vsctl(self, *arguments: str) -> str:
        """Ask the switch's database as an operator does."""
        return _run("ovs-vsctl", "--timeout=20", f"--db={self.database}", *arguments)

    def nbctl(self, *arguments: str) -> str:
        """Write into the northbound database as a scheduler does."""
        return _run("ovn-nbctl", "--timeout=20", f"--db=unix:{self._folder}/nb.sock", *arguments)

    def sbctl(self, *arguments: str) -> str:
        """Read the southbound database."""
        return _run("ovn-sbctl", "--timeout=20", f"--db=unix:{self._folder}/sb.sock", *arguments)

    def appctl(self, socket: Path, *arguments: str) -> str:
        """Ask a program by its control socket."""
        return _run("ovs-appctl", "--timeout=20", "-t", str(socket), *arguments)

    def make_port(self, port: PortSpec) -> None:
        """Let OVN have the port, on its network."""
        addresses = " ".join([port.mac_address, *(each.address for each in port.addresses)])
        self.nbctl(
            *("--may-exist", "ls-add", port.network_id),
            *("--", "--may-exist", "lsp-add", port.network_id, port.interface_id),
            *("--", "lsp-set-addresses", port.interface_id, addresses),
        )

    def remove_port(self, port: PortSpec) -> None:
        """Let OVN have it no more."""
        self.nbctl("--if-exists", "lsp-del", port.interface_id)

    def add_device(self, port: PortSpec, vm_id: str) -> None:
        """Let a machine's device appear and be plugged, as libvirt does; return once installed."""
        self.make_port(port)
        self.await_bridge()
        _run("ip", "tuntap", "add", "dev", port.device, "mode", "tap")
        _run("ip", "link", "set", port.device, "up")
        ids = {"iface-id": port.interface_id, "vm-id": vm_id, "attached-mac": port.mac_address}
        self.vsctl(
            *("--may-exist", "add-port", "br-int", port.device, "--", "set", "Interface"),
            port.device,
            *(f'external_ids:{key}="{value}"' for key, value in ids.items()),
        )
        wait = ("--timeout=60", f"--db={self.database}", "wait-until", "Interface", port.device)
        _run("ovs-vsctl", *wait, "external_ids:ovn-installed=true")

    def restart_databases(self) -> None:
        """Kill the host's database server and OVN's; their successors read their files."""
        self.libvirt.kill("ovsdb-server")
        end = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(AssertionError):
                self.vsctl("show")
                self.nbctl("show")
                return
            assert time.monotonic() < end, self.libvirt.log()
            time.sleep(0.1)

    def settle(self) -> None:
        """Wait until the switch has done what its database says, and OVN what its own say."""
        self.vsctl("set", "Open_vSwitch", ".", f"external_ids:asked={time.monotonic()}")
        self.nbctl("--wait=hv", "sync")

    def await_bridge(self) -> None:
        """Wait until ovn-controller has made its bridge, once the host is joined."""
        wait = ("--timeout=60", f"--db={self.database}", "wait-until", "Bridge", "br-int")
        _run("ovs-vsctl", *wait)

    def drop_device(self, port: PortSpec) -> None:
        """Let the device vanish, as a crash of the host does; the switch keeps its row."""
        _run("ip", "link", "del", port.device)

    @property
    def controller(self) -> Path:
        """The control socket of ovn-controller."""
        return control_socket(self._folder, "ovn-controller")

    @property
    def controller_dir(self) -> Path:
        """Folder of ovn-controller's pid file and control socket."""
        return self._folder

    @property
    def programs(self) -> list[Program]:
        """What carries and steers its packets."""
        return programs_beside(self.database, self._folder)

    @contextlib.contextmanager
    def hanging(self, program: str) -> Iterator[None]:
        """Let a program stand still meanwhile; it has answered again afterwards."""
        pid = self.libvirt.daemon_pid(program)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def forget_ports(self) -> None:
        """Remove all machines' devices and their rows."""
        for line in self.vsctl("list-ports", "br-int").split():
            if line.startswith("tap"):
                self.vsctl("--if-exists", "del-port", line)
        for link in json.loads(_run("ip", "-j", "link", "show")):
            if link["ifname"].startswith("tap"):
                _run("ip", "link", "del", link["ifname"])

    def external_ids(self, port: PortSpec) -> str:
        """Return what the switch's row of a port says; empty: there is none."""
        return self.vsctl("--if-exists", "get", "Interface", port.device, "external_ids").strip()


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=os.environ | {"PATH": _PATH},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def ovn_host() -> Iterator[OvnHost]:
    """Run a host; everything of it is gone afterwards. The test's thread is inside meanwhile."""
    with private_libvirt(prelude=_PRELUDE) as running:
        host = OvnHost(running)
        end = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(AssertionError):
                host.vsctl("show")
                host.nbctl("show")
                break
            assert time.monotonic() < end, running.log()
            time.sleep(0.1)
        with inside(running.network_namespace):
            yield host


@contextlib.contextmanager
def inside(namespace: Path) -> Iterator[None]:
    """Let this thread, and what it starts, be in a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(there)
        os.close(before)


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")

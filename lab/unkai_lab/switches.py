"""A host's Open vSwitch and ovn-controller, and the cables that they use.

The switch forwards in its own process, for lab machines have no kernel module for it. Then two
things must be so. The address of the tunnels sits on a bridge of the switch, with the cable in it:
no tunnel packet would leave otherwise. And no cable leaves checksums to a card: the switch would
pass them on half-made, and TCP would hang.

Each program has a monitor of its own, as `ovs-ctl` and `ovn-ctl` give it one: it is started again
at once after a crash, and 10 s after that at the soonest (ovs-vswitchd(8), `--monitor`). A crash
leaves the bridges' devices, with their addresses.

Tunnels have a cable of their own (`eth1`): the switch may die without the host being cut off. A
host that reaches `external` has a third one (`eth2`), in the bridge `br-ex`.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId
from unkai_lab.readiness import accepts, wait_until
from unkai_lab.site import Site
from unkai_lab.spec import CONTROL, EXTERNAL, EXTERNAL_BRIDGE, LabPaths

TUNNEL_BRIDGE = "unkai1"
"""The control cell's bridge that joins the cables of tunnels."""
INTERNET_BRIDGE = "internet"
"""That of the external cell."""
DATABASE, SWITCH, CONTROLLER = "ovsdb-server", "ovs-vswitchd", "ovn-controller"
SWITCH_PROGRAMS = (DATABASE, SWITCH, CONTROLLER)
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_SOCKET = "/run/openvswitch/db.sock"
_START_S = 60.0
_QUIET = ("-vconsole:info", "-vsyslog:off", "-vfile:off")


def tunnel_cable(host: str) -> str:
    """Return the name of a tunnel cable's end in the control cell."""
    return f"{host}t"


def switch_database(paths: LabPaths, host: str) -> Path:
    """Return the file of a host's switch; it outlives a reboot."""
    return paths.cell(host) / "openvswitch.db"


def bridges_command(host_is_gateway: bool) -> list[str]:
    """Return the command that makes a host's bridges, as far as they are missing."""
    cables = {"br-int": "", "br-phys": "eth1"}
    if host_is_gateway:
        cables[EXTERNAL_BRIDGE] = "eth2"
    words = ["ovs-vsctl", "--timeout=30"]
    for bridge, cable in cables.items():
        words += ["--", "--may-exist", "add-br", bridge]
        words += ["--", "set", "Bridge", bridge, "datapath_type=netdev"]
        if cable:
            words += ["--", "--may-exist", "add-port", bridge, cable]
        else:
            words += ["--", "set-fail-mode", bridge, "secure"]
    return words


class HostSwitch:
    """The switch of one host."""

    def __init__(self, site: Site, host: str, tell: Callable[[str], None]) -> None:
        self._site = site
        self._host = host
        self._tell = tell
        self._is_gateway = host in site.spec.gateway_hosts

    def plug_in(self) -> None:
        """Lay the cables of a host that has just booted; no-op where they lie."""
        self._cable(CONTROL, tunnel_cable(self._host), "eth1", TUNNEL_BRIDGE)
        if self._is_gateway:
            self._cable(EXTERNAL, self._host, "eth2", INTERNET_BRIDGE)

    def unplug(self) -> None:
        """Take away what is left of a dead host's cables."""
        for cell, end in self.cables():
            self._site.run(cell, ["ip", "link", "delete", end], check=False)

    def cables(self) -> list[tuple[str, str]]:
        """Return the far ends of the cables: cell and name."""
        external = [(EXTERNAL, self._host)] if self._is_gateway else []
        return [(CONTROL, tunnel_cable(self._host)), *external]

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        self.start_database()
        self.start_switch()
        self._start(CONTROLLER)
        self._tell(f"{self._host}: switch and ovn-controller run")

    def start_database(self) -> None:
        """Start the switch's database."""
        file = switch_database(self._site.paths, self._host)
        self._run("mkdir", "-p", "/run/openvswitch", "/run/ovn")
        if not file.exists():
            half = file.with_suffix(".new")
            half.unlink(missing_ok=True)
            self._run("ovsdb-tool", "create", str(half), _SCHEMA)
            half.rename(file)
        process = self._start(DATABASE, str(file), f"--remote=punix:{_SOCKET}")
        root = Path(f"/proc/{self._site.holder(self._host).pid}/root")
        wait_until(
            partial(accepts, root / _SOCKET.lstrip("/")),
            f"{DATABASE} of {self._host} listens",
            deadline_s=_START_S,
            process=process,
            log=self._site.paths.log(self._host, DATABASE),
        )
        self._run("ovs-vsctl", "--timeout=20", "--no-wait", "init")

    def start_switch(self) -> None:
        """Start the switch with its bridges, and put the tunnel's address on its own."""
        process = self._start(SWITCH, f"unix:{_SOCKET}")
        self._run(*bridges_command(self._is_gateway))
        # A database of before the boot says that all is done, so ovs-vsctl does not wait.
        shown = ["ip", "link", "show", "br-phys"]
        wait_until(
            lambda: self._site.run(self._host, shown, check=False).returncode == 0,
            f"{SWITCH} of {self._host} has made its bridges",
            deadline_s=_START_S,
            process=process,
            log=self._site.paths.log(self._host, SWITCH),
        )
        spec = self._site.spec
        address = f"{spec.tunnel_address(self._host)}/{spec.tunnel_network.prefixlen}"
        # A switch that ended in good order took its bridge's device along.
        lines = [
            "ethtool -K br-phys tx off rx off >/dev/null",
            f"ip address replace {address} dev br-phys",
            "ip link set br-phys up",
        ]
        self._run("sh", "-euc", "\n".join(lines))

    def kill(self, program: str, signal_number: int = signal.SIGKILL) -> None:
        """End `ovsdb-server`, `ovs-vswitchd` or `ovn-controller` for good; guests run on."""
        self._site.kill(self._host, program, signal_number)

    def crash(self, program: str, signal_number: int = signal.SIGSEGV) -> None:
        """Let one of them crash: its monitor starts another."""
        worker = self._site.worker(self._host, program)
        if worker is None or not worker.kill(signal_number):
            raise LabError(f"{program} of {self._host} does not run")

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl on the host; return what it printed."""
        return self._run("ovs-vsctl", "--timeout=20", *arguments)

    def _start(self, program: str, *argv: str) -> ProcessId:
        command = [program, *argv, *_QUIET, "--pidfile", "--monitor"]
        return self._site.start(self._host, program, command, is_monitor=True)

    def _cable(self, cell: str, outer: str, inner: str, bridge: str) -> None:
        holder = self._site.holder(self._host)
        shown = self._site.run(cell, ["ip", "link", "show", outer], check=False)
        if shown.returncode == 0:
            return
        link = ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner]
        self._site.run_on_network(cell, [*link, "netns", str(holder.pid)])
        off = "ethtool -K {0} tx off rx off >/dev/null && ip link set {0} up"
        name = shlex.quote(outer)
        outside = f"ip link set {name} master {bridge} && {off.format(name)}"
        self._site.run(cell, ["sh", "-euc", outside])
        self._run("sh", "-euc", off.format(inner))

    def _run(self, *argv: str) -> str:
        return self._site.run(self._host, argv, timeout_s=40).stdout

"""A lab as its users see it: up, down, and the blows that tests deal it.

`Lab.create` writes down what shall be, `up` makes it: the control network, then the control plane
and all hosts side by side. `Lab.open` finds a lab made earlier. Every other method acts on a lab
that is up, and can be repeated.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from unkai.host.v1 import host_pb2
from unkai_lab import client
from unkai_lab.cells import HOLDER
from unkai_lab.control import ControlPlane
from unkai_lab.external import addressing, start_internet
from unkai_lab.lock import hold
from unkai_lab.preflight import check_machine
from unkai_lab.preparation import prepare
from unkai_lab.readiness import accepts, wait_until
from unkai_lab.site import Site, installed
from unkai_lab.spec import (
    CONTROL,
    DEFAULT_NAME,
    DEFAULT_ROOT,
    EXTERNAL,
    FLEET,
    LabPaths,
    LabSpec,
    lab_root,
)
from unkai_lab.switches import TUNNEL_BRIDGE, HostSwitch
from unkai_lab.teardown import take_down
from unkai_wire.errors import AlreadyExists, NotFound

Say = Callable[[str], None]
_BRIDGE = "unkai0"
_REGISTERED_DEADLINE_S = 90.0


class Lab:
    """One lab on this machine."""

    def __init__(self, spec: LabSpec, paths: LabPaths, say: Say = lambda line: None) -> None:
        self.spec = spec
        self.paths = paths
        self.site = Site(spec, paths)
        self._say = say
        self._start_time = time.monotonic()
        self.control = ControlPlane(self.site, self._tell)

    @classmethod
    def create(cls, spec: LabSpec, say: Say = lambda line: None) -> Lab:
        """Write down a new lab; raise `AlreadyExists` when there is one of that name."""
        check_machine(
            lab_root(),
            with_hosts=spec.hosts > 0,
            with_networks=spec.networks,
            database=spec.database,
        )
        paths = LabPaths.of(spec.name)
        try:
            paths.folder.mkdir(parents=paths.folder.parent == DEFAULT_ROOT)
        except FileExistsError as error:
            raise AlreadyExists(
                f"lab {spec.name} is there already",
                reason="LAB_EXISTS",
                fix="use it, remove it with 'unkai lab down', or choose another --name",
                metadata={"lab": spec.name},
                resource_kind="lab",
                resource=spec.name,
            ) from error
        paths.spec.write_text(spec.to_json())
        return cls(spec, paths, say)

    @classmethod
    def open(cls, name: str = DEFAULT_NAME, say: Say = lambda line: None) -> Lab:
        """Find a lab made earlier; raise `NotFound` when there is none of that name."""
        paths = LabPaths.of(name)
        try:
            spec = LabSpec.from_json(paths.spec.read_text())
        except FileNotFoundError as error:
            raise NotFound(
                f"there is no lab {name} in {paths.folder.parent}",
                reason="LAB_NOT_FOUND",
                fix="make one with 'unkai lab up'",
                metadata={"lab": name},
                resource_kind="lab",
                resource=name,
            ) from error
        return cls(spec, paths, say)

    def up(self, *, keep_failed: bool = False) -> None:
        """Make everything and wait until every host takes instances.

        A failure takes all of it down again, or leaves it to be looked at with `keep_failed`.
        """
        with hold(self.paths.folder), ExitStack() as undo:
            if not keep_failed:
                undo.callback(take_down, self.paths, is_held=True)
            self.prepare()
            self.boot(CONTROL)
            self.start_external()
            self._start_all(keep_failed=keep_failed)
            self.wait_registered()
            undo.pop_all()

    def down(self) -> bool:
        """Remove everything; False when there was nothing."""
        existed = take_down(self.paths)
        self.site.reap()
        return existed

    # Daemons: what tests kill and start again. `control` has the rest of the control plane's.

    def start_scheduler(self, name: str = "") -> None:
        """Start a scheduler, the first when none is named, and wait until it serves."""
        self.control.start_scheduler(name)

    def kill_scheduler(self, name: str = "", signal_number: int = signal.SIGKILL) -> None:
        """End a scheduler's process, the first one's when none is named."""
        self.control.kill_scheduler(name, signal_number)

    def start_etcd(self, member: str = "") -> None:
        """Start a member of etcd, or all, and wait until they commit."""
        self.control.start_etcd(member)

    def kill_etcd(self, member: str = "", signal_number: int = signal.SIGKILL) -> None:
        """End a member of etcd, or all; their data stay."""
        self.control.kill_etcd(member, signal_number)

    def start_agent(self, host: str) -> None:
        """Start a host's agent and wait until it serves."""
        config = self.paths.cell(host) / "agent.toml"
        verb = "simulate" if host == FLEET else "run"
        argv = [installed("unkai-agent"), verb, "--config", str(config)]
        process = self.site.start(host, "agent", argv)
        wait_until(
            lambda: client.is_serving(self.agent_socket(host)),
            f"the agent of {host} serves",
            deadline_s=_REGISTERED_DEADLINE_S,
            process=process,
            log=self.paths.log(host, "agent"),
        )
        self._tell(f"{host}: agent serves")

    def kill_agent(self, host: str, signal_number: int = signal.SIGKILL) -> None:
        """End a host's agent; its guests run on."""
        self.site.kill(host, "agent", signal_number)

    def start_libvirt(self, host: str) -> None:
        """Start a host's virtlogd and libvirtd and wait until libvirt answers."""
        for program, socket_name in (("virtlogd", "virtlogd-sock"), ("libvirtd", "libvirt-sock")):
            path = self._inside(host) / "run/libvirt" / socket_name
            pid_file = f"/run/{program}.pid"
            process = self.site.start(host, program, [program, "--pid-file", pid_file])
            wait_until(
                partial(accepts, path),
                f"{program} of {host} listens",
                process=process,
                log=self.paths.log(host, program),
            )
        self.virsh(host, "list")
        self._tell(f"{host}: libvirt answers")

    def kill_libvirt(self, host: str, signal_number: int = signal.SIGKILL) -> None:
        """End a host's libvirtd; its guests run on."""
        self.site.kill(host, "libvirtd", signal_number)

    # Hosts: what happens to whole machines.

    def reboot(self, host: str) -> None:
        """Pull a host's plug and boot it anew: all its processes end, its disks stay."""
        with hold(self.paths.folder):
            self.stop_host(host)
            self._start_host(host)

    def stop_host(self, host: str) -> None:
        """Pull a host's plug; `start_host` boots it."""
        self._real_host(host)
        self.site.kill_cell(host)
        # The kernel removes a dead namespace's interfaces in its own time.
        self.site.run(CONTROL, ["ip", "link", "delete", host], check=False)
        if self.spec.networks:
            self.switch(host).unplug()
        self._tell(f"{host}: plug pulled")

    def start_host(self, host: str) -> None:
        """Boot a host that is down."""
        self._real_host(host)
        self._start_host(host)

    def cut(self, host: str) -> None:
        """Take the cables of a host, or of a scheduler's cell, out; what runs runs on."""
        self._set_cables(host, "down")

    def mend(self, host: str) -> None:
        """Put the cables back."""
        self._set_cables(host, "up")

    def switch(self, host: str) -> HostSwitch:
        """Return a host's switch, of a lab with networks."""
        return HostSwitch(self.site, host, self._tell)

    def restore(self) -> None:
        """Start again whatever does not run, and put every cable back."""
        self.start_external()
        self._start_control()
        for host in self.spec.host_names:
            self._start_host(host)
            self.mend(host)
        if self.spec.simulated:
            self._start_fleet()

    # Looking inside.

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a short program on a host, inside its cgroup."""
        return self.site.run(host, argv, timeout_s=timeout_s, check=check)

    def virsh(self, host: str, *arguments: str, timeout_s: float = 30.0) -> str:
        """Run virsh on a host; return what it printed."""
        return self.run(host, ["virsh", "--quiet", *arguments], timeout_s=timeout_s).stdout

    def qemu_pids(self, host: str) -> list[int]:
        """Return the processes of a host's guests."""
        return [pid for pid in self.site.pids(host) if _command_of(pid).startswith("qemu-system")]

    def agent_socket(self, host: str) -> Path:
        """Return the agent's unix socket as seen from outside the host."""
        if host == FLEET:
            return self.paths.cell(FLEET) / "agent.sock"
        return self._inside(host) / "run/unkai/agent.sock"

    def hosts(self) -> list[host_pb2.Host]:
        """Return the hosts as the scheduler sees them; empty while it does not answer."""
        for socket in self.sockets():
            if found := client.list_hosts(socket):
                return found
        return []

    def socket(self, scheduler: str = "") -> Path:
        """Return the unix socket of a scheduler, of the first one when none is named."""
        name = scheduler or self.spec.scheduler_names[0]
        return self.paths.socket(self.spec.scheduler_cell(name))

    def sockets(self) -> list[Path]:
        """Return the unix sockets of all schedulers."""
        return [self.socket(name) for name in self.spec.scheduler_names]

    def wait_registered(self, deadline_s: float = _REGISTERED_DEADLINE_S) -> None:
        """Wait until the scheduler has every host up, with live figures."""
        wanted = self.spec.hosts + self.spec.simulated
        first = self.spec.scheduler_cell(self.spec.scheduler_names[0])
        wait_until(
            lambda: sum(map(_takes_instances, self.hosts())) >= wanted,
            f"{wanted} hosts are up and send figures",
            deadline_s=deadline_s,
            log=self.paths.log(first, "scheduler"),
        )
        self._tell(f"{wanted} hosts are up")

    # The steps of `up`.

    def prepare(self) -> None:
        """Make folders, cgroups, certificates and settings: nothing runs yet."""
        prepare(self.site)
        self._tell(f"certificates and settings in {self.paths.folder}")

    def boot(self, name: str) -> None:
        """Boot a cell that is down and plug it into the lab's network; no daemon runs yet."""
        if self.site.running(name, HOLDER):
            return
        self.site.boot(name)
        if name == CONTROL:
            self._make_bridge()
        elif name == EXTERNAL:
            for argv in addressing():
                self.site.run(EXTERNAL, argv)
        else:
            self._plug_in(name)
        self._tell(f"{name}: booted as {self.spec.address(name)}")

    def start_external(self) -> None:
        """Boot what plays the internet, in a lab with networks."""
        if self.spec.networks:
            self.boot(EXTERNAL)
            start_internet(self.site, self._tell)

    def _make_bridge(self) -> None:
        network = f"{self.spec.address(CONTROL)}/{self.spec.network.prefixlen}"
        steps = [
            ["ip", "link", "add", _BRIDGE, "type", "bridge"],
            ["ip", "address", "add", network, "dev", _BRIDGE],
            ["ip", "link", "set", _BRIDGE, "up"],
        ]
        if self.spec.networks:
            steps.append(["ip", "link", "add", TUNNEL_BRIDGE, "type", "bridge"])
            steps.append(["ip", "link", "set", TUNNEL_BRIDGE, "up"])
        for argv in steps:
            self.site.run(CONTROL, argv)

    def _start_all(self, *, keep_failed: bool) -> None:
        """Start control plane and hosts side by side; the first failure ends the rest."""
        with ThreadPoolExecutor(max_workers=len(self.spec.cells)) as pool:
            jobs = [pool.submit(self._start_control)]
            jobs += [pool.submit(self._start_host, host) for host in self.spec.host_names]
            if self.spec.simulated:
                jobs.append(pool.submit(self._start_fleet))
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                if keep_failed:
                    raise
                # Without their programs the other jobs end at once, not at their deadlines.
                for name in self.spec.cells:
                    self.site.kill_cell(name)
                raise

    def _start_control(self) -> None:
        if self.spec.schedulers > 1:
            for name in self.spec.scheduler_names:
                self.boot(self.spec.scheduler_cell(name))
                self.mend(self.spec.scheduler_cell(name))
        self.control.start()

    def _start_host(self, host: str) -> None:
        self.boot(host)
        if self.spec.networks:
            self.switch(host).start()
        self.start_libvirt(host)
        # libvirt probes QEMU once, which takes seconds; meanwhile the agent starts.
        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = partial(self.virsh, host, timeout_s=_REGISTERED_DEADLINE_S)
            probe = pool.submit(asked, "domcapabilities", "--virttype", "qemu")
            self.start_agent(host)
            probe.result()

    def _start_fleet(self) -> None:
        self.boot(FLEET)
        self.start_agent(FLEET)

    def _plug_in(self, name: str) -> None:
        holder = self.site.holder(name)
        address = f"{self.spec.address(name)}/{self.spec.network.prefixlen}"
        link = ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0"]
        self.site.run_on_network(CONTROL, [*link, "netns", str(holder.pid)])
        self.site.run(CONTROL, ["ip", "link", "set", name, "master", _BRIDGE, "up"])
        self.site.run(name, ["ip", "address", "add", address, "dev", "eth0"])
        self.site.run(name, ["ip", "link", "set", "eth0", "up"])
        if self.spec.networks and name in self.spec.host_names:
            self.switch(name).plug_in()

    def _set_cables(self, name: str, state: str) -> None:
        cables = [(CONTROL, name)]
        if self.spec.networks and name in self.spec.host_names:
            cables += self.switch(name).cables()
        for cell, end in cables:
            self.site.run(cell, ["ip", "link", "set", end, state])

    def _inside(self, host: str) -> Path:
        """Return the host's root directory as seen from outside."""
        return Path(f"/proc/{self.site.holder(host).pid}/root")

    def _real_host(self, host: str) -> None:
        if host not in self.spec.host_names:
            raise NotFound.of("host", host)

    def _tell(self, line: str) -> None:
        self._say(f"{time.monotonic() - self._start_time:5.1f} s  {line}")


def _takes_instances(host: host_pb2.Host) -> bool:
    return host.state == host_pb2.Host.STATE_UP and host.HasField("usage")


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

"""The control plane's programs: started in order, killed one by one, and started again.

etcd's members and the database server are programs of the `control` cell; so is a scheduler that
is alone. Every start waits until the program does its work, and finds one that runs already.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from unkai_lab import client, configuration
from unkai_lab.database import folder_of, server_of
from unkai_lab.errors import LabError
from unkai_lab.journal import ProcessId
from unkai_lab.ovn_central import OvnCentral
from unkai_lab.readiness import wait_until
from unkai_lab.site import Site, installed
from unkai_lab.spec import CONTROL
from unkai_wire.errors import InvalidArgument

DAEMON_DEADLINE_S = 90.0
"""One that fails ends, which is seen at once; on a full machine one may only be slow."""
_MAKE_DATABASE_S = 60.0
_ETCD_DEADLINE_S = 60.0
"""Members elect anew as long as one of them gets no CPU for a second."""


class ControlPlane:
    """What the hosts of a lab depend on."""

    def __init__(self, site: Site, tell: Callable[[str], None]) -> None:
        self._site = site
        self._spec = site.spec
        self._paths = site.paths
        self._tell = tell
        self._server = server_of(site.spec, site.paths)
        self.ovn = OvnCentral(site, tell)
        """OVN's programs, in a lab with networks."""

    def start(self) -> None:
        """Start whatever does not run; what schedulers need side by side."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            jobs = [pool.submit(self.start_etcd), pool.submit(self.start_database)]
            if self._spec.networks:
                jobs.append(pool.submit(self.ovn.start))
            for job in jobs:
                job.result()
        self.start_schedulers()

    # etcd

    def start_etcd(self, member: str = "") -> None:
        """Start a member, or all; wait until they commit, and see that they ask for permission.

        One member of three commits only while another one runs.
        """
        members = self._members(member)
        processes = {name: self._start_member(name) for name in members}
        for name, process in processes.items():
            self._await_member(name, process)
        if not member:
            secure = configuration.etcd_secure_command(self._spec, self._paths)
            argv = [installed("unkai-scheduler"), *secure]
            self._site.run(CONTROL, argv, timeout_s=DAEMON_DEADLINE_S)
        self._tell(f"{' '.join(members)} commits")

    def kill_etcd(self, member: str = "", signal_number: int = signal.SIGKILL) -> None:
        """End a member, or all; their data stay."""
        for name in self._members(member):
            self._site.kill(CONTROL, name, signal_number)

    def wipe_etcd(self) -> None:
        """Kill all members, remove all they held, and build etcd anew."""
        self.kill_etcd()
        for name in self._spec.etcd_names:
            shutil.rmtree(configuration.etcd_folder(self._paths, name))
        self.start_etcd()

    def _start_member(self, name: str) -> ProcessId:
        argv = configuration.etcd_command(self._spec, self._paths, name)
        return self._site.start(CONTROL, name, argv)

    def _await_member(self, name: str, process: ProcessId) -> None:
        health = configuration.etcd_health_command(self._spec, self._paths, name)
        wait_until(
            lambda: self._site.run(CONTROL, health, check=False).returncode == 0,
            f"{name} commits",
            deadline_s=_ETCD_DEADLINE_S,
            process=process,
            log=self._paths.log(CONTROL, name),
        )

    def _members(self, member: str) -> tuple[str, ...]:
        names = self._spec.etcd_names
        if member and member not in names:
            raise InvalidArgument.field(
                "member", f"{member[:64]!r} is no member of etcd here: {', '.join(names)}"
            )
        return (member,) if member else names

    # The database

    def start_database(self) -> None:
        """Start the database server, made at its first start, and wait until it answers."""
        server = self._server
        if server is None:
            return
        if not (folder_of(self._paths) / "data").exists():
            for argv in server.making():
                self._site.run(CONTROL, argv, timeout_s=_MAKE_DATABASE_S)
        process = self._site.start(CONTROL, server.program, server.command())
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/{self._spec.address(CONTROL)}/{server.port}"]
        wait_until(
            lambda: self._site.run(CONTROL, probe, check=False).returncode == 0,
            f"{server.program} listens",
            deadline_s=_MAKE_DATABASE_S,
            process=process,
            log=self._paths.log(CONTROL, server.program),
        )
        self._tell(f"{server.program} listens")

    def kill_database(self, signal_number: int = signal.SIGKILL) -> None:
        """End the database server; its data stay. Raise `LabError` for a lab on SQLite."""
        if self._server is None:
            raise LabError(
                f"lab {self._spec.name} has no database server",
                fix="make the lab with --database postgresql or mariadb",
            )
        self._site.kill(CONTROL, self._server.program, signal_number)

    # Schedulers

    def start_schedulers(self) -> None:
        """Start the schedulers that do not run."""
        first, *others = self._spec.scheduler_names
        self.start_scheduler(first)  # it makes the database's tables
        if others:
            with ThreadPoolExecutor(max_workers=len(others)) as pool:
                list(pool.map(self.start_scheduler, others))

    def start_scheduler(self, name: str = "", wrapper: Sequence[str] = ()) -> None:
        """Start a scheduler and wait until it serves; the first one when none is named.

        `wrapper`: the beginning of its command line: a program that becomes, or runs, the rest.
        """
        name = name or self._spec.scheduler_names[0]
        cell = self._spec.scheduler_cell(name)
        config = self._paths.cell(cell) / "scheduler.toml"
        argv = [*wrapper, installed("unkai-scheduler"), "run", "--config", str(config)]
        process = self._site.start(cell, "scheduler", argv)
        wait_until(
            lambda: client.is_serving(self._paths.socket(cell)),
            f"{name} serves",
            deadline_s=DAEMON_DEADLINE_S,
            process=process,
            log=self._paths.log(cell, "scheduler"),
        )
        self._tell(f"{name} serves")

    def kill_scheduler(self, name: str = "", signal_number: int = signal.SIGKILL) -> None:
        """End a scheduler; the first one when none is named."""
        name = name or self._spec.scheduler_names[0]
        self._site.kill(self._spec.scheduler_cell(name), "scheduler", signal_number)

    def running_schedulers(self) -> Iterable[str]:
        """Return the names of the schedulers that run."""
        return [
            name
            for name in self._spec.scheduler_names
            if self._site.running(self._spec.scheduler_cell(name), "scheduler")
        ]

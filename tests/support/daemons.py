"""A cloud of real processes on loopback: etcd, schedulers, agents, each with its own certificate.

What the lab does with namespaces, without them: for stories about the daemons' edges (metrics,
traces) that must start quickly and be free to kill. Agents are fleets of simulated hosts, or one
on a libvirt of the test's own.
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from tests.support.etcd import EtcdServer, free_port
from unkai_cli.client import Client
from unkai_cli.settings import Context
from unkai_lab.configuration import toml_text
from unkai_scheduler import certificates
from unkai_wire.tls import TlsFiles

LOCAL = "127.0.0.1"
_MODULES = {"scheduler": "unkai_scheduler.main", "agent": "unkai_agent.main"}


@dataclass
class Daemon:
    """One daemon: its settings, and its process while it runs."""

    name: str
    command: list[str]
    settings: dict[str, Any]
    folder: Path
    grpc_port: int
    metrics_port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it with its settings as they are now."""
        config = self.folder / f"{self.name}.toml"
        config.write_text(toml_text(self.settings))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
            )

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Cloud:
    """The processes, the CA, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = folder / "pki"
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = certificates.init(self.pki)
        self.authority.issue_client("admin").write(self.pki)
        self.admin = self.files(self.pki, "client-admin")
        member = self.authority.issue_etcd("e1", [LOCAL])
        self.etcd = EtcdServer(folder, server=TlsFiles(*self._ordered(member.write(self.pki))))
        self.daemons: dict[str, Daemon] = {}

    @staticmethod
    def files(folder: Path, stem: str) -> TlsFiles:
        """Return one certificate's files."""
        return TlsFiles(folder / "ca.crt", folder / f"{stem}.crt", folder / f"{stem}.key")

    @staticmethod
    def _ordered(written: list[Path]) -> tuple[Path, Path, Path]:
        certificate, key, ca = written
        return ca, certificate, key

    def scheduler(self, name: str, *, database: Path | None = None, **settings: Any) -> Daemon:
        """Make a scheduler; it is not started."""
        folder = self._own(name)
        self.authority.issue_scheduler(name, [LOCAL]).write(folder)
        self.authority.issue_etcd_client(name).write(folder)
        port, metrics = free_port(), free_port()
        values: dict[str, Any] = {
            "name": name,
            "listen": f"{LOCAL}:{port}",
            "socket": str(folder / "s.sock"),
            "metrics_listen": f"{LOCAL}:{metrics}",
            "log_format": "console",
            "tls": _tls(folder, "scheduler"),
            "database": {"url": f"sqlite:///{database or folder / 'unkai.db'}"},
            "images": {"url": f"file://{folder / 'images'}", "reserve_bytes": 0},
            "etcd": {"endpoints": [self.etcd.endpoint], "tls": _tls(folder, "etcd-client")},
        }
        return self._daemon("scheduler", "run", name, _merged(values, settings), port, metrics)

    def fleet(self, name: str, hosts: int, **settings: Any) -> Daemon:
        """Make a fleet of simulated hosts; it is not started."""
        folder = self._own(name)
        self.authority.issue_fleet(name, [LOCAL]).write(folder)
        values = {"tls": _tls(folder, "fleet"), "fleet": {"hosts": hosts}}
        return self._agent("simulate", name, _merged(values, settings))

    def host(
        self, name: str, *, lifetime: timedelta | None = None, state_dir: Path, **settings: Any
    ) -> Daemon:
        """Make the agent of one real host; it is not started."""
        folder = self._own(name)
        authority = certificates.load(self.pki, lifetime=lifetime or certificates.LEAF_LIFETIME)
        authority.issue_host(name, [LOCAL]).write(folder)
        values = {"tls": _tls(folder, "host"), "state_dir": str(state_dir), "accelerator": "tcg"}
        return self._agent("run", name, _merged(values, settings))

    def _agent(self, mode: str, name: str, settings: Mapping[str, Any]) -> Daemon:
        folder = self.folder / name
        port, metrics = free_port(), free_port()
        values: dict[str, Any] = {
            "listen": f"{LOCAL}:{port}",
            "advertise": f"{LOCAL}:{port}",
            "socket": str(folder / "a.sock"),
            "metrics_listen": f"{LOCAL}:{metrics}",
            "state_dir": str(folder / "state"),
            "log_format": "console",
            "etcd": {"endpoints": [self.etcd.endpoint]},
        }
        return self._daemon("agent", mode, name, _merged(values, settings), port, metrics)

    def _own(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _daemon(
        self, role: str, mode: str, name: str, settings: dict[str, Any], port: int, metrics: int
    ) -> Daemon:
        command = [sys.executable, "-m", _MODULES[role], mode]
        daemon = Daemon(name, command, settings, self.folder / name, port, metrics)
        self.daemons[name] = daemon
        return daemon

    def client(self, scheduler: Daemon, **more: Any) -> Client:
        """Return a client of one scheduler."""
        context = Context(
            name="test",
            address=f"{LOCAL}:{scheduler.grpc_port}",
            ca=str(self.admin.ca),
            certificate=str(self.admin.certificate),
            key=str(self.admin.key),
        )
        return Client(context, **more)

    def figures(self, daemon: Daemon) -> str:
        """Return what a daemon's `/metrics` says to an administrator."""
        context = ssl.create_default_context(cafile=str(self.admin.ca))
        context.load_cert_chain(self.admin.certificate, self.admin.key)
        url = f"https://{LOCAL}:{daemon.metrics_port}/metrics"
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return str(answer.read().decode())

    def stop(self) -> None:
        """End all that runs."""
        for daemon in self.daemons.values():
            daemon.kill()
        self.etcd.stop()


@contextmanager
def cloud_of_daemons(folder: Path) -> Iterator[Cloud]:
    """Run etcd, and end whatever the test started beside it."""
    cloud = Cloud(folder)
    cloud.etcd.start()
    try:
        yield cloud
    finally:
        cloud.stop()


def until(probe: Callable[[], Any], claim: str, within_s: float = 60.0) -> Any:
    """Return the probe's first true answer; what it raises counts as no answer yet."""
    end_s = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < end_s:
        try:
            last = probe()
            if last:
                return last
        except (Exception, grpc.RpcError) as error:  # noqa: BLE001 - it may still come up
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not within {within_s:g} s: {claim}; last: {last!r}")


def _tls(folder: Path, stem: str) -> dict[str, str]:
    files = Cloud.files(folder, stem)
    return {"ca": str(files.ca), "certificate": str(files.certificate), "key": str(files.key)}


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with tables merged one level deep."""
    merged = dict(values)
    for key, value in more.items():
        below = merged.get(key)
        merged[key] = below | value if isinstance(below, dict) else value
    return merged

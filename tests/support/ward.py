"""A lab that doctors examine: its settings in copies to spoil, its parties to stop and to mend."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.lab import wait_for
from unkai_lab import configuration
from unkai_lab.lab import Lab
from unkai_lab.ovn import ovn_folder
from unkai_lab.site import installed
from unkai_lab.spec import CONTROL
from unkai_scheduler import certificates, ovn_certificates

HOST = "h1"
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@dataclass(frozen=True, slots=True)
class Visit:
    """What a doctor said: findings, and the exit code."""

    findings: list[dict[str, str]]
    exit_code: int
    words: str


class Ward:
    """One host and its control plane, as `unkai doctor` sees them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.authority = certificates.load(lab.paths.pki)
        self._copies = 0

    # Doctors

    def on_host(self, config: Path | None = None, *, before: Sequence[str] = ()) -> Visit:
        """Examine the host on itself. `before`: what the command begins with, such as `env`."""
        return self._visit(HOST, "agent", config or self.settings_file(HOST, "agent"), before)

    def on_control(self, config: Path | None = None, *, before: Sequence[str] = ()) -> Visit:
        """Examine the scheduler on its machine."""
        file = config or self.settings_file(CONTROL, "scheduler")
        return self._visit(CONTROL, "scheduler", file, before)

    def from_afar(self, *arguments: str) -> Visit:
        """Examine the whole cloud by the scheduler."""
        socket = self.lab.paths.scheduler_socket
        command = [installed("unkai"), "doctor", "--cloud", "-o", "json", *arguments]
        return _read(
            self.lab.site.run(
                CONTROL, ["env", f"UNKAI_SOCKET={socket}", *command], timeout_s=120, check=False
            )
        )

    def _visit(self, cell: str, role: str, config: Path, before: Sequence[str]) -> Visit:
        command = [installed("unkai"), "doctor", f"--{role}-config", str(config), "-o", "json"]
        return _read(
            self.lab.site.run(
                cell, [*before, *command, "--timeout", "30"], timeout_s=120, check=False
            )
        )

    # Copies to spoil

    def settings_file(self, cell: str, role: str) -> Path:
        """Return the settings that the lab's daemon runs with."""
        return self.lab.paths.cell(cell) / f"{role}.toml"

    def settings(self, role: str, changes: Mapping[str, Any]) -> Path:
        """Write a copy of a daemon's settings with changes; dots in keys go into tables."""
        spec, paths = self.lab.spec, self.lab.paths
        if role == "agent":
            groups = self.lab.site.cell(HOST).groups
            values = dict(configuration.agent_settings(spec, paths, HOST, groups))
        else:
            name = spec.scheduler_names[0]
            values = dict(configuration.scheduler_settings(spec, paths, name))
        for key, value in changes.items():
            *tables, last = key.split(".")
            table = values
            for name in tables:
                table[name] = dict(table[name])
                table = table[name]
            table[last] = value
        file = self.new_path("settings.toml")
        file.write_text(configuration.toml_text(values))
        return file

    def new_path(self, name: str) -> Path:
        """Return a path that nothing has."""
        self._copies += 1
        folder = self.folder / str(self._copies)
        folder.mkdir()
        return folder / name

    def pki(self, role: str) -> Path:
        """Return a copy of a daemon's certificate folder."""
        stem = "host" if role == "agent" else "scheduler"
        source = self.lab.paths.cell(HOST) / "pki" if role == "agent" else self.lab.paths.pki
        copy = self.new_path("pki")
        copy.mkdir()
        for name in ("ca.crt", f"{stem}.crt", f"{stem}.key"):
            shutil.copy2(source / name, copy / name)
        return copy

    def with_pki(self, folder: Path) -> Path:
        """Return the agent's settings with certificates from a folder."""
        names = {"ca": "ca.crt", "certificate": "host.crt", "key": "host.key"}
        return self.settings(
            "agent", {f"tls.{key}": str(folder / name) for key, name in names.items()}
        )

    def host_id(self) -> str:
        """Return the host's id."""
        from unkai_agent.host_facts import principal_of_certificate

        return principal_of_certificate(self.lab.paths.cell(HOST) / "pki/host.crt").host_id

    def certificate_of(
        self, *, begun: dt.timedelta, days: int = 365, address: str = "", host_id: str = ""
    ) -> Path:
        """Return a folder with a certificate of the host that the lab's CA made at another time."""
        now = dt.datetime.now(dt.UTC)
        authority = certificates.load(
            self.lab.paths.pki, lifetime=dt.timedelta(days=days), clock=lambda: now + begun
        )
        folder = self.new_path("pki")
        addresses = [address or self.lab.spec.address(HOST)]
        authority.issue_host(HOST, addresses, host_id or self.host_id()).write(folder)
        return folder

    def ovn_of(self, begun: dt.timedelta) -> ovn_certificates.OvnAuthority:
        """Return the CAs of the lab's OVN, at another time."""
        clock = lambda: dt.datetime.now(dt.UTC) + begun  # noqa: E731 - a clock that is wrong
        cloud = certificates.load(self.lab.paths.pki, clock=clock)
        return ovn_certificates.authority(cloud, ovn_folder(self.lab.paths) / "ca", clock=clock)

    # Blows

    @contextmanager
    def stopped(self, cell: str, program: str) -> Iterator[None]:
        """Stop a process where it stands (SIGSTOP)."""
        process = wait_for(
            lambda: self.lab.site.worker(cell, program), f"{program} of {cell} runs", 60
        )
        process.kill(signal.SIGSTOP)
        try:
            yield
        finally:
            process.kill(signal.SIGCONT)

    @contextmanager
    def beside(self, cell: str, argv: Sequence[str], shows_up: Sequence[str]) -> Iterator[None]:
        """Run a program in a cell meanwhile; it is there once `shows_up` succeeds."""
        program = subprocess.Popen(
            self.lab.site.command(cell, argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.lab.site.environment(cell),
        )
        try:
            wait_for(
                lambda: self.lab.site.run(cell, shows_up, check=False).returncode == 0,
                f"{argv[0]} is there",
            )
            yield
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    @contextmanager
    def small_disk(self, options: str) -> Iterator[Path]:
        """Mount a small file system of memory in the host's cell."""
        place = self.new_path("disk")
        place.mkdir()
        run = self.lab.site.run
        run(HOST, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)])
        try:
            yield place
        finally:
            run(HOST, ["umount", str(place)])

    def etcdctl(self, *arguments: str, bundle: certificates.Bundle | None = None) -> str:
        """Call etcd, as the scheduler or with another certificate."""
        command = configuration.etcdctl_command(self.lab.spec, self.lab.paths)
        if bundle is not None:
            folder = self.new_path("root")
            folder.mkdir()
            (folder / "crt").write_bytes(bundle.certificate)
            (folder / "key").write_bytes(bundle.key)
            command = [part for part in command if not part.startswith(("--cert=", "--key="))]
            command += [f"--cert={folder / 'crt'}", f"--key={folder / 'key'}"]
        return self.lab.site.run(CONTROL, [*command, *arguments]).stdout

    @contextmanager
    def record(self, key: str, value: str) -> Iterator[None]:
        """Put a record into etcd meanwhile."""
        self.etcdctl("put", key, value)
        try:
            yield
        finally:
            self.etcdctl("del", key)


def shifted_clock(seconds: int) -> list[str]:
    """Return what a command begins with that runs so much ahead."""
    return ["env", f"LD_PRELOAD={_FAKETIME}", f"FAKETIME={seconds:+d}s", "FAKETIME_DONT_RESET=1"]


def without_program(ward: Ward, *programs: str) -> list[str]:
    """Return what a command begins with whose PATH lacks programs."""
    folder = ward.new_path("bin")
    folder.mkdir()
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for file in Path(place).iterdir():
            if file.name not in programs and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return ["env", f"PATH={Path(sys.executable).parent}:{folder}"]


def _read(done: subprocess.CompletedProcess[str]) -> Visit:
    try:
        return Visit(json.loads(done.stdout), done.returncode, done.stderr)
    except ValueError as error:
        raise AssertionError(f"no report: {done.stdout} {done.stderr}") from error

"""`make demo`: the main job before your eyes, then everything taken away again.

Brings a lab of three hosts up, uploads an image, launches four instances of two flavors at once,
and shows where they went and why. Then their network: an SSH into one by its host, pings from there
to one on another host by its name, an SSH from the internet, and why a port is closed. Everything
is done by the `unkai` command, as a user would.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_lab.spec import EXTERNAL, EXTERNAL_RANGE, PHYSICAL_NETWORK, LabPaths, LabSpec
from unkai_lab.teardown import take_down
from unkai_wire.errors import AlreadyExists, UnkaiError

LAUNCHES = (("web-1", "nano"), ("web-2", "nano"), ("db-1", "micro"), ("db-2", "micro"))
USER_DATA = b"""#!/bin/sh
echo "hello from $(hostname), $(nproc) CPU, user-data ran at $(date -u +%T)"
"""
CONSOLE_DEADLINE_S = 60.0
READY_MARK = "unkai-tiny: ready"
SSH_DEADLINE_S = 60.0
QUIET_SSH = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"),
)
OUTSIDE = "internet"


@dataclass(frozen=True, slots=True)
class Launched:
    """One instance, and how long it took."""

    name: str
    host: str
    state: str
    seconds: float


class Demo:
    """One run of the demo."""

    def __init__(self, lab: Lab, image: Path) -> None:
        self._lab = lab
        self._image = image
        self._begin = time.monotonic()
        self._has_run = False
        self._unkai = installed("unkai")
        self._environment = {
            **os.environ,
            "UNKAI_SOCKET": str(lab.socket()),
            "XDG_STATE_HOME": str(lab.paths.folder),  # instances' host keys go with the lab
            "NO_COLOR": "1",
        }

    def unkai(self, *arguments: str, shown: bool = True, may_fail: bool = False) -> str:
        """Run the command as a user would; return what it printed."""
        if shown:
            say(f"\n$ unkai {' '.join(arguments)}")
        done = subprocess.run(
            [self._unkai, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
        if shown:
            say(done.stdout.rstrip())
        if done.returncode and not may_fail:
            raise click.ClickException(
                f"unkai {' '.join(arguments)} ended with {done.returncode}\n{done.stderr or ''}"
            )
        return done.stdout

    def run(self) -> None:
        """Show the main job."""
        self._lab.up()
        folder = self._lab.paths.folder
        user_data, key = folder / "hello.sh", folder / "demo-key"
        user_data.write_bytes(USER_DATA)
        _make_key(key)
        self.unkai("image", "upload", "tiny", str(self._image))
        self.unkai("key", "add", "demo", f"{key}.pub")
        self._lead_out()
        launched = self._launch(user_data)
        say("\nNAME   HOST  STATE    SECONDS TO RUNNING")
        for entry in launched:
            say(f"{entry.name:<6} {entry.host:<5} {entry.state:<8} {entry.seconds:.1f}")
        used = {entry.host for entry in launched}
        say(f"{len(launched)} instances on {len(used)} hosts: {', '.join(sorted(used))}")
        for entry in launched:
            self._console(entry.name)
        self.unkai("instance", "explain", launched[0].name)
        self.unkai("host", "top", "--once")
        self._network(launched, key)
        if len(used) < 2 or any(entry.state != "RUNNING" for entry in launched):
            raise click.ClickException("not all instances run, or all of them on one host")

    def _lead_out(self) -> None:
        """Make what an operator makes once: the network that leads to the internet."""
        self.unkai(
            *("network", "create", OUTSIDE, "--external", "--type", "flat", "--wait"),
            *("--physical-network", PHYSICAL_NETWORK, "--subnet", str(EXTERNAL_RANGE)),
        )

    def _network(self, launched: list[Launched], key: Path) -> None:
        """Show that instances reach each other across hosts, and who else reaches them."""
        near = launched[0]
        far = next((each for each in launched[::-1] if each.host != near.host), launched[-1])
        self.unkai("network", "topology")
        self.unkai("security-group", "rule", "add", "default", "ingress", "tcp", "22", "--wait")
        say(f"\ninto {near.name} on {near.host}, and from there to {far.name} on {far.host}:")
        pings = f"hostname && ping -4 -c 2 {far.name} && ping6 -c 2 {far.name}"
        words = ["ssh", "-i", str(key), near.name, "--", pings]
        self._log_in(["unkai", *words], lambda: self._ask(words))
        self.unkai("floating-ip", "create", "front", "--to", near.name, "--wait")
        floating = self._value("floating-ip", "show", "front", "-o", "value=address")
        say("\nfrom the internet, by the floating address:")
        ssh = ["ssh", "-i", str(key), *QUIET_SSH, f"root@{floating}", "hostname"]
        shown = ["unkai", "lab", "exec", EXTERNAL, "--", "ssh", ssh[-2], ssh[-1]]
        self._log_in(shown, lambda: self._lab.run(EXTERNAL, ssh, timeout_s=30, check=False))
        rule = "ingress tcp 5432 from group default"
        self.unkai("security-group", "create", "db", "--rule", rule)
        port = self._port(far.name)["id"]
        self.unkai("port", "update", port, "--security-group", "db", "--wait")
        self.unkai("network", "why", near.name, f"{far.name}:5432")
        self.unkai("network", "why", near.name, f"{far.name}:22", may_fail=True)

    def _port(self, name: str) -> dict[str, Any]:
        """Return an instance's port, as the command has it in JSON."""
        listed = json.loads(self._value("port", "list", "--instance", name, "-o", "json"))
        return dict(listed[0])

    def _value(self, *arguments: str) -> str:
        return self.unkai(*arguments, shown=False).strip()

    def _ask(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._unkai, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _log_in(
        self, shown: list[str], attempt: Callable[[], subprocess.CompletedProcess[str]]
    ) -> None:
        """Print what a command in a guest says, as soon as its SSH server answers."""
        say(f"\n$ {shlex.join(shown)}")
        end = time.monotonic() + SSH_DEADLINE_S
        while (done := attempt()).returncode:
            if time.monotonic() > end:
                raise click.ClickException(f"no SSH: {done.stdout}{done.stderr}")
            time.sleep(0.5)
        say(done.stdout.rstrip())

    def _launch(self, user_data: Path) -> list[Launched]:
        say(f"\n$ unkai launch tiny web-1 --flavor nano --key demo --user-data {user_data}   (x 4)")
        with ThreadPoolExecutor(max_workers=len(LAUNCHES)) as pool:
            jobs = [pool.submit(self._one, name, flavor, user_data) for name, flavor in LAUNCHES]
            return [job.result() for job in jobs]

    def _one(self, name: str, flavor: str, user_data: Path) -> Launched:
        begun = time.monotonic()
        answer = self.unkai(
            *("launch", "tiny", name, "--flavor", flavor, "--key", "demo"),
            *("--user-data", str(user_data), "-o", "json"),
            shown=False,
        )
        took = time.monotonic() - begun
        if not self._has_run:
            self._has_run = True
            say(f"first RUNNING after {time.monotonic() - self._begin:.1f} s from the start")
        (instance,) = json.loads(answer)
        return Launched(name, instance["host_name"], instance["state"], took)

    def _console(self, name: str) -> None:
        """Wait for the guest to be ready, then print what it said of itself."""
        end = time.monotonic() + CONSOLE_DEADLINE_S
        while READY_MARK not in (log := self.unkai("instance", "logs", name, shown=False)):
            if time.monotonic() > end:
                raise click.ClickException(f"{name} did not get ready; its console:\n{log}")
            time.sleep(0.5)
        say(f"\n$ unkai instance logs {name}")
        wanted = ("unkai-tiny:", "hello from")
        for line in log.replace("\r", "").splitlines():
            if line.startswith(wanted):
                say(f"  {line[:100]}")


def _make_key(file: Path) -> None:
    """Make a key pair as ssh wants it: `file` and `file`.pub."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        written.write(private)
    file.with_suffix(".pub").write_bytes(public + b" demo@unkai\n")


def say(text: str) -> None:
    """Print a line at once."""
    click.echo(text)


@click.command()
@click.option("--image", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--name", default="demo", help="Name of the lab.")
@click.option("--keep", is_flag=True, help="Leave the lab up at the end.")
def main(image: Path, name: str, keep: bool) -> None:
    """Show the main job on a lab of three hosts."""
    spec = LabSpec(name=name, hosts=3, networks=True)
    try:
        lab = Lab.create(spec, say)
    except AlreadyExists:
        say(f"a lab {name} of an earlier run is taken down first")
        take_down(LabPaths.of(name))
        lab = Lab.create(spec, say)
    except UnkaiError as failure:
        raise click.ClickException(f"{failure.message}\n  fix: {failure.fix}") from failure
    try:
        Demo(lab, image).run()
    except UnkaiError as failure:
        raise click.ClickException(f"{failure.message}\n  fix: {failure.fix}") from failure
    finally:
        if not keep:
            lab.down()
            say("\nthe lab is taken down; nothing of it is left")
    say("What to try next:")
    say("  make lab-up                        a lab that stays")
    say(f"  export PATH={Path(sys.executable).parent}:$PATH")
    say('  eval "$(unkai lab env)"            point the unkai command at it')
    say(f"  unkai image upload tiny {image}")
    say("  unkai launch tiny hello --flavor nano")
    say("  unkai instance console hello       (Ctrl-] leaves; root, no password)")
    say("  unkai host top")
    say("  make lab-down")


if __name__ == "__main__":
    main(sys.argv[1:])

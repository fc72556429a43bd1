"""A user of a lab's networks: the `unkai` command, instances with ports, shells in guests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.guest_shell import GuestShell
from tests.support.images import built_tiny
from tests.support.lab import wait_for
from tests.support.user import User
from unkai.compute.v1 import instance_pb2
from unkai.network.v1 import port_pb2
from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_lab.spec import EXTERNAL


class NetworkUser:
    """One user of one lab with networks, in one project, with the image `tiny`."""

    def __init__(self, lab: Lab, project: str = "") -> None:
        self.lab = lab
        self.project = project
        self.api = User(lab.paths.scheduler_socket, project)
        self.api.upload("tiny", built_tiny())
        self._shells: dict[str, GuestShell] = {}

    def __call__(self, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.ask(*words)
        assert done.returncode == 0, f"unkai {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, *words: str, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command; return how it ended."""
        return subprocess.run(
            [installed("unkai"), *words],
            env={
                **os.environ,
                "UNKAI_SOCKET": str(self.lab.paths.scheduler_socket),
                "UNKAI_PROJECT": self.project,
            },
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def show(self, *words: str) -> Any:
        """Run a command that prints JSON; return it."""
        return json.loads(self(*words, "-o", "json"))

    def id_of(self, noun: str, name: str) -> str:
        """Return the id of something that has a name."""
        return str(self.show(noun, "show", name)["id"])

    def launch(
        self,
        name: str,
        *,
        host: str = "",
        network: str = "",
        addresses: Sequence[str] = (),
        groups: Sequence[str] = (),
        keys: Sequence[str] = (),
    ) -> Any:
        """Make a guest with one port, on a host; return the instance."""
        interface = instance_pb2.Instance.Interface(
            network_id=self.id_of("network", network) if network else "",
            security_group_ids=[self.id_of("security-group", each) for each in groups],
            fixed_addresses=[port_pb2.FixedAddress(address=each) for each in addresses],
        )
        with self._only(host):
            known = [self.id_of("key", each) for each in keys]
            return self.api.launch(name, interfaces=[interface], key_pair_ids=known)

    def addresses(self, name: str) -> dict[int, str]:
        """Return the addresses of a guest's first port by version."""
        shown = self.show("instance", "show", name)["interfaces"][0]["fixed_addresses"]
        return {6 if ":" in each["address"] else 4: each["address"] for each in shown}

    def shell(self, name: str) -> GuestShell:
        """Return root's shell on a guest that has its addresses; opened once."""
        if name not in self._shells:
            self.api.wait_log(str(self.show("instance", "show", name)["id"]), "login:")
            shell = self._shells[name] = GuestShell(self.lab, name, self.project)
            for address in self.addresses(name).values():
                _has_address(shell, address)
        return self._shells[name]

    def leave(self, name: str) -> None:
        """Leave a guest's shell, if it is open: before the guest ends."""
        if shell := self._shells.pop(name, None):
            shell.close()

    def close(self) -> None:
        """Leave all shells and the connection."""
        for shell in self._shells.values():
            shell.close()
        self._shells.clear()
        self.api.close()

    @contextmanager
    def _only(self, host: str) -> Iterator[None]:
        """Let new instances go to one host alone."""
        others = [name for name in self.lab.spec.host_names if host and name != host]
        for name in others:
            self("host", "cordon", name)
        try:
            yield
        finally:
            for name in others:
                self("host", "uncordon", name)


def outside(
    lab: Lab, *command: str, within_s: float = 30.0, cell: str = EXTERNAL
) -> subprocess.CompletedProcess[str]:
    """Run a command where the internet is."""
    return lab.site.run(cell, list(command), check=False, timeout_s=within_s)


def _has_address(shell: GuestShell, address: str) -> None:
    """Wait until a guest has an address that works."""
    command = f"ip -o addr | grep -v tentative | grep -qF ' {address}/'"
    wait_for(lambda: shell.succeeds(command) or None, f"{shell.name} has {address}", 90)

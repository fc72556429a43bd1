"""Real network namespaces for tests: of their own, and gone afterwards. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from unkai_agent.network.namespaces import device_of, namespace_of


def _allowed() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_namespaces = pytest.mark.skipif(not _allowed(), reason="needs root and iproute2")


def run(*command: str) -> str:
    """Run a program; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def cleaned(root: Path, *network_ids: str) -> Iterator[None]:
    """Remove these networks' namespaces in `root` and their devices, whatever happened."""
    try:
        yield
    finally:
        for network_id in network_ids:
            command = ["ip", "link", "del", device_of(network_id)]
            subprocess.run(command, capture_output=True, check=False, timeout=30)
            path = root / namespace_of(network_id)
            subprocess.run(["umount", str(path)], capture_output=True, check=False, timeout=30)
            path.unlink(missing_ok=True)


class Guest:
    """A namespace that stands for a guest, on a wire to a network's outer end."""

    def __init__(self, root: Path, network_id: str, *addresses: str) -> None:
        """Move the network's outer end in here: it becomes the guest's card."""
        self.path = root / f"guest-{network_id}"
        self.path.touch()
        run("unshare", f"--net={self.path}", "true")
        self._card = device_of(network_id)
        run("ip", "link", "set", self._card, "netns", str(self.path))
        self.inside("sysctl", "-qw", f"net.ipv6.conf.{self._card}.disable_ipv6=0")
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.inside("ip", "addr", "add", address, "dev", self._card, *nodad)
        self.inside("ip", "link", "set", self._card, "up")
        self.inside("ip", "route", "add", "169.254.169.254/32", "dev", self._card)

    @property
    def card(self) -> str:
        """Name of its network card."""
        return self._card

    def inside(self, *command: str) -> str:
        """Run a program in the guest."""
        return run("nsenter", f"--net={self.path}", *command)

    def close(self) -> None:
        """End the guest."""
        with suppress(AssertionError):
            run("umount", str(self.path))
        self.path.unlink(missing_ok=True)

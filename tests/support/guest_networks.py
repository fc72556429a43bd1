"""A network of one guest under plain QEMU: a namespace, a tap, and who answers there."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from tests.support.namespaces import run
from unkai_agent.network.setns import call_inside

MAC_ADDRESS = "02:00:00:00:00:01"
"""Of the guest's card; as `tests.support.ports.a_port` has it."""
DEVICE = "guest"
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


class GuestNetwork:
    """A network namespace with a tap `guest`, of which QEMU gets the other end."""

    def __init__(self, folder: Path, name: str = "network") -> None:
        self.path = folder / name
        self.path.touch()
        run("unshare", f"--net={self.path}", "ip", "link", "set", "lo", "up")
        self._tap = -1
        self._served: subprocess.Popen[bytes] | None = None

    async def plug(self, *addresses: str) -> int:
        """Make the tap, with our addresses; return its end for QEMU."""
        self._tap = await call_inside(self.path, _open_tap)
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.inside("ip", "addr", "add", address, "dev", DEVICE, *nodad)
        self.inside("ip", "link", "set", DEVICE, "up")
        return self._tap

    def inside(self, *command: str) -> str:
        """Run a program on the network."""
        return run("nsenter", f"--net={self.path}", *command)

    def serve(self, *options: str) -> None:
        """Answer DHCP, send router advertisements: dnsmasq with these options and no others."""
        command = ["nsenter", f"--net={self.path}", "dnsmasq", "--keep-in-foreground"]
        command += ["--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts"]
        command += [
            "--leasefile-ro",
            "--no-ping",
            f"--interface={DEVICE}",
            "--user=root",
            "--log-facility=-",
        ]
        self._served = subprocess.Popen([*command, *options])

    def close(self) -> None:
        """End it."""
        if self._served is not None:
            self._served.kill()
            self._served.wait()
        if self._tap >= 0:
            os.close(self._tap)
        run("umount", str(self.path))
        self.path.unlink()


def _open_tap() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TAP | _IFF_NO_PI)
        )
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

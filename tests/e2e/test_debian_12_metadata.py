"""Debian's cloud-init takes all from the metadata service: no seed disk, equal addresses.

Two guests of two projects have one address and one MAC, each on a network of its own; the agent's
service answers on both.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.agent import a_spec
from tests.support.guest_networks import GuestNetwork
from tests.support.guests import Guest
from tests.support.images import built_debian_12, open_folder
from tests.support.ports import a_network_id, a_port
from unkai_agent.domain.machines import MachineSpec, SeedSpec
from unkai_agent.network.guests import Guests
from unkai_agent.network.metadata.server import MetadataSite
from unkai_agent.network.metadata.tokens import Tokens
from unkai_agent.network.setns import call_inside

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-x86_64", "debootstrap", "dnsmasq"))),
        reason="needs the packages that 'make setup' installs",
    ),
]

BOOT_S = 900.0
"""Two at once on a busy machine without KVM; alone they take a quarter of it."""
USER_DATA = """#cloud-config
runcmd:
  - echo "shown hostname=$(hostname)"
  - echo "shown keys=$(cat /home/debian/.ssh/authorized_keys)"
  - echo "shown mtu=$(cat /sys/class/net/e*/mtu)"
  - echo "shown metadata=$(ip route get 169.254.169.254 | head -n 1 | sed 's/ uid.*//')"
  - echo "shown default=$(ip route show default | cut -d' ' -f1-3)"
  - echo "shown failed=$(systemctl --failed --no-legend | wc -l)"
  - echo "shown secret={secret}"
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that QEMU's user can pass through."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


def _machine(number: int) -> MachineSpec:
    """Of a project of its own; all have one address and one MAC."""
    port = replace(a_port(1), network_id=a_network_id(number))
    user_data = USER_DATA.format(secret=f"of-{number}").encode()
    seed = SeedSpec(f"deb-{number}", (f"ssh-ed25519 AAAA{number} ada",), user_data)
    return replace(a_spec(number, ports=(port,)), seed=seed, metadata_seed=True)


def _disk(folder: Path) -> tuple[Path, Path]:
    """Make a guest's folder; return the image and a disk on it, which QEMU's user may read."""
    folder.mkdir()
    folder.chmod(0o755)
    base, disk = folder / "base.qcow2", folder / "disk.qcow2"
    shutil.copyfile(built_debian_12(), base)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk, "4G"]
    subprocess.run(command, check=True, timeout=30)
    disk.chmod(0o666)
    return base, disk


async def _boot(
    stack: AsyncExitStack, folder: Path, spec: MachineSpec, guests: Guests, tokens: Tokens
) -> Guest:
    base, disk = _disk(folder)
    network = GuestNetwork(folder)
    stack.callback(network.close)
    tap = await network.plug("10.0.0.1/24", "169.254.169.254/32")
    site = MetadataSite(spec.ports[0].network_id, guests, tokens)
    stack.push_async_callback(site.close)
    await site.listen(
        await call_inside(network.path, lambda: socket.create_server(("169.254.169.254", 80)))
    )
    network.serve(
        "--port=0",
        "--dhcp-range=10.0.0.5,10.0.0.5,255.255.255.0,1h",
        "--dhcp-option-force=121,169.254.169.254/32,0.0.0.0,0.0.0.0/0,10.0.0.1",
    )
    guest = Guest(
        folder / "guest", disk, None, base=base, tap=tap, asset="OpenStack Nova", memory_mib=512
    )
    stack.push_async_callback(guest.stop)
    await guest.start()
    return guest


async def test_two_guests_with_one_address_are_each_told_their_own(
    tmp_path: Path, stack: AsyncExitStack, shows: Shows
) -> None:
    machines = [_machine(1), _machine(2)]
    guests, tokens = Guests(machines), Tokens()
    booted = [
        await _boot(stack, tmp_path / spec.seed.hostname, spec, guests, tokens) for spec in machines
    ]
    took = []
    for number, guest in enumerate(booted, 1):
        took.append(await guest.shows(" finished at ", within_s=BOOT_S))
        lines = guest.text().splitlines()
        shown = [line.partition("shown ")[2] for line in lines if "]: shown " in line]
        print("\n".join(shown))
        assert shown == [
            f"hostname=deb-{number}",
            f"keys=ssh-ed25519 AAAA{number} ada",
            "mtu=1442",
            shown[3],
            "default=default via 10.0.0.1",
            "failed=0",
            f"secret=of-{number}",
        ]
        assert shown[3].startswith("metadata=169.254.169.254 dev e"), "it is on the link"
        (done,) = [line for line in lines if " finished at " in line]
        assert "DataSourceOpenStack" in done
        assert "WARNING" not in guest.text()
    shows(
        "networks 9 image",
        f"debian-12 without a seed disk, twice with 10.0.0.5 on two networks: each took its own "
        f"host name, key and user-data; {max(took):.0f} s to the end of cloud-init",
    )

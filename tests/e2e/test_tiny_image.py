"""The tiny image: built from its recipe, booted under QEMU (TCG) on a disk and a seed of ours."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.guests import QEMU_USER, Guest
from tests.support.images import ImageSource, an_image, build_tiny, built_tiny, open_folder
from unkai_agent.domain.machines import DiskSpec, ImageFormat, SeedSpec
from unkai_agent.storage import image_header
from unkai_agent.storage.qcow2 import Qcow2Storage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give QEMU's user its files"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-x86_64", "mcopy", "syslinux"))),
        reason="needs the packages that 'make setup' installs",
    ),
]

INSTANCE = "ins-00000000000000000000000001"
KEYS = ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ada@example", "ssh-rsa AAAAB3NzaC1yc2E bob")
MAX_BYTES = 20_000_000

MakeGuest = Callable[..., Awaitable[Guest]]


def content_of(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that QEMU's user can pass through."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
async def make_guest(tmp_path: Path) -> AsyncIterator[MakeGuest]:
    """Make a guest from the built image through the agent's storage."""
    content = content_of(built_tiny())
    header = image_header.parse(content[: image_header.HEAD_BYTES], len(content))
    image = an_image(
        content,
        image_format=ImageFormat.QCOW2,
        virtual_size_bytes=header.virtual_size_bytes,
    )
    source = ImageSource()
    source.serve(image, content)
    storage = Qcow2Storage(tmp_path / "state", source.fetch, QEMU_USER, lambda: datetime.now(UTC))
    guests: list[Guest] = []

    async def make(seed: SeedSpec | None) -> Guest:
        await storage.ensure_image(image)
        disk = await storage.create_disk(INSTANCE, DiskSpec("root", 64 << 20, image, False))
        path = None if seed is None else await storage.ensure_seed(INSTANCE, seed)
        assert disk.backing_path is not None
        folder = tmp_path / f"guest{len(guests)}"
        guests.append(Guest(folder, disk.path, path, base=disk.backing_path))
        return guests[-1]

    yield make
    for guest in guests:
        await guest.stop()
    await storage.close()


def test_the_image_is_at_most_20_mb() -> None:
    assert built_tiny().stat().st_size <= MAX_BYTES


def test_the_same_packages_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        build_tiny(tmp_path / f"{name}.qcow2")
        digests.add(hashlib.sha256((tmp_path / f"{name}.qcow2").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"one.qcow2", "two.qcow2"}


async def test_a_guests_life_from_seed_to_power_button(make_guest: MakeGuest) -> None:
    # 1. It boots, says who it is, runs its user-data and says how that ended.
    script = b"#!/bin/sh\necho hello from $(hostname)\necho trouble >&2\nexit 3\n"
    guest = await make_guest(SeedSpec("web-1", KEYS, script))
    await guest.start()
    ready_s = await guest.shows("unkai-tiny: ready in ")
    assert guest.lines()[:3] == [
        "unkai-tiny: hostname=web-1",
        f"unkai-tiny: instance-id={INSTANCE}",
        "unkai-tiny: boot=1",
    ]
    assert re.fullmatch(r"unkai-tiny: cpus=1 memory=\d+ MiB disk=64 MiB", guest.lines()[3])
    assert guest.lines()[4:7] == [
        f"unkai-tiny: ssh-key={KEYS[0]}",
        f"unkai-tiny: ssh-key={KEYS[1]}",
        "unkai-tiny: user-data exit=3",
    ]
    assert "\nhello from web-1\ntrouble\nunkai-tiny: user-data exit=3\n" in guest.text()
    print(f"ready {ready_s:.1f} s after power-on")
    assert ready_s < 30

    # 2. Its console can be worked on.
    await guest.shows("web-1 login:")
    await guest.type("root\n")
    await guest.shows("root@web-1:/root#", within_s=20)
    await guest.type("cat /root/.ssh/authorized_keys | wc -l | sed s/^/keys=/\n")
    await guest.shows("\nkeys=2\n")

    # 3. `reboot` restarts it on the same disk: the count of boots goes on.
    await guest.type("reboot\n")
    await guest.shows("unkai-tiny: going down")
    await guest.shows("unkai-tiny: boot=2")
    await guest.shows("web-1 login:", times=2)

    # 4. The power button powers it off.
    await guest.press_power()
    assert await guest.ends() < 10
    assert guest.text().count("unkai-tiny: going down") == 2


CLOUD_CONFIG = b"""#cloud-config
hostname: db-7
ssh_authorized_keys:
  - ssh-ed25519 AAAA carol
write_files:
  - path: /etc/greeting
    permissions: '0600'
    content: |
      it's "quoted"
        and indented
packages: [vim]
runcmd:
  - cat /etc/greeting
  - [sh, -c, 'echo "$(hostname)" has $(stat -c %a /etc/greeting)']
  - poweroff
"""


async def test_cloud_config_is_carried_out_as_far_as_it_goes(make_guest: MakeGuest) -> None:
    guest = await make_guest(SeedSpec("web-1", (), CLOUD_CONFIG))
    await guest.start(machine="q35")
    await guest.ends(within_s=60)
    assert 'it\'s "quoted"\n  and indented\ndb-7 has 600\n' in guest.text()
    for line in (
        "hostname=db-7",
        "ssh-key=ssh-ed25519 AAAA carol",
        "cloud-config: unsupported: packages",
        "user-data exit=1",
    ):
        assert f"unkai-tiny: {line}" in guest.lines(), line


async def test_without_a_seed_it_boots_to_a_login(make_guest: MakeGuest) -> None:
    guest = await make_guest(None)
    await guest.start()
    await guest.shows("tiny login:")
    assert guest.lines()[:2] == ["unkai-tiny: no seed disk", "unkai-tiny: hostname=tiny"]
    assert "unkai-tiny: user-data none" in guest.lines()


async def test_user_data_that_never_ends_does_not_keep_the_login_away(
    make_guest: MakeGuest,
) -> None:
    script = b"#!/bin/sh\nwhile :; do echo beat; sleep 1; done\n"
    guest = await make_guest(SeedSpec("web-1", (), script))
    await guest.start()
    await guest.shows("web-1 login:", within_s=60)
    beats = guest.text().count("beat\n")
    await guest.shows("beat\n", times=beats + 2)
    await guest.press_power()
    await guest.ends()

"""Story: Debian with real cloud-init, from its recipe to nothing left.

1. It is launched with a key pair and user-data, on a network with another guest. 2. cloud-init does
what was asked, and says on the console that it is done. 3. The other guest is found by its short
name. 4. Nobody could log in with a password. 5. Deleted, nothing is left.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.evidence import wait_clean
from tests.support.images import built_debian_12, built_tiny
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.user import User
from unkai.compute.v1 import key_pair_pb2
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

pytestmark = pytest.mark.timeout(2400)
BOOT_S = 600.0
"""On a busy machine without KVM; alone it takes a quarter of it."""
GIB = 1 << 30
USER_DATA = """#cloud-config
write_files:
  - path: /etc/unkai-greeting
    content: hello from user-data
    permissions: '0640'
users:
  - default
  - name: ada
    shell: /bin/bash
    ssh_authorized_keys: ["{key}"]
runcmd:
  - echo "shown file=$(stat -c %a /etc/unkai-greeting) $(cat /etc/unkai-greeting)"
  - echo "shown user=$(id -un ada) $(cat /home/ada/.ssh/authorized_keys)"
  - echo "shown user=$(id -un debian) $(cat /home/debian/.ssh/authorized_keys)"
  - echo "shown hostname=$(hostname)"
  - echo "shown peer=$(getent ahostsv4 peer | head -n 1 | cut -d' ' -f1)"
  - echo "shown disk=$(df -B1 --output=size / | tail -n 1)"
  - echo "shown passwords=$(passwd -S root | cut -d' ' -f2)$(passwd -S ada | cut -d' ' -f2)"
  - echo "shown $(sshd -T | grep -x 'passwordauthentication .*')"
  - echo "shown failed=$(systemctl --failed --no-legend | wc -l)"
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host, with networks."""
    skip_without_a_lab_machine(networks=True)
    with running_lab(unique(LabSpec(name="deb", hosts=1, networks=True))) as made:
        yield made


@pytest.fixture
def public_key(tmp_path: Path) -> str:
    """A key made for this story."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada@example"]
    subprocess.run([*command, "-f", tmp_path / "key"], check=True, timeout=30)
    return (tmp_path / "key.pub").read_text().strip()


def test_cloud_init_makes_what_the_user_data_says(lab: Lab, public_key: str, shows: Shows) -> None:
    begun = time.monotonic()
    image = built_debian_12()
    built_s = time.monotonic() - begun
    with closing(User(lab.socket())) as user:
        user.upload("debian-12", image)
        pair = key_pair_pb2.KeyPair(name="ada", public_key=public_key)
        key = user.client.call("KeyPairService", "CreateKeyPair", key_pair=pair).key_pair
        user.upload("tiny", built_tiny())
        peer = user.launch("peer")
        (address, _) = peer.interfaces[0].fixed_addresses
        begun = time.monotonic()
        made = user.launch(
            "deb-1",
            flavor="small",
            image="debian-12",
            key_pair_ids=[key.id],
            user_data=USER_DATA.format(key=public_key).encode(),
        )
        user.wait_log(made.id, " finished at ", BOOT_S)
        took_s = time.monotonic() - begun
        log = user.log(made.id)
        shown = [line.partition("shown ")[2] for line in log.splitlines() if "]: shown " in line]
        print("\n".join(shown))
        size = int(shown[5].partition("=")[2])
        assert shown[:5] == [
            "file=640 hello from user-data",
            f"user=ada {public_key}",
            f"user=debian {public_key}",
            "hostname=deb-1",
            f"peer={address.address}",
        ]
        assert 9.5 * GIB < size < 10 * GIB, "the root file system has grown to the flavor's disk"
        assert shown[6:] == ["passwords=LL", "passwordauthentication no", "failed=0"]
        (done,) = [line for line in log.splitlines() if " finished at " in line]
        assert "Datasource DataSourceNoCloud" in done
        assert "WARNING" not in log
        assert "Traceback" not in log
        wait_for(lambda: "deb-1 login:" in user.log(made.id), "a login prompt", 60)

        folder = lab.paths.cell("h1") / "agent" / "machines" / made.id
        assert folder.exists()
        user.act("Delete", made.id)
        assert not folder.exists()
        user.act("Delete", peer.id)
        assert lab.virsh("h1", "list", "--all", "--name").split() == []
        wait_for(lambda: not lab.qemu_pids("h1"), "no QEMU is left", 5)
        wait_clean(lab)
    shows(
        "solid 8 debian-12",
        f"{image.stat().st_size >> 20} MiB, built in {built_s:.0f} s; file, user, key and host "
        f"name as asked, another guest found by name, disk grown to {size / GIB:.1f} GiB; "
        f"'{done.partition('Cloud-init')[2]}' on the console {took_s:.0f} s after the order; "
        "deleted, nothing left",
    )

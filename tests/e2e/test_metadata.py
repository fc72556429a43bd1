"""Story: with no seed disk the metadata service says to each guest who it is, and to no other.

Two projects have one range, and in it a guest of one address each, on one host. 1. Each takes its
own host name, key and user-data. 2. EC2's and OpenStack's documents are read at the IPv4 and at the
IPv6 address, EC2's by a token. 3. Neither guest reads the other's, whatever headers it makes up,
nor by a token that the other was given. 4. Debian's cloud-init takes all, and finds others by their
short names (with full counts: its boot takes minutes without KVM).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.acceptance import Shows, full_counts
from tests.support.images import built_debian_12
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.network_user import NetworkUser
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

pytestmark = pytest.mark.timeout(2400)
SERVICE = "169.254.169.254"
SERVICE_V6 = "fe80::a9fe:a9fe"
ADDRESS = "10.77.0.11"
TOKEN = "X-aws-ec2-metadata-token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds: 60"
BOOT_S = 900.0
"""Of two guests with Debian at once on a busy machine without KVM."""
DEBIAN_SAYS = """#!/bin/sh
echo "shown hostname=$(hostname)"
echo "shown keys=$(cat /home/debian/.ssh/authorized_keys)"
echo "shown mtu=$(cat /sys/class/net/e*/mtu)"
echo "shown default=$(ip route show default | head -n 1 | cut -d' ' -f1-3)"
echo "shown tiny=$(getent ahostsv4 tiny | head -n 1 | cut -d' ' -f1)"
echo "shown disks=$(ls /sys/block | grep -c '^vd')"
echo "shown secret={secret}"
"""


class Tenant:
    """A project with a key and a network of a range that others have too."""

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir()
        self.user = NetworkUser(lab, name)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"of-{name}"]
        subprocess.run([*command, "-f", folder / "key"], check=True, timeout=30)
        self.key = (folder / "key.pub").read_text().strip()
        self.user("key", "add", "mine", str(folder / "key.pub"))
        self.user("network", "create", "same", "--subnet", "10.77.0.0/24")

    def launch(self, image: str, name: str, address: str, script: str, *figures: str) -> str:
        """Launch a guest that has no seed disk; return its id."""
        file = self.folder / f"{name}.sh"
        file.write_text(script)
        words = ["--seed", "metadata", "--network", "same", "--ip", address, "--key", "mine"]
        self.user("launch", image, name, *figures, *words, "--user-data", str(file))
        return self.user.id_of("instance", name)

    def ask(self, request: str, *headers: str, version: int = 4) -> tuple[int, str]:
        """Send a request from the guest `tiny`, by IPv4 or IPv6; return status and body."""
        host, at = (SERVICE, SERVICE) if version == 4 else (f"[{SERVICE_V6}]", f"{SERVICE_V6}%eth0")
        lines = (f"{request} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", "")
        text = "\\r\\n".join(lines)
        answer = self.user.shell("tiny").run(f"printf '{text}' | nc.openbsd -w 10 {at} 80")
        head, _, body = answer.partition("\n\n")
        found = re.search(r"HTTP/1\.1 (\d+)", head)
        assert found, answer
        return int(found[1]), body


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host, with networks."""
    skip_without_a_lab_machine(networks=True)
    with running_lab(unique(LabSpec(name="meta", hosts=1, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tenant, Tenant]]:
    """Two projects, each with a guest `tiny` at the same address."""
    folder = tmp_path_factory.mktemp("tenants")
    admin = NetworkUser(lab)
    for name in ("left", "right"):
        admin("project", "create", name)
    admin.close()
    made = Tenant(lab, "left", folder / "left"), Tenant(lab, "right", folder / "right")
    for each in made:
        script = f"#!/bin/sh\necho secret-of-{each.name}\n"
        each.launch("tiny", "tiny", ADDRESS, script, "--flavor", "nano")
    yield made
    for each in made:
        each.user.close()


def test_each_guest_takes_its_own_key_and_user_data(
    tenants: tuple[Tenant, Tenant], shows: Shows
) -> None:
    for each, other in (tenants, tenants[::-1]):
        instance = each.user.id_of("instance", "tiny")
        log = each.user.api.wait_log(instance, "user-data exit=0", 120)
        assert f"secret-of-{each.name}" in log.splitlines()
        assert f"unkai-tiny: ssh-key={each.key}" in log.splitlines()
        assert f"unkai-tiny: instance-id={instance}" in log.splitlines()
        assert other.name not in log
        assert each.user.addresses("tiny")[4] == ADDRESS
        assert each.user.shell("tiny").run("ls /sys/block | grep -c ^vd").strip() == "1"
    shows("networks 9 metadata", f"{ADDRESS} in two projects: each its own key and user-data")


@pytest.mark.parametrize("version", [4, 6])
def test_what_clouds_tell_is_read_at_both_addresses(
    tenants: tuple[Tenant, Tenant], version: int, shows: Shows
) -> None:
    tenant = tenants[0]
    instance = tenant.user.id_of("instance", "tiny")

    def read(path: str, *headers: str) -> str:
        status, body = tenant.ask(f"GET {path}", *headers, version=version)
        assert status == 200, (path, body)
        return body

    assert tenant.ask("GET /latest/user-data", version=version)[0] == 401
    assert tenant.ask("PUT /latest/api/token", version=version)[0] == 400
    status, token = tenant.ask("PUT /latest/api/token", TTL, version=version)
    assert status == 200
    shown = f"{TOKEN}: {token.strip()}"
    assert "secret-of-left" in read("/latest/user-data", shown)
    assert read("/latest/meta-data/instance-id", shown).strip() == instance
    assert read("/latest/meta-data/public-keys/0/openssh-key", shown).strip() == tenant.key

    openstack = "/openstack/latest"
    told = json.loads(read(f"{openstack}/meta_data.json"))
    assert (told["name"], list(told["public_keys"].values())) == ("tiny", [tenant.key])
    (link,) = json.loads(read(f"{openstack}/network_data.json"))["links"]
    (card,) = tenant.user.show("instance", "show", "tiny")["interfaces"]
    assert link["ethernet_mac_address"] == card["mac_address"]
    assert "secret-of-left" in read(f"{openstack}/user_data")
    assert json.loads(read(f"{openstack}/vendor_data.json")) == {}
    shows(f"networks 9 paths IPv{version}", "EC2's by a token (401, 400 without), OpenStack's")


def test_no_guest_reads_what_is_anothers(tenants: tuple[Tenant, Tenant], shows: Shows) -> None:
    refused, unmoved = 0, 0
    tokens = [each.ask("PUT /latest/api/token", TTL)[1].strip() for each in tenants]
    for each, other, own, foreign in (
        (*tenants, *tokens),
        (*tenants[::-1], *tokens[::-1]),
    ):
        instance = other.user.id_of("instance", "tiny")
        secret = f"secret-of-{each.name}"
        for header in ("X-Forwarded-For: 10.77.0.11", "Forwarded: for=10.77.0.11", "Via: 1.1 me"):
            status, body = each.ask("GET /openstack/latest/user_data", header)
            assert (status, "secret" in body) == (403, False), header
            refused += 1
        for header in (
            f"X-Instance-ID: {instance}",
            f"X-OVN-Network-ID: {other.user.id_of('network', 'same')}",
            f"X-Tenant-ID: {other.name}",
            "X-Real-IP: 10.77.0.11",
        ):
            status, body = each.ask("GET /openstack/latest/user_data", header)
            assert status == 200
            assert secret in body
            assert other.name not in body
            unmoved += 1
        assert each.ask("GET /latest/user-data", f"{TOKEN}: {foreign}")[0] == 401
        status, body = each.ask("GET /latest/user-data", f"{TOKEN}: {own}")
        assert status == 200
        assert secret in body
    shows(
        "networks 9 isolation",
        f"a proxy's headers: {refused} of 6 refused; others: {unmoved} of 8 changed nothing; "
        "the other's token: 401 for both",
    )


@pytest.mark.skipif(not full_counts(), reason="minutes of boot: make acceptance runs it")
def test_cloud_init_takes_all_from_the_service(
    tenants: tuple[Tenant, Tenant], shows: Shows
) -> None:
    made = []
    for each in tenants:
        each.user.api.upload("debian-12", built_debian_12())
        script = DEBIAN_SAYS.format(secret=f"secret-of-{each.name}")
        figures = ("-c", "1", "-m", "512M", "--disk", "4G")
        made.append(each.launch("debian-12", f"deb-{each.name}", "10.77.0.12", script, *figures))
    for each, instance in zip(tenants, made, strict=True):
        log = each.user.api.wait_log(instance, " finished at ", BOOT_S)
        shown = [line.partition("shown ")[2] for line in log.splitlines() if "]: shown " in line]
        assert shown == [
            f"hostname=deb-{each.name}",
            f"keys={each.key}",
            "mtu=1442",
            "default=default via 10.77.0.1",
            f"tiny={ADDRESS}",
            "disks=1",
            f"secret=secret-of-{each.name}",
        ]
        (done,) = [line for line in log.splitlines() if " finished at " in line]
        assert "DataSourceOpenStack" in done
        assert "WARNING" not in log
        assert "Traceback" not in log
    shows(
        "networks 9 debian-12",
        "10.77.0.12 in two projects, no seed disk: host name, key and user-data its own, from "
        "DataSourceOpenStack; another is found by its short name",
    )

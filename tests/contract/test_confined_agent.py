"""What the agent does with other users' rights goes on under its unit's restrictions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import confined

_ROOT = Path(__file__).parents[2]
UNIT = _ROOT / "agent/systemd/unkai-agent.service"
NETWORKS = UNIT.with_name("unkai-agent-networks.conf")
_PROOF = """
import asyncio, json, os, sys
from pathlib import Path
from unkai_agent.compute.kvm_proof import prove_kvm
found = asyncio.run(prove_kvm("qemu-system-x86_64", "nobody", accelerator="tcg", deadline_s=60))
given = Path(sys.argv[1]) / "disk"
given.touch()
os.chown(given, 65534, 65534)
given.chmod(0o600)
given.read_bytes()
outside = Path("/usr/unkai-was-here")
try:
    outside.touch()
    escaped = True
except OSError:
    escaped = False
print(json.dumps([found.name, found.reason, given.stat().st_uid, escaped]))
"""
_NETWORK = """
import asyncio, json, sys
from pathlib import Path
from unkai_agent.network.driver import NetworkSite
from unkai_agent.network.namespaces import ADDRESS_V4, Namespaces
from unkai_agent.network.sockets import listener
from unkai_wire.ids import new_id
site = NetworkSite(new_id("network"), "meta-1", "02:00:00:00:fe:01", 1442, ("10.0.0.2/24",))
async def story():
    spaces = Namespaces(Path(sys.argv[1]) / "netns")
    await spaces.ensure(site)
    with await spaces.call(site.network_id, listener(ADDRESS_V4, 80)) as made:
        bound = made.getsockname()
    await spaces.remove(site.network_id)
    return bound, spaces.found()
print(json.dumps(asyncio.run(story())))
"""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        os.geteuid() != 0
        or not shutil.which("qemu-system-x86_64")
        or not shutil.which("systemd-analyze"),
        reason="needs root, QEMU and systemd-analyze",
    ),
]


def test_under_its_units_restrictions_the_agent_proves_kvm_and_gives_disks_away(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, confined.__file__, UNIT, "--writable", tmp_path, "--"),
            *(sys.executable, "-c", _PROOF, tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["tcg", "", 65534, False]


def test_with_what_goes_beside_its_unit_the_agent_serves_networks(tmp_path: Path) -> None:
    unit = tmp_path / "unkai-agent.service"
    unit.write_text(UNIT.read_text() + "\n" + NETWORKS.read_text())
    done = subprocess.run(
        [
            *("unshare", "--net", sys.executable, confined.__file__, unit),
            *("--writable", tmp_path, "--", sys.executable, "-c", _NETWORK, tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["169.254.169.254", 80], []]

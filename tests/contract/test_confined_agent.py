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

"""The proof that a guest runs, with programs in QEMU's place."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from unkai_agent.compute.kvm_proof import boot_sector, prove_kvm

_ME = pwd.getpwuid(os.geteuid()).pw_name


def an_emulator(folder: Path, script: str) -> str:
    path = folder / "emulator"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def is_running(pid_file: Path) -> bool:
    return Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_the_boot_sector_is_one() -> None:
    sector = boot_sector()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    text_at = int.from_bytes(sector[7:9], "little") - 0x7C00
    assert sector[text_at:].startswith(b"unkai runs")


async def test_the_word_and_the_exit_status_together_prove_kvm(tmp_path: Path) -> None:
    emulator = an_emulator(tmp_path, "echo unkai runs; exit 85")
    assert (await prove_kvm(emulator, _ME)).name == "kvm"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo unkai runs; exit 0", "status 0"),
        ("exit 85", "status 85"),
        ("echo 'Could not access KVM kernel module' >&2; exit 1", "Could not access KVM"),
    ],
    ids=["no exit from the guest", "no word from the guest", "complaint"],
)
async def test_less_than_both_is_no_proof(tmp_path: Path, script: str, reason: str) -> None:
    accelerator = await prove_kvm(an_emulator(tmp_path, script), _ME)
    assert accelerator.name == "tcg"
    assert reason in accelerator.reason


async def test_a_guest_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    emulator = an_emulator(tmp_path, f"echo $$ > {mark}; exec sleep 60")
    accelerator = await prove_kvm(emulator, _ME, deadline_s=0.5)
    assert accelerator.name == "tcg"
    assert "did not finish booting within 0.5 s" in accelerator.reason
    assert not is_running(mark)


async def test_a_missing_emulator_is_a_reason(tmp_path: Path) -> None:
    accelerator = await prove_kvm(str(tmp_path / "none"), _ME)
    assert accelerator.name == "tcg"
    assert "cannot be run" in accelerator.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
async def test_a_missing_user_is_a_reason(tmp_path: Path) -> None:
    accelerator = await prove_kvm(an_emulator(tmp_path, "exit 85"), "no-such-user")
    assert "there is no such user" in accelerator.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
async def test_the_guest_runs_as_the_user_that_will_run_it(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    emulator = an_emulator(tmp_path, 'test "$(id -u)" = 65534 && echo unkai runs; exit 85')
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    assert nobody.pw_uid == 65534
    assert (await prove_kvm(emulator, "nobody")).name == "kvm"

"""What is found of KVM and of libvirt's settings."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

import pytest

from unkai_agent.doctor import guests
from unkai_agent.doctor.scene import Paths, Scene
from unkai_agent.settings import LibvirtSettings, Settings
from unkai_wire.doctor.findings import Severity


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU of the test's own, first in PATH."""
    program = tmp_path / "bin/qemu-system-x86_64"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def a_scene(
    tmp_path: Path, accelerator: Literal["auto", "kvm", "tcg"] = "auto", conf: str = ""
) -> Scene:
    (tmp_path / "kvm").touch()
    (tmp_path / "qemu.conf").write_text(conf)
    paths = Paths(kvm=tmp_path / "kvm", qemu_conf=tmp_path / "qemu.conf")
    settings = Settings(accelerator=accelerator, libvirt=LibvirtSettings(qemu_user="root"))
    return Scene(settings, paths=paths)


def _says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_kvm_that_hangs_is_told(
    tmp_path: Path, emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unkai_agent.doctor.scene.PROOF_DEADLINE_S", 0.2)
    _says(emulator, "exec sleep 30")
    (found,) = guests.kvm(a_scene(tmp_path))
    assert "did not finish booting" in found.what
    assert "accelerator = 'tcg'" in found.fix
    assert found.severity is Severity.WARN


def test_kvm_that_is_not_permitted_is_told_with_the_group(tmp_path: Path, emulator: Path) -> None:
    _says(emulator, "echo 'failed to initialize kvm: Permission denied' >&2; exit 1")
    (found,) = guests.kvm(a_scene(tmp_path, "kvm"))
    assert "usermod -aG kvm" in found.fix
    assert found.severity is Severity.FAIL


def test_kvm_that_works_and_emulation_that_was_chosen_are_nothing(
    tmp_path: Path, emulator: Path
) -> None:
    _says(emulator, "printf 'unkai runs'; exit 85")
    assert not list(guests.kvm(a_scene(tmp_path)))
    _says(emulator, "exit 1")
    assert not list(guests.kvm(a_scene(tmp_path, "tcg")))


def test_no_kvm_device_is_told(tmp_path: Path, emulator: Path) -> None:
    _says(emulator, "exit 1")
    scene = a_scene(tmp_path)
    (tmp_path / "kvm").unlink()
    (found,) = guests.kvm(scene)
    assert "there is no" in found.what


def test_qemu_conf_is_read_as_libvirt_reads_it() -> None:
    text = 'user = "root"\n#user = "other"\n  seccomp_sandbox=1 # yes\nuser = "libvirt-qemu"\n'
    assert guests.qemu_settings(text) == {"user": "libvirt-qemu", "seccomp_sandbox": "1"}


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ("", "change the owners"),
        ("dynamic_ownership = 1", "change the owners"),
        ('user = "root"\ndynamic_ownership = 0', "as root"),
        ('user = "+0"\ndynamic_ownership = 0', "as root"),
        ('user = "qemu"\ndynamic_ownership = 0', "as qemu"),
        ("seccomp_sandbox = 0\ndynamic_ownership = 0", "sandbox off"),
        ('stdio_handler = "file"\ndynamic_ownership = 0', "console logs itself"),
    ],
)
def test_each_wrong_line_of_qemu_conf_is_told(tmp_path: Path, conf: str, said: str) -> None:
    (found,) = guests.qemu_conf(a_scene(tmp_path, conf=conf))
    assert said in found.what
    assert str(tmp_path / "qemu.conf") in found.fix

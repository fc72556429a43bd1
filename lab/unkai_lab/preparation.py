"""What a lab's cells find on their disks when they first boot."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unkai_lab import configuration
from unkai_lab.certificates import make_certificates
from unkai_lab.database import prepare_files, server_of
from unkai_lab.site import Site
from unkai_lab.spec import FLEET


def prepare(site: Site) -> None:
    """Make folders, cgroups, certificates and settings of all cells."""
    spec, paths = site.spec, site.paths
    for name in spec.cells:
        (paths.cell(name) / "log").mkdir(parents=True)
        site.make_groups(name)
    make_certificates(spec, paths)
    if server := server_of(spec, paths):
        prepare_files(server, paths)
    for name in spec.scheduler_names:
        settings = configuration.scheduler_settings(spec, paths, name)
        _write(paths.cell(spec.scheduler_cell(name)) / "scheduler.toml", settings)
    for host in spec.host_names:
        groups = site.cell(host).groups
        agent = configuration.agent_settings(spec, paths, host, groups)
        _write(paths.cell(host) / "agent.toml", agent)
        _make_host_files(paths.cell(host))
    if spec.simulated:
        _write(paths.cell(FLEET) / "agent.toml", configuration.fleet_settings(spec, paths))


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(configuration.toml_text(settings))


def _make_host_files(folder: Path) -> None:
    """Make what a host sees in place of the machine's libvirt folders and KVM device."""
    for below in (*configuration.HOST_FOLDERS, *configuration.QEMU_FOLDERS):
        (folder / below).mkdir(parents=True, mode=0o755)
    for below in configuration.QEMU_FOLDERS:
        shutil.chown(folder / below, configuration.QEMU_USER, configuration.QEMU_USER)
    etc = folder / "libvirt/etc"
    (etc / "qemu.conf").write_text(configuration.QEMU_CONF)
    (etc / "libvirtd.conf").write_text(configuration.libvirtd_conf(str(uuid.uuid4())))
    (etc / "virtlogd.conf").write_text(configuration.VIRTLOGD_CONF)
    kvm = Path("/dev/kvm")
    if kvm.exists():
        # libvirt probes QEMU anew at each look-up while QEMU's user may not open the device.
        os.mknod(folder / "kvm", 0o020666, kvm.stat().st_rdev)
        os.chmod(folder / "kvm", 0o666)

"""Whether this machine can hold a lab, asked before anything is made."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from unkai_lab import ovn
from unkai_lab.configuration import HOST_FOLDERS, QEMU_USER
from unkai_lab.database import needed_programs
from unkai_lab.errors import LabError
from unkai_lab.spec import DEFAULT_ROOT, SQLITE

CONTROL_PROGRAMS = ("ip", "nsenter", "setpriv", "unshare", "mount", "hostname", "etcd", "etcdctl")
HOST_PROGRAMS = ("libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "qemu-img")


def check_machine(
    root: Path, *, with_hosts: bool, with_networks: bool = False, database: str = SQLITE
) -> None:
    """Raise `LabError` naming everything that is missing."""
    if os.geteuid() != 0:
        raise LabError("a lab makes namespaces and cgroups, which needs root", fix="use sudo")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = CONTROL_PROGRAMS + (HOST_PROGRAMS if with_hosts else ()) + needed_programs(database)
    programs += ovn.needed_programs() if with_networks else ()
    missing = [name for name in programs if not shutil.which(name, path=path)]
    if with_hosts:
        missing += [folder for folder in HOST_FOLDERS.values() if not Path(folder).is_dir()]
        missing += [] if _user_exists(QEMU_USER) else [f"user {QEMU_USER}"]
    if root != DEFAULT_ROOT and not root.is_dir():
        missing.append(f"folder {root} (UNKAI_LAB_ROOT)")
    if missing:
        raise LabError(
            f"this machine lacks {', '.join(missing)}",
            fix="install the packages that 'make setup' names",
        )
    if with_hosts:
        _check_searchable(root, QEMU_USER)
    if database != SQLITE:
        _check_searchable(root, "postgres or mysql")


def _check_searchable(root: Path, user: str) -> None:
    """QEMU, and a database server, run as their own users and must reach files below the root."""
    for folder in (root, *root.parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise LabError(
                f"{folder} is closed to user {user}, which must reach files below it",
                fix="choose another UNKAI_LAB_ROOT",
            )


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True

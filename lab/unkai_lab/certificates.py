"""The lab's own CA, and a certificate for each party, made by the scheduler's authority."""

from __future__ import annotations

import datetime as dt
import os

from unkai_lab.configuration import etcd_pki, scheduler_pki
from unkai_lab.database import folder_of, server_of
from unkai_lab.ovn import ovn_folder, ovn_pki
from unkai_lab.spec import CONTROL, FLEET, LabPaths, LabSpec
from unkai_scheduler import certificates, ovn_certificates
from unkai_scheduler.domain.clock import system_clock

ADMIN = "admin"


def _yesterday() -> dt.datetime:
    """Return the time of issue: a program whose clock a test sets back can use them too."""
    return system_clock() - dt.timedelta(days=1)


def make_certificates(spec: LabSpec, paths: LabPaths) -> None:
    """Make all certificates of a new lab. Each cell gets its own only, not the CA's key."""
    authority = certificates.init(paths.pki, clock=_yesterday)
    address = spec.address(CONTROL)
    for name in spec.scheduler_names:
        pki = scheduler_pki(spec, paths, name)
        own = spec.address(spec.scheduler_cell(name))
        authority.issue_scheduler(name, [own]).write(pki)
        authority.issue_etcd_client(name).write(pki)
    authority.issue_client(ADMIN).write(paths.pki)
    for name in spec.etcd_names:
        authority.issue_etcd(name, [address]).write(etcd_pki(paths, name))
    if server_of(spec, paths):
        authority.issue_database("database", [address]).write(folder_of(paths))
    for host in spec.host_names:
        authority.issue_host(host, [spec.address(host)]).write(paths.cell(host) / "pki")
    if spec.simulated:
        folder = paths.cell(FLEET) / "pki"
        authority.issue_fleet(f"{spec.name}-{FLEET}", [spec.address(FLEET)]).write(folder)
    if spec.networks:
        _make_ovn_certificates(spec, paths, authority)
    os.chmod(paths.pki, 0o700)


def _make_ovn_certificates(
    spec: LabSpec, paths: LabPaths, authority: certificates.Authority
) -> None:
    """Make what OVN's databases show and trust: see `ovn_central`."""
    ovn = ovn_certificates.authority(authority, ovn_folder(paths) / "ca", clock=_yesterday)
    databases = ovn.issue_databases(CONTROL, [spec.address(CONTROL)])
    certificates.write(databases, ovn_pki(paths, CONTROL))
    for name in spec.scheduler_names:
        ovn.issue_client(name).write(ovn_pki(paths, name))

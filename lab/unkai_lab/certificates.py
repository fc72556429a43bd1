"""The lab's own CA, and a certificate for each party, made by the scheduler's authority."""

from __future__ import annotations

import os

from unkai_lab.configuration import ETCD_NAME, SCHEDULER_NAME
from unkai_lab.spec import CONTROL, FLEET, LabPaths, LabSpec
from unkai_scheduler import certificates

ADMIN = "admin"


def make_certificates(spec: LabSpec, paths: LabPaths) -> None:
    """Make all certificates of a new lab. Each cell gets its own only, not the CA's key."""
    authority = certificates.init(paths.pki)
    address = spec.address(CONTROL)
    authority.issue_scheduler(SCHEDULER_NAME, [address]).write(paths.pki)
    authority.issue_etcd_client(SCHEDULER_NAME).write(paths.pki)
    authority.issue_client(ADMIN).write(paths.pki)
    authority.issue_etcd(ETCD_NAME, [address]).write(paths.cell(CONTROL) / "pki")
    for host in spec.host_names:
        authority.issue_host(host, [spec.address(host)]).write(paths.cell(host) / "pki")
    if spec.simulated:
        folder = paths.cell(FLEET) / "pki"
        authority.issue_fleet(f"{spec.name}-{FLEET}", [spec.address(FLEET)]).write(folder)
    os.chmod(paths.pki, 0o700)

"""Certificates of OVN's databases and of those that write them: who gets in where.

The southbound database knows roles. A host shows its own certificate of the cloud's CA, whose
common name is its chassis' name. The role ovn-controller lets it write its own chassis and tunnel
ends, but also where any port is, and what all chassis learn together (MAC_Binding, FDB, IGMP_Group;
ovn-architecture(7), "Role-Based Access Controls for the Southbound DB"). So a stolen certificate
harms other hosts' traffic: docs/explanation/security.md says how. The northbound one knows none:
whoever it lets in may write all of it. So it trusts a CA of its own, of which schedulers alone
hold a certificate, and a host's is refused there. That CA is made at its first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unkai_scheduler import certificates
from unkai_scheduler.certificates import Authority, Bundle
from unkai_scheduler.domain.clock import Clock, system_clock
from unkai_wire.errors import AlreadyExists

NORTHBOUND = "ovn-nb"
SOUTHBOUND = "ovn-sb"
"""Stems of the files of OVN's two databases."""
FOLDER = Path("ovn", "pki")
"""Where OVN's own CA lies, below the folder of settings."""


@dataclass(frozen=True, slots=True)
class OvnAuthority:
    """The two CAs that OVN's parties trust."""

    cloud: Authority
    own: Authority
    """Of schedulers, as clients, and of the northbound database."""

    def issue_databases(self, name: str, addresses: Sequence[str]) -> tuple[Bundle, Bundle]:
        """Make the certificates of both databases on a machine: northbound, southbound."""
        north = self.own.issue_ovn_database(NORTHBOUND, name, addresses)
        south = self.cloud.issue_ovn_database(SOUTHBOUND, name, addresses)
        return (
            replace(north, ca_name=f"{NORTHBOUND}-ca"),
            replace(south, ca_name=f"{SOUTHBOUND}-ca", ca=self._both),
        )

    def issue_client(self, name: str) -> Bundle:
        """Make a scheduler's certificate for both databases."""
        return replace(self.own.issue_ovn_client(name), ca_name="ovn-ca", ca=self._both)

    @property
    def _both(self) -> bytes:
        return self.cloud.pem + self.own.pem


def authority(cloud: Authority, folder: Path, *, clock: Clock = system_clock) -> OvnAuthority:
    """Return the CAs of a cloud's OVN; its own lies in `folder`, and is made if it is not there.

    Raises `FailedPrecondition` when half of it is there.
    """
    try:
        own = certificates.init(folder, clock=clock)
    except AlreadyExists:
        own = certificates.load(folder, clock=clock)
    return OvnAuthority(cloud, own)

"""A guest that a failing disk of its host has paused: shown first, resumed at the next try.

Resuming is all that can be tried: whether the disk has room again shows at the guest's next write.
"""

from __future__ import annotations

from prometheus_client import Counter

from unkai_agent.compute.driver import DiskError, Domain
from unkai_agent.converge import machines
from unkai_agent.converge.retries import Retries
from unkai_wire.errors import UnkaiError

GUEST_DISK_ERRORS = Counter(
    "unkai_agent_guest_disk_errors_total",
    "Times that a failing disk of the host has paused a guest, by what failed.",
    ["error"],
)
for _error in (*(error.value for error in DiskError), "UNKNOWN"):
    GUEST_DISK_ERRORS.labels(_error)  # from 0 on: a rise is seen of the first one, too


class DiskPauses:
    """One guest's pauses by its disks."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._shown = False

    def error(self, domain: Domain) -> UnkaiError | None:
        """Return what to show of a pause by an I/O error; None: it was shown, so resume now."""
        self._retries.trouble()
        self._shown = not self._shown
        if not self._shown:
            return None
        error = machines.paused_by_error(domain.instance_id, domain.disk_error)
        GUEST_DISK_ERRORS.labels(error.metadata["disk_error"]).inc()
        return error

"""What to do next about one machine: a pure function of what shall be and what is.

    shall be   is                              act
    gone       anything                        REMOVE
    off        on                              STOP
    off        off                             HOLD (made, and off)
    on         on                              KEEP, REBOOT when one is asked for
    on         on, paused by us for its ports  PLUG: wait until they are installed, then resume
    on         on, paused otherwise            RESUME
    on         on, shutting down               WATCH until it is off, or stayed on after all
    on         off since the guest wished so   REST until a newer generation
    on         off, without the leave to run   AWAIT
    on         off, with it                    RUN
    any        a disk that must exist is gone  LOSE (but a guest that shall stop is stopped)

Nothing here looks at a clock or acts; `worker.py` does both.
"""

from __future__ import annotations

from enum import Enum, auto

from unkai_agent.compute.driver import Domain, DomainState, OffReason
from unkai_agent.domain.machines import LedgerEntry, Power


class Act(Enum):
    """What the worker does next."""

    REMOVE = auto()
    STOP = auto()
    HOLD = auto()
    KEEP = auto()
    REBOOT = auto()
    PLUG = auto()
    RESUME = auto()
    WATCH = auto()
    REST = auto()
    AWAIT = auto()
    RUN = auto()
    LOSE = auto()


def is_on(domain: Domain | None) -> bool:
    """Tell whether the domain's process is there."""
    return domain is not None and domain.state is not DomainState.OFF


def next_act(
    entry: LedgerEntry,
    domain: Domain | None,
    *,
    boot_id: str,
    permitted: bool,
    disk_missing: bool,
) -> Act:
    """Say what to do about a machine. `disk_missing`: one that must exist is not there."""
    if entry.removal is not None:
        return Act.REMOVE
    if is_on(domain):
        assert domain is not None
        return _act_on_running(entry, domain, disk_missing=disk_missing)
    if disk_missing:
        return Act.LOSE
    if entry.spec.power is Power.OFF:
        return Act.HOLD
    if entry.guest_shutdown or _went_by_itself(entry, domain, boot_id):
        return Act.REST
    return Act.RUN if permitted else Act.AWAIT


def _act_on_running(entry: LedgerEntry, domain: Domain, *, disk_missing: bool) -> Act:
    if entry.spec.power is Power.OFF:
        return Act.STOP
    if domain.state is DomainState.STOPPING or entry.stop_asked:
        return Act.WATCH
    if disk_missing:
        return Act.LOSE
    if domain.state is DomainState.PAUSED:
        # A guest that met an error of its disk has run: that pause is not the one of its start.
        return Act.PLUG if entry.plugging and not domain.paused_by_error else Act.RESUME
    # A start that was not noted yet counts as the reboot that was asked for.
    if entry.running and entry.spec.reboot_serial > entry.reboot_serial_done:
        return Act.REBOOT
    return Act.KEEP


def _went_by_itself(entry: LedgerEntry, domain: Domain | None, boot_id: str) -> bool:
    """Tell whether the guest powered itself off.

    Believed only of a guest seen running in this boot: the reason that a hypervisor tells
    after the host restarted is about a run long past.
    """
    return (
        domain is not None
        and domain.off_reason is OffReason.GUEST_SHUTDOWN
        and entry.running
        and not entry.stop_asked
        and entry.boot_id == boot_id
    )

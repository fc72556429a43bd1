"""A start that is paused until the machine's ports are installed: when it may go on. Pure.

A guest that ran at once would ask for an address before its switch knows it. So it waits for OVN,
and a little for its networks' metadata service. One that has run before goes on after the deadline
whatever OVN says, since guests do not depend on OVN's centre; one that never ran is undone, and
tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from unkai_agent.domain.machines import LedgerEntry
from unkai_agent.domain.ports import PortSpec, PortStatus
from unkai_agent.network.driver import Wiring
from unkai_wire.errors import Unavailable, UnkaiError

PORTS_S = 30.0
"""How long ports may take to be installed; in a sound cloud it is a fraction of a second."""
SITES_S = 5.0
"""How long the metadata service of installed ports is waited for; images ask it more than once."""
LOOK_S = 0.05
"""Between the first looks at the ports."""
_SLOWER = 8.0
"""Looks become rarer: one after each such part of the wait so far."""


def look_s(waited_s: float, most_s: float) -> float:
    """Return when to look again at ports that have been waited for so long; `most_s` at most."""
    return min(most_s, max(LOOK_S, waited_s / _SLOWER))


class Plug(Enum):
    """What becomes of a paused start."""

    WAIT = auto()
    RESUME = auto()
    GIVE_UP = auto()


class Plugging:
    """One machine's paused start under way; moments in monotonic seconds."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Give the ports their time from now on, unless they have it already."""
        if self._since_s is None:
            self._since_s = now_s

    def forget(self) -> None:
        """It is over."""
        self._since_s = None

    def waited_s(self, now_s: float) -> float:
        """Return how long it has been under way."""
        return 0.0 if self._since_s is None else now_s - self._since_s


def next_plug(
    entry: LedgerEntry, wirings: Mapping[str, Wiring], *, sites_up: bool, waited_s: float
) -> Plug:
    """Say what becomes of a paused start. `wirings`: by port id; empty: the switch is silent."""
    installed = all(
        port.port_id in wirings and wirings[port.port_id].installed for port in entry.spec.ports
    )
    if installed and (sites_up or waited_s >= SITES_S):
        return Plug.RESUME
    if waited_s < PORTS_S:
        return Plug.WAIT
    return Plug.GIVE_UP if entry.is_new else Plug.RESUME


def port_statuses(
    ports: Sequence[PortSpec], wirings: Mapping[str, Wiring]
) -> tuple[PortStatus, ...]:
    """Return the ports as they are shown, in the order of the spec."""
    return tuple(port_status(port, wirings.get(port.port_id)) for port in ports)


def not_installed(ports: Sequence[PortSpec], wirings: Mapping[str, Wiring]) -> Unavailable:
    """Make the error of a start that was given up: it names the first port that is missing."""
    for port in ports:
        wiring = wirings.get(port.port_id)
        if wiring is None or not wiring.installed:
            return _error(port, wiring)
    raise ValueError("all ports are installed")


def port_status(
    port: PortSpec, wiring: Wiring | None, failure: UnkaiError | None = None
) -> PortStatus:
    """Return one port as it is shown. `failure`: what kept it from being plugged in."""
    if failure is None and wiring is not None and wiring.installed:
        return PortStatus(port.port_id, installed=True)
    error = failure or _error(port, wiring)
    return PortStatus(port.port_id, installed=False, error=error.to_record())


def _error(port: PortSpec, wiring: Wiring | None) -> Unavailable:
    wiring = wiring or Wiring(False, 0, "PORT_UNKNOWN", "the host's switch does not answer")
    for reason, fix in (
        ("PORT_NOT_PLUGGED", "look at libvirt's log and at Open vSwitch on the host"),
        ("PORT_NO_DEVICE", "look at ovs-vswitchd's log on the host"),
        ("PORT_DUPLICATE", "remove the other one there by 'ovs-vsctl del-port'"),
        ("PORT_NOT_INSTALLED", "look at OVN's southbound database and the host's ovn-controller"),
        ("PORT_UNKNOWN", "look at ovs-vswitchd and ovsdb-server on the host"),
    ):
        if wiring.reason == reason:
            return Unavailable(
                f"port {port.port_id} is not installed on its host: {wiring.problem}",
                reason=reason,
                fix=fix,
                metadata={"port_id": port.port_id, "problem": wiring.problem},
                retry_after_s=1.0,
            )
    raise ValueError(f"{wiring.reason} is no reason of a port")

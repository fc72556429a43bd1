"""What a host's switch and its ovn-controller say of themselves, asked once for all checks.

By their own programs, each under a deadline: the doctor looks also where no agent runs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unkai_agent.network.ovs_database import Row, rows_of

_ASK_S = 4
CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class SwitchFacts:
    """How the switch stands."""

    trouble: str = ""
    """Why it does not answer; empty: it does."""
    said: Mapping[str, str] = field(default_factory=dict)
    """`Open_vSwitch.external_ids`."""
    bridges: Mapping[str, str] = field(default_factory=dict)
    """Datapath of each bridge, by name."""
    interfaces: Sequence[Row] = ()
    forwarder: str = ""
    """Why ovs-vswitchd does not answer; empty: it does."""
    controller: str = ""
    """What ovn-controller says of its connection to the southbound database, or why nothing."""


def look_at_switch(
    database: str, controller: str = "ovn-controller", forwarder: str = "ovs-vswitchd"
) -> SwitchFacts:
    """Ask the switch's database, ovs-vswitchd and ovn-controller.

    Those two by their names, or the paths of their control sockets.
    """
    try:
        own = _rows(database, "Open_vSwitch", "external_ids")
        bridges = _rows(database, "Bridge", "name", "datapath_type")
        columns = ("name", "type", "ofport", "error", "options", "external_ids")
        interfaces = _rows(database, "Interface", *columns)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return SwitchFacts(_words(error))
    return SwitchFacts(
        said=own[0]["external_ids"] if own else {},
        bridges={row["name"]: row["datapath_type"] or "system" for row in bridges},
        interfaces=interfaces,
        forwarder=_forwarder(forwarder),
        controller=_controller(controller),
    )


def _forwarder(target: str) -> str:
    try:
        _run("ovs-appctl", f"--timeout={_ASK_S}", "-t", target, "version")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return _words(error)
    return ""


def _controller(target: str) -> str:
    try:
        options = (f"--timeout={_ASK_S}", "-t", target)
        return _run("ovn-appctl", *options, "connection-status").strip()
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return _words(error)


def _rows(database: str, table: str, *columns: str) -> list[Row]:
    asked = ("--format=json", f"--columns={','.join(columns)}", "list", table)
    return rows_of(_run("ovs-vsctl", f"--timeout={_ASK_S}", f"--db={database}", *asked))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S + 1, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        raise ValueError(lines[-1])
    return done.stdout


def _words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not installed"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {_ASK_S} s"
    return str(error)

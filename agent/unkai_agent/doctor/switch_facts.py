"""What a host's switch and its ovn-controller say of themselves, asked once for all checks.

By their own programs, each under a deadline: the doctor looks also where no agent runs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unkai_agent.network.ovs_database import Row, rows_of
from unkai_agent.network.switch_programs import control_socket

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


def look_at_switch(database: str, controller_dir: Path) -> SwitchFacts:
    """Ask the switch's database, ovs-vswitchd beside it, and ovn-controller."""
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
        forwarder=_forwarder(Path(database.removeprefix("unix:")).parent),
        controller=_controller(controller_dir),
    )


def _forwarder(folder: Path) -> str:
    try:
        _ask("ovs-appctl", control_socket(folder, "ovs-vswitchd"), "version")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return _words(error)
    return ""


def _controller(folder: Path) -> str:
    try:
        return _ask("ovn-appctl", control_socket(folder, "ovn-controller"), "connection-status")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return _words(error)


def _ask(program: str, target: Path, question: str) -> str:
    return _run(program, f"--timeout={_ASK_S}", "-t", str(target), question).strip()


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
        is_program = "/" not in str(error.filename)
        return f"{error.filename} is not {'installed' if is_program else 'there'}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {_ASK_S} s"
    return str(error)

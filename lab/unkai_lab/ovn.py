"""What OVN's central part in the control cell consists of: two databases and ovn-northd.

Both databases ask for certificates; who gets in where, `unkai_scheduler.ovn_certificates` says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from unkai_lab.spec import CONTROL, LabPaths, LabSpec

PROBE_MS = 60_000
"""A client that is busy reading everything is not asked for an answer sooner."""
SCHEMAS = Path("/usr/share/ovn")


@dataclass(frozen=True, slots=True)
class OvnDatabase:
    """One of OVN's two databases."""

    program: str
    """Its server's name among the control cell's programs."""
    schema: str
    name: str
    root: str
    """Table whose one row names the listeners."""
    port: int
    role: str = ""


NORTHBOUND = OvnDatabase("ovn-nb", "ovn-nb.ovsschema", "OVN_Northbound", "NB_Global", 6641)
SOUTHBOUND = OvnDatabase(
    "ovn-sb", "ovn-sb.ovsschema", "OVN_Southbound", "SB_Global", 6642, "ovn-controller"
)
NORTHD = "ovn-northd"
CENTRAL_PROGRAMS = (NORTHBOUND.program, SOUTHBOUND.program, NORTHD)


def ovn_folder(paths: LabPaths) -> Path:
    """Return where OVN's databases, sockets and certificates lie."""
    return paths.cell(CONTROL) / "ovn"


def ovn_pki(paths: LabPaths, name: str) -> Path:
    """Return the folder of certificates: the databases' (CONTROL), or a scheduler's."""
    return ovn_folder(paths) / f"pki-{name}"


def ovn_socket(paths: LabPaths, database: OvnDatabase) -> Path:
    """Return the unix socket by which root does everything."""
    return ovn_folder(paths) / f"{database.program}.sock"


def remote(spec: LabSpec, database: OvnDatabase) -> str:
    """Return the address of a database as OVN's programs write it."""
    return f"ssl:{spec.address(CONTROL)}:{database.port}"


def server_command(paths: LabPaths, database: OvnDatabase) -> list[str]:
    """Return the command line of a database's server."""
    folder, pki = ovn_folder(paths), ovn_pki(paths, CONTROL) / database.program
    return [
        *("ovsdb-server", str(folder / f"{database.program}.db"), "--no-chdir"),
        *("-vconsole:info", "-vsyslog:off", "-vfile:off"),
        f"--remote=punix:{ovn_socket(paths, database)}",
        f"--remote=db:{database.name},{database.root},connections",
        f"--unixctl={folder / database.program}.ctl",
        f"--private-key={pki}.key",
        f"--certificate={pki}.crt",
        f"--ca-cert={pki}-ca.crt",
    ]


def northd_command(paths: LabPaths) -> list[str]:
    """Return the command line of the program that makes one database of the other."""
    return [
        *(NORTHD, "-vconsole:info", "-vsyslog:off", "-vfile:off"),
        f"--ovnnb-db=unix:{ovn_socket(paths, NORTHBOUND)}",
        f"--ovnsb-db=unix:{ovn_socket(paths, SOUTHBOUND)}",
        f"--unixctl={ovn_folder(paths) / NORTHD}.ctl",
    ]


def first_transaction(spec: LabSpec, database: OvnDatabase) -> str:
    """Return what a new database begins with: the row that names its listener."""
    listener = {
        "target": f"pssl:{database.port}:{spec.address(CONTROL)}",
        "inactivity_probe": PROBE_MS,
        **({"role": database.role} if database.role else {}),
    }
    connections = {"connections": ["named-uuid", "listener"]}
    return json.dumps(
        [
            database.name,
            {"op": "insert", "table": "Connection", "row": listener, "uuid-name": "listener"},
            {"op": "insert", "table": database.root, "row": connections},
        ]
    )


def needed_programs() -> tuple[str, ...]:
    """Return the programs that a lab with networks needs beside the others."""
    schemas = (str(SCHEMAS / each.schema) for each in (NORTHBOUND, SOUTHBOUND))
    missing = tuple(path for path in schemas if not Path(path).is_file())
    names = ("ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl", "ethtool")
    return (*names, NORTHD, "ovn-nbctl", "ovn-sbctl", "ovn-controller", *missing)

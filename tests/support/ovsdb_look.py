"""OVSDB tables as the command-line tools of OVN and Open vSwitch show them, `--format=json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Database = Mapping[str, Sequence[Row]]
"""Rows by table; sets are frozensets (a value alone is one of one), maps are dicts."""
Run = Callable[[Sequence[str]], str]
"""Runs a command to its end and returns what it printed; raises when it fails."""

NORTHBOUND = [
    "NB_Global",
    "Logical_Switch",
    "Logical_Switch_Port",
    "Port_Group",
    "ACL",
    "QoS",
    "DHCP_Options",
    "Logical_Router",
    "Logical_Router_Port",
    "Logical_Router_Static_Route",
    "NAT",
    "Load_Balancer",
    "Load_Balancer_Health_Check",
    "HA_Chassis_Group",
    "HA_Chassis",
]
SOUTHBOUND = ["Chassis", "Port_Binding"]
SWITCH = ["Bridge", "Port", "Interface", "Open_vSwitch"]


def read(run: Run, command: Sequence[str], tables: Sequence[str]) -> Database:
    """Read tables, all by one process."""
    argv = [*command, "--format=json", "--data=json"]
    for number, table in enumerate(tables):
        argv += [*(["--"] if number else []), "list", table]
    printed = run(argv)
    decoder, found = json.JSONDecoder(), []
    while printed := printed.lstrip():
        value, end = decoder.raw_decode(printed)
        found.append(value)
        printed = printed[end:]
    if len(found) != len(tables):
        raise ValueError(f"{argv[0]} printed {len(found)} tables, not {len(tables)}")
    return {
        table: [
            dict(zip(one["headings"], map(_value, values), strict=True)) for values in one["data"]
        ]
        for table, one in zip(tables, found, strict=True)
    }


def _value(value: Any) -> Any:
    """Return an atom, a frozenset or a dict (RFC 7047, section 5.1)."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "map":
        return {_value(key): _value(item) for key, item in content}
    return frozenset(map(_value, content)) if kind == "set" else content


def members(value: Any) -> frozenset[Any]:
    """Return a column's set: the tools show one of one member as the member."""
    return value if isinstance(value, frozenset) else frozenset([value])

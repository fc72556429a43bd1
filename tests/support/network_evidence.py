"""What networks are in a lab: seen by SQL, ovn-nbctl, ovn-sbctl, ovs-vsctl and /run/netns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import pytest

from tests.support import ovsdb_look
from tests.support.evidence import tables_of
from tests.support.findings import Finding
from tests.support.network_check.sight import HostSight, Sight
from tests.support.network_checker import check
from unkai_lab.lab import Lab
from unkai_lab.ovn import NORTHBOUND, SOUTHBOUND, ovn_socket
from unkai_lab.spec import CONTROL, PHYSICAL_NETWORK

SETTLED_S = 120.0
"""Longest that a cloud may take to be as the store says once nobody asks for anything."""


def look(lab: Lab) -> Sight:
    """Look at everything; a lab at work moves meanwhile."""
    tables = tables_of(lab)
    ids = {row["name"]: row["id"] for row in tables["hosts"]}
    return Sight(
        tables,
        northbound_of(lab),
        _database(lab, "ovn-sbctl", ovn_socket(lab.paths, SOUTHBOUND), ovsdb_look.SOUTHBOUND),
        [_host(lab, name, ids[name]) for name in lab.spec.host_names],
        {PHYSICAL_NETWORK: {ids[name] for name in lab.spec.gateway_hosts}},
    )


def northbound_of(lab: Lab) -> ovsdb_look.Database:
    """Return the rows of OVN's northbound database."""
    return _database(lab, "ovn-nbctl", ovn_socket(lab.paths, NORTHBOUND), ovsdb_look.NORTHBOUND)


def wait_agreed(lab: Lab, deadline_s: float = SETTLED_S) -> None:
    """Wait until store, OVN and switches agree; fail with what does not."""
    end = time.monotonic() + deadline_s
    while found := check(look(lab)):
        if time.monotonic() > end:
            pytest.fail(f"{len(found)} findings after {deadline_s:g} s:\n" + lines(found))
        time.sleep(0.5)


def lines(found: Sequence[Finding]) -> str:
    """Return findings for people."""
    return "\n".join(map(str, found[:40]))


def _database(lab: Lab, program: str, socket: object, tables: Sequence[str]) -> ovsdb_look.Database:
    command = [program, "--timeout=20", f"--db=unix:{socket}"]
    return ovsdb_look.read(partial(_run, lab, CONTROL), command, tables)


def _host(lab: Lab, name: str, ident: str) -> HostSight:
    command = ["ovs-vsctl", "--timeout=20"]
    switch = ovsdb_look.read(partial(_run, lab, name), command, ovsdb_look.SWITCH)
    listed = lab.run(name, ["ls", "/run/netns"], check=False).stdout
    return HostSight(ident, switch, listed.split())


def _run(lab: Lab, cell: str, argv: Sequence[str]) -> str:
    return lab.run(cell, argv).stdout

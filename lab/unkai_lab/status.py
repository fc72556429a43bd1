"""What a lab's cells are doing, read from the machine and from the scheduler."""

from __future__ import annotations

from typing import Any

from unkai.host.v1 import host_pb2
from unkai_lab.cells import HOLDER
from unkai_lab.database import server_of
from unkai_lab.external import INTERNET
from unkai_lab.lab import Lab
from unkai_lab.ovn import CENTRAL_PROGRAMS
from unkai_lab.spec import CONTROL, EXTERNAL, FLEET
from unkai_lab.switches import SWITCH_PROGRAMS

HOST_PROGRAMS = ("virtlogd", "libvirtd", "agent")


def programs_of(lab: Lab, cell: str) -> tuple[str, ...]:
    """Return the names of a cell's programs, in the order they are started."""
    spec = lab.spec
    if cell == CONTROL:
        server = server_of(spec, lab.paths)
        database = (server.program,) if server else ()
        ovn = CENTRAL_PROGRAMS if spec.networks else ()
        scheduler = ("scheduler",) if spec.schedulers == 1 else ()
        return (*spec.etcd_names, *database, *ovn, *scheduler)
    if cell == EXTERNAL:
        return (INTERNET,)
    if cell in spec.scheduler_names:
        return ("scheduler",)
    if cell == FLEET:
        return ("agent",)
    return (*(SWITCH_PROGRAMS if spec.networks else ()), *HOST_PROGRAMS)


def lab_status(lab: Lab) -> dict[str, Any]:
    """Return the lab's state as plain values.

    A cell is UP when its namespaces and all its programs are there, DEGRADED when a program is
    missing, DOWN when its namespaces are.
    """
    registered = lab.hosts()
    cells = [_cell_status(lab, cell, registered) for cell in lab.spec.cells]
    return {
        "name": lab.spec.name,
        "state": "UP" if all(cell["state"] == "UP" for cell in cells) else "DEGRADED",
        "folder": str(lab.paths.folder),
        "socket": str(lab.socket()),
        "sockets": {name: str(lab.socket(name)) for name in lab.spec.scheduler_names},
        "network": str(lab.spec.network),
        "hosts_registered": sum(h.state == host_pb2.Host.STATE_UP for h in registered),
        "hosts_wanted": lab.spec.hosts + lab.spec.simulated,
        "cells": cells,
    }


def _cell_status(lab: Lab, cell: str, registered: list[host_pb2.Host]) -> dict[str, Any]:
    running = {
        program: process.pid
        for program in programs_of(lab, cell)
        if (process := lab.site.worker(cell, program))
    }
    host = next((h for h in registered if h.name == cell), None)
    return {
        "name": cell,
        "state": _state(lab, cell, running),
        "address": lab.spec.address(cell),
        "programs": running,
        "guests": len(lab.qemu_pids(cell)),
        "registered": host_pb2.Host.State.Name(host.state)[6:] if host else "",
        "accelerator": host.accelerator if host else "",
    }


def _state(lab: Lab, cell: str, running: dict[str, int]) -> str:
    if not lab.site.running(cell, HOLDER):
        return "DOWN"
    return "UP" if set(running) == set(programs_of(lab, cell)) else "DEGRADED"

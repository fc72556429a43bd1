"""A lab for tests: real etcd, libvirt and QEMU; up once for a session, down whatever happens."""

from __future__ import annotations

import ipaddress
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from unkai_lab import ovn
from unkai_lab.client import open_channel
from unkai_lab.lab import Lab
from unkai_lab.preflight import CONTROL_PROGRAMS, HOST_PROGRAMS
from unkai_lab.spec import LabPaths, LabSpec
from unkai_lab.teardown import leftovers, take_down

T = TypeVar("T")
_LISTEN = "0A"
"""State TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""


def skip_without_a_lab_machine(*, networks: bool = False) -> None:
    """Skip the test where no lab can be: not root, or an engine is not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = CONTROL_PROGRAMS + HOST_PROGRAMS + (ovn.needed_programs() if networks else ())
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"a lab needs root and {', '.join(missing) or 'its programs'}")


def unique(spec: LabSpec) -> LabSpec:
    """Return the spec with a name of its own, so that test runs may go side by side."""
    return replace(spec, name=f"{spec.name}-{os.getpid()}"[:16])


@contextmanager
def running_lab(spec: LabSpec) -> Iterator[Lab]:
    """Bring a lab up, and down again; fail when anything of it stays."""
    paths = LabPaths.of(spec.name)
    try:
        lab = Lab.create(spec, print)
        lab.up()
        yield lab
        lab.site.reap()
    finally:
        take_down(paths)
    assert leftovers(paths) == []


@contextmanager
def scheduler_channel(lab: Lab) -> Iterator[grpc.Channel]:
    """Open a channel to the lab's scheduler, as root on this machine."""
    with open_channel(lab.paths.scheduler_socket) as channel:
        yield channel


def wait_for(probe: Callable[[], T | None], claim: str, deadline_s: float = 30.0) -> T:
    """Return the probe's first true answer; fail with the claim and the last answer."""
    end = time.monotonic() + deadline_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s:g} s: {claim}; last answer: {answer!r}")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc says of a process."""

    uid: int
    effective_capabilities: int
    no_new_privileges: bool
    seccomp_mode: int


def process_facts(pid: int) -> ProcessFacts:
    """Read `/proc/PID/status` (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}
    return ProcessFacts(
        uid=int(fields["Uid"][1]),
        effective_capabilities=int(fields["CapEff"][0], 16),
        no_new_privileges=fields["NoNewPrivs"][0] == "1",
        seccomp_mode=int(fields["Seccomp"][0]),
    )


def listening_addresses(lab: Lab, cell: str) -> list[tuple[str, int]]:
    """Return every TCP address and port that is listened on in a cell."""
    text = lab.run(cell, ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout
    rows = [line.split() for line in text.splitlines() if not line.lstrip().startswith("sl")]
    return sorted({_address(row[1]) for row in rows if row[3] == _LISTEN})


def _address(text: str) -> tuple[str, int]:
    raw, _, port = text.partition(":")
    # An address is printed as 32-bit numbers in the machine's byte order (proc_net(5)).
    words = [bytes.fromhex(raw[i : i + 8])[::-1] for i in range(0, len(raw), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)

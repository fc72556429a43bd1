"""Story: live metrics decide where new instances go.

A program that is not ours loads one host inside its own cgroup: CPU, then memory, then I/O. While
it runs, nothing new goes there though the other hosts fit; once it ends, some does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.support.acceptance import Shows, count
from tests.support.lab import wait_for
from tests.support.user import User
from unkai_lab.lab import Lab

LOADED = "h1"
LAUNCHES = count(20, least=6)
SHOWS_IN_S = 15.0
"""How long a load may take to be seen: some samples, smoothed."""
FORGOTTEN_IN_S = 90.0
"""How long a load that ended may still keep instances away."""

CPU = """
import multiprocessing
def burn():
    while True:
        pass
for _ in range(4):
    multiprocessing.Process(target=burn).start()
"""
MEMORY = """
import time
held = bytearray(3400 << 20)
held[::4096] = b'x' * len(held[::4096])
time.sleep(3600)
"""
IO = """
import os, sys
path = sys.argv[1]
block = os.urandom(1 << 20)
while True:
    with open(path, 'wb', buffering=0) as file:
        for _ in range(64):
            file.write(block)
            os.fsync(file.fileno())
"""
LOADS = {
    "cpu": (CPU, "cpu_used_ratio"),
    "memory": (MEMORY, "memory_available_bytes"),
    "io": (IO, "io_pressure_ratio"),
}


@contextmanager
def _load(lab: Lab, kind: str) -> Iterator[None]:
    """Run a program that loads the host from inside its own cgroup."""
    file = lab.paths.cell(LOADED) / "load.bin"
    argv = [sys.executable, "-c", LOADS[kind][0], str(file)]
    lab.site.start(LOADED, "load", argv)
    try:
        yield
    finally:
        for pid in lab.site.pids(LOADED):
            if "-c" in _words(pid) and LOADS[kind][0] in _words(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        file.unlink(missing_ok=True)


def _words(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")
    except OSError:
        return []


def _one(user: User, name: str) -> tuple[str, dict[str, Any]]:
    """Launch an instance; return its host and the decision, and delete it."""
    made = user.launch(name)
    decision = user.explain(made.id)
    user.act("Delete", made.id)
    return str(made.host_name), decision


def _inputs(decision: dict[str, Any], host: str) -> dict[str, float]:
    return next(c["inputs"] for c in decision["candidates"] if c["host_name"] == host)


def _is_worse(kind: str, figures: dict[str, float], others: list[dict[str, float]]) -> bool:
    name = LOADS[kind][1]
    if kind == "memory":
        return all(figures[name] < other[name] / 2 for other in others)
    return all(figures[name] > other[name] + 0.25 for other in others)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", list(LOADS))
def test_nothing_new_goes_to_a_loaded_host_while_idle_ones_fit(
    lab: Lab, user: User, shows: Shows, kind: str
) -> None:
    name = LOADS[kind][1]
    others = [host for host in lab.spec.host_names if host != LOADED]
    with _load(lab, kind):
        wait_for(
            lambda: _is_worse(
                kind,
                user.hosts()[LOADED]["usage"],
                [user.hosts()[other]["usage"] for other in others],
            ),
            f"the {kind} load of {LOADED} is in its samples",
            SHOWS_IN_S,
        )
        time.sleep(4)  # two more samples
        chosen = []
        for number in range(LAUNCHES):
            host, decision = _one(user, f"{kind}-{number}")
            chosen.append(host)
            assert decision["host_name"] == host
            assert {c["host_name"] for c in decision["candidates"]} == set(lab.spec.host_names)
            assert name in _inputs(decision, LOADED)
        sampled = {h: _inputs(decision, h)[name] for h in lab.spec.host_names}
    assert LOADED not in chosen
    begun, later = time.monotonic(), []
    while LOADED not in later and time.monotonic() - begun < FORGOTTEN_IN_S:
        # Several at once, so that a spreading scheduler has reason to use every host.
        answers = [user.create(f"{kind}-after-{len(later)}-{n}") for n in range(3)]
        for answer in answers:
            user.finish(answer.operation)
        later += [user.get(answer.instance.id).host_name for answer in answers]
        user.delete_all()
    assert LOADED in later
    figures = ", ".join(f"{host} {value:.3g}" for host, value in sampled.items())
    shows(
        f"3.{list(LOADS).index(kind) + 1} {kind} load",
        f"0 of {len(chosen)} on {LOADED} ({name}: {figures}); used again "
        f"{time.monotonic() - begun:.0f} s after its end",
    )

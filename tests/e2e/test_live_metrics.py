"""Story: live metrics decide where new instances go.

Programs that are not ours load hosts inside their own cgroups: CPU, memory, I/O. While they run,
nothing new goes there though other hosts fit; once they end, some does. The usage stream is
recorded meanwhile, and every decision is made again from the record: samples are its only input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import pytest

from tests.support.acceptance import Shows, count
from tests.support.lab import wait_for
from tests.support.usage import HISTORY_S, Placed, UsageRecord, decide_again, place_behind
from tests.support.user import User
from unkai.compute.v1 import instance_pb2
from unkai_cli.client import Client
from unkai_cli.settings import Context
from unkai_lab.lab import Lab

LOADED = "h1"
LAUNCHES = count(20, least=6)
FEWER = count(12, least=4)
BURST = count(20, least=8)
SHOWS_IN_S = 30.0
"""How long a load may take to be seen: some samples, smoothed."""
FORGOTTEN_IN_S = 60.0
"""How long a load that ended may keep instances away, the launches included that find it out."""
POLICIES = (
    instance_pb2.Instance.PLACEMENT_POLICY_SPREAD,
    instance_pb2.Instance.PLACEMENT_POLICY_PACK,
)

BURN = """
import multiprocessing, sys
def burn():
    while True:
        pass
for _ in range(int(sys.argv[2])):
    multiprocessing.Process(target=burn).start()
"""
HOLD = """
import sys, time
held = bytearray(int(sys.argv[2]) << 20)
held[::4096] = b'x' * len(held[::4096])
time.sleep(3600)
"""
WRITE = """
import os, sys
block = os.urandom(1 << 20)
while True:
    with open(sys.argv[1], 'wb', buffering=0) as file:
        for _ in range(64):
            file.write(block)
            os.fsync(file.fileno())
"""
READ = """
import mmap, os, sys
block = mmap.mmap(-1, 1 << 20)
with open(sys.argv[1], 'wb') as file:
    for _ in range(64):
        file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
while os.lseek(file, 0, os.SEEK_SET) == 0:
    while os.readv(file, [block]):
        pass
"""
Usage = dict[str, Any]


def _cpu(usage: Usage) -> float:
    # On a crowded machine a load gets little of the CPU, and waits instead.
    return float(usage["cpu_used_ratio"] + usage["cpu_pressure_ratio"])


def _held(usage: Usage) -> float:
    return 1 - float(usage["memory_available_bytes"] / usage["memory_total_bytes"])


def _io(usage: Usage) -> float:
    return float(usage["io_pressure_ratio"])


class Load(NamedTuple):
    """A program that loads a host."""

    program: str
    argument: str
    taken: Callable[[Usage], float]
    """How much of a host is taken, from its figures: 0 to 1 or more."""
    least: float
    """How much more of it than of an idle host: a sample with less shows no load."""
    told_by: str
    """The input of a decision that tells."""


LOADS: dict[str, Load] = {
    "cpu": Load(BURN, "4", _cpu, 0.5, "cpu_used_ratio"),
    "memory": Load(HOLD, "3400", _held, 0.5, "memory_available_bytes"),
    "io": Load(WRITE, "", _io, 0.25, "io_pressure_ratio"),
    "cpu of two": Load(BURN, "2", _cpu, 0.5, "cpu_used_ratio"),
    "memory by 60 %": Load(HOLD, "2457", _held, 0.5, "memory_available_bytes"),
    "direct reads": Load(READ, "", _io, 0.25, "io_pressure_ratio"),
}
ACCEPTANCE = ("cpu", "memory", "io")
OTHERS = tuple(kind for kind in LOADS if kind not in ACCEPTANCE)


@pytest.fixture(scope="module")
def record(lab: Lab, lab_user: User) -> Iterator[UsageRecord]:
    """The usage stream of all hosts, recorded as any user may, with all history that counts."""
    names = {row["id"]: name for name, row in lab_user.hosts().items()}
    client = Client(Context("test", socket=str(lab.paths.scheduler_socket)))
    made = UsageRecord(client, names)
    time.sleep(HISTORY_S)
    yield made
    made.close()


@contextmanager
def _load(lab: Lab, user: User, kind: str, hosts: Sequence[str] = (LOADED,)) -> Iterator[None]:
    """Run programs that load hosts from inside their own cgroups, once the samples show it."""
    load = LOADS[kind]
    file = lab.paths.cell(hosts[0]) / "load.bin"
    with ExitStack() as ends:
        for host in hosts:
            ends.callback(_end, lab, host, load.program)
            argv = [sys.executable, "-c", load.program, str(file), load.argument]
            lab.site.start(host, "load", argv)
        ends.callback(file.unlink, missing_ok=True)
        # Whether a host is loaded is told by two samples, and one may hold a part of it only, or
        # the machine below gave nobody its CPUs meanwhile: three that show it are a load.
        shown: dict[str, set[str]] = {host: set() for host in hosts}

        def shows() -> bool:
            for host, sample_time in _loaded(user, load, hosts):
                shown[host].add(sample_time)
            return all(len(times) >= 3 for times in shown.values())

        wait_for(shows, f"three samples show {kind}", SHOWS_IN_S)
        yield


def _loaded(user: User, load: Load, hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield which of the hosts show the load, and the time of the sample that does."""
    usages = {name: row["usage"] for name, row in user.hosts().items()}
    if not all(usages.values()):
        return  # a leader that has just begun has heard nothing of some
    idle = max(load.taken(usage) for name, usage in usages.items() if name not in hosts)
    for host in hosts:
        if load.taken(usages[host]) > idle + load.least:
            yield host, usages[host]["sample_time"]


def _end(lab: Lab, host: str, program: str) -> None:
    for pid in lab.site.pids(host):
        if program in _words(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _words(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")
    except OSError:
        return []


def _launch_one_by_one(user: User, kind: str, number: int) -> list[Placed]:
    """Launch instances, each deleted before the next, under both policies in turn."""
    placed = []
    for n in range(number):
        name = f"{kind.split(maxsplit=1)[0]}-{n}"
        made = user.launch(name, placement_policy=POLICIES[n % 2])
        decision = user.explain(made.id)
        assert decision["host_name"] == made.host_name
        placed.append(Placed(decision, made, user.act("Delete", made.id)))
    return placed


def _inputs(decision: dict[str, Any], host: str) -> dict[str, float]:
    return next(c["inputs"] for c in decision["candidates"] if c["host_name"] == host)


def _with_history(record: UsageRecord, placed: Sequence[Placed]) -> list[Placed]:
    """Return the decisions whose history is recorded: not those made soon after a new leader."""
    return [one for one in placed if one.at_s > record.begun_s + HISTORY_S]


def _check_decided_by_samples_alone(
    user: User, record: UsageRecord, placed: Sequence[Placed]
) -> None:
    """Every figure was in the stream, and the stream alone gives the same decisions again.

    With two hosts swapped in the record and nowhere else, the other one is kept out.
    """
    hosts, samples = user.hosts(), record.samples()
    known = _with_history(record, placed)
    assert known
    for one in known:
        for candidate in one.decision["candidates"]:
            stream = [s for s in samples if s.host_name == candidate["host_name"]]
            behind = place_behind(candidate, stream)
            assert behind is not None, candidate
            age_s = one.wall_s - stream[behind].usage.sample_time.timestamp()
            # A decision bears the time when its round began: samples may come during it.
            assert -2.0 <= age_s <= candidate["inputs"]["sample_age_s"] + 2.0
    # Moments are known to some milliseconds only, and a sample on the other side of one changes
    # figures a little: what must be the same is who is kept out.
    for again in decide_again(hosts, samples, known):
        assert again.host_name != LOADED, again
        assert {c.host_name for c in again.candidates} == set(hosts)
    other = next(name for name in hosts if name != LOADED)
    swapped = {LOADED: other, other: LOADED}
    decisions = decide_again(hosts, samples, known, told_by=lambda name: swapped.get(name, name))
    assert other not in {decision.host_name for decision in decisions}


def _used_again_after_s(user: User, begun: float) -> float:
    """Launch until an instance goes to the host that was loaded; return the seconds since."""
    later: list[str] = []
    while LOADED not in later:
        assert time.monotonic() - begun < FORGOTTEN_IN_S, later
        # Several at once, so that a spreading scheduler has reason to use every host.
        answers = [user.create(f"after-{len(later)}-{n}") for n in range(3)]
        decided = time.monotonic()
        for answer in answers:
            user.finish(answer.operation)
        later += [user.get(answer.instance.id).host_name for answer in answers]
        user.delete_all()
    return decided - begun


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ACCEPTANCE)
def test_nothing_new_goes_to_a_loaded_host_while_idle_ones_fit(
    lab: Lab, user: User, record: UsageRecord, shows: Shows, kind: str
) -> None:
    name = LOADS[kind].told_by
    with _load(lab, user, kind):
        placed = _launch_one_by_one(user, kind, LAUNCHES)
        end = time.monotonic() + 2 * HISTORY_S
        while not _with_history(record, placed) and time.monotonic() < end:
            placed += _launch_one_by_one(user, kind, 2)
    ended = time.monotonic()

    wrong = [one for one in placed if one.decision["host_name"] == LOADED]
    assert not wrong, _told(wrong)
    for one in _with_history(record, placed):  # a new leader may have begun without some hosts
        fitted = {c["host_name"] for c in one.decision["candidates"]}
        assert fitted == set(lab.spec.host_names), _told([one])
    _check_decided_by_samples_alone(user, record, placed)
    back_s = _used_again_after_s(user, ended)
    last = placed[-1].decision
    figures = ", ".join(f"{h} {_inputs(last, h)[name]:.3g}" for h in lab.spec.host_names)
    shows(
        f"3.{ACCEPTANCE.index(kind) + 1} {kind} load",
        f"0 of {len(placed)} on {LOADED} ({name}: {figures}; margin {_margin(placed):.3f}); "
        f"used again {back_s:.0f} s after its end",
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", OTHERS)
def test_loads_of_other_kinds_keep_instances_away_too(lab: Lab, user: User, kind: str) -> None:
    with _load(lab, user, kind):
        placed = _launch_one_by_one(user, kind, FEWER)

    wrong = [one for one in placed if one.decision["host_name"] == LOADED]
    assert not wrong, _told(wrong)
    print(f"{kind}: margin {_margin(placed):.3f}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["cpu", "io"])
def test_the_one_idle_host_of_three_gets_all_that_fit(lab: Lab, user: User, kind: str) -> None:
    loaded = lab.spec.host_names[:-1]
    with _load(lab, user, kind, loaded):
        placed = _launch_one_by_one(user, kind, FEWER)

    chosen = {one.decision["host_name"] for one in placed}
    assert chosen == {lab.spec.host_names[-1]}, _told(placed)


@pytest.mark.timeout(600)
def test_a_burst_fills_the_idle_hosts_before_the_loaded_one(lab: Lab, user: User) -> None:
    with _load(lab, user, "memory"):
        answers = [user.create(f"burst-{n}") for n in range(BURST)]
        for answer in answers:
            user.finish(answer.operation, timeout_s=300)
        decisions = [user.explain(answer.instance.id) for answer in answers]

    on_loaded = [d for d in decisions if d["host_name"] == LOADED]
    assert len(on_loaded) < BURST / 2
    for decision in on_loaded:
        assert [c["host_name"] for c in decision["candidates"]] == [LOADED], decision["summary"]


def _told(placed: Sequence[Placed]) -> str:
    """Return all that went into decisions, for whoever reads a failure."""
    return json.dumps([one.decision for one in placed], indent=1)


def _margin(placed: Sequence[Placed]) -> float:
    """By how much of 1 the worst idle host beat the loaded one, at the least."""
    margins = []
    for one in placed:
        totals = {c["host_name"]: c["total_score"] for c in one.decision["candidates"]}
        loaded = totals.pop(LOADED)
        margins.append((min(totals.values()) - loaded) / 65535)
    return min(margins)

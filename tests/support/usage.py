"""The public usage stream, recorded, and decisions made again from what was recorded.

A decision is a function of samples, claims and time. So whoever records the stream that any user
may watch can make every decision again with the pure pipeline, and can ask what would have been
decided had only the samples been others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tests.support.fleets import WEIGHTS, a_host
from unkai_cli.client import Client
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.live_figures import RECENT_SAMPLES, Sampled
from unkai_scheduler.placement.pipeline import decide
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_wire.errors import UnkaiError

_FIGURES = tuple(f.name for f in fields(HostUsage) if f.name != "sample_time")
HISTORY_S = 2.0 * RECENT_SAMPLES + 4
"""How long samples count: decisions can be made again from a record that is longer."""
_MACHINE_FIGURES = tuple(f.name for f in fields(MachineUsage))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One sample as it came by the stream."""

    at_s: float
    """By the monotonic clock, which all processes of a machine share."""
    host_name: str
    usage: HostUsage
    machines: tuple[MachineUsage, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """One decision, and the life of the instance it was made for."""

    decision: Mapping[str, Any]
    instance: Any
    deletion: Any
    """The operation that deleted it."""

    @property
    def wall_s(self) -> float:
        """When it was decided, in seconds since 1970."""
        return datetime.fromisoformat(self.decision["decide_time"]).timestamp()

    @property
    def at_s(self) -> float:
        """When it was decided, by the monotonic clock."""
        return self.wall_s - time.time() + time.monotonic()

    @property
    def gone_s(self) -> float:
        """When its deletion was done, by the monotonic clock."""
        ended: datetime = self.deletion.end_time.ToDatetime(UTC)
        return ended.timestamp() - time.time() + time.monotonic()


class UsageRecord:
    """Records the stream from its making until `close`.

    The stream ends with its leader's reign, and the next leader begins with an empty fleet: what
    was recorded before is forgotten then.
    """

    def __init__(self, client: Client, host_names: Mapping[str, str]) -> None:
        self._client = client
        self._names = dict(host_names)
        self._samples: list[Recorded] = []
        self._closed = threading.Event()
        self.begun_s = time.monotonic()
        """When the recorded reign began, by the monotonic clock."""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        """End the stream."""
        self._closed.set()
        self._client.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def samples(self) -> list[Recorded]:
        """Return what has come so far, oldest first."""
        return list(self._samples)

    def _read(self) -> None:
        while not self._closed.is_set():
            with suppress(UnkaiError, ValueError):  # ValueError: the channel is closed
                for message in self._client.stream(
                    "HostService", "WatchUsage", include_machines=True
                ):
                    self._samples.append(self._recorded(message))
            self.begun_s = time.monotonic()
            self._samples = []
            self._closed.wait(0.2)

    def _recorded(self, message: Any) -> Recorded:
        return Recorded(
            time.monotonic(),
            self._names[message.host_id],
            _usage(message.host),
            tuple(_machine(each) for each in message.machines),
        )


def _usage(message: Any) -> HostUsage:
    taken = datetime.fromisoformat(message.sample_time.ToJsonString())
    return HostUsage(taken, **{name: getattr(message, name) for name in _FIGURES})


def _machine(message: Any) -> MachineUsage:
    return MachineUsage(**{name: getattr(message, name) for name in _MACHINE_FIGURES})


def place_behind(candidate: Mapping[str, Any], samples: Sequence[Recorded]) -> int | None:
    """Return the place of the newest sample whose figures a candidate's inputs are."""
    names = [figure.name.lower() for figure in Sampled]
    given = [candidate["inputs"][name] for name in names]

    def same(usage: HostUsage) -> bool:
        told = [float(getattr(usage, name)) for name in names]
        # Decisions are stored to six digits.
        return all(abs(a - b) <= 1e-5 * max(abs(b), 1e-3) for a, b in zip(given, told, strict=True))

    places = reversed(range(len(samples)))
    return next((place for place in places if same(samples[place].usage)), None)


def decide_again(
    hosts: Mapping[str, Mapping[str, Any]],
    samples: Sequence[Recorded],
    placed: Sequence[Placed],
    *,
    told_by: Callable[[str], str] = lambda name: name,
) -> list[Decision]:
    """Make decisions again on a fleet that knows recorded samples and earlier claims alone.

    `told_by`: whose samples and machines a host is given, by name: its own, to find the same.
    """
    fleet = Fleet()
    for name, row in hosts.items():
        parts = {key: row[key] for key in ("cpus", "memory_bytes", "disk_bytes")}
        fleet.upsert_host(a_host(name, traits=tuple(row["traits"]), **parts), AllocationRatios())
    givers = {told_by(name): name for name in hosts}
    streams = {name: [s for s in samples if s.host_name == name] for name in hosts}
    folded = dict.fromkeys(hosts, 0)
    made: list[Decision] = []
    gone: list[tuple[Placed, str]] = []
    for one in placed:
        events: list[tuple[float, Callable[[], None]]] = []
        for candidate in one.decision["candidates"]:
            # Just those that this decision knew: the stream comes a moment later to us.
            name = candidate["host_name"]
            behind = place_behind(candidate, streams[name])
            assert behind is not None, candidate
            for sample in streams[name][folded[name] : behind + 1]:
                at_s = min(sample.at_s, one.at_s)
                events.append((at_s, partial(_fold, fleet, f"hst-{givers[name]}", sample, at_s)))
            folded[name] = behind + 1
        on = f"hst-{givers[one.decision['host_name']]}"
        events += [(last.gone_s, partial(_release, fleet, last, where)) for last, where in gone]
        for _, act in sorted(events, key=lambda event: event[0]):
            act()
        made.append(_decide(fleet, one, on))
        gone = [(one, on)]
    return made


def _fold(fleet: Fleet, host_id: str, sample: Recorded, at_s: float) -> None:
    fleet.fold([(host_id, sample.usage, at_s)], {host_id: sample.machines})


def _decide(fleet: Fleet, placed: Placed, host_id: str) -> Decision:
    instance = placed.instance
    request = PlacementRequest(
        instance_id=instance.id,
        vcpus=instance.vcpus,
        memory_bytes=instance.memory_bytes,
        disk_bytes=instance.disk_bytes,
        policy=PlacementPolicy(placed.decision["policy"]),
    )
    now = datetime.fromisoformat(placed.decision["decide_time"])
    (decision,) = decide(fleet.copy(), [request], weights=WEIGHTS, now=now, now_s=placed.at_s)
    # What comes after must see what really happened, also where two hosts were near equal.
    fleet.claim(
        host_id,
        request.vcpus,
        request.memory_bytes,
        request.disk_bytes,
        placed.at_s,
        instance_id=request.instance_id,
    )
    return decision


def _release(fleet: Fleet, placed: Placed, host_id: str) -> None:
    instance = placed.instance
    fleet.release(
        host_id,
        instance.vcpus,
        instance.memory_bytes,
        instance.disk_bytes,
        instance_id=instance.id,
    )

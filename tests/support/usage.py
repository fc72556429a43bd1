"""The public usage stream, recorded, and decisions made again from what was recorded.

A decision is a function of samples, claims and time. So whoever records the stream that any user
may watch can make every decision again with the pure pipeline, and can ask what would have been
decided had only the samples been others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from tests.support.fleets import WEIGHTS, a_host
from unkai_cli.client import Client
from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.hosts import HostUsage, MachineUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.fleet import AllocationRatios, Fleet, Sampled
from unkai_scheduler.placement.pipeline import decide
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_wire.errors import UnkaiError

_FIGURES = tuple(f.name for f in fields(HostUsage) if f.name != "sample_time")
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
    """Records the stream from its making until `close`."""

    def __init__(self, client: Client, host_names: Mapping[str, str]) -> None:
        self._client = client
        self._names = dict(host_names)
        self._samples: list[Recorded] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        """End the stream."""
        self._client.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def samples(self) -> list[Recorded]:
        """Return what has come so far, oldest first."""
        return list(self._samples)

    def of(self, host_name: str) -> list[HostUsage]:
        """Return one host's samples."""
        return [sample.usage for sample in self.samples() if sample.host_name == host_name]

    def _read(self) -> None:
        try:
            for message in self._client.stream("HostService", "WatchUsage", include_machines=True):
                self._samples.append(
                    Recorded(
                        time.monotonic(),
                        self._names[message.host_id],
                        _usage(message.host),
                        tuple(_machine(each) for each in message.machines),
                    )
                )
        except (UnkaiError, ValueError):
            return  # closed


def _usage(message: Any) -> HostUsage:
    taken = datetime.fromisoformat(message.sample_time.ToJsonString())
    return HostUsage(taken, **{name: getattr(message, name) for name in _FIGURES})


def _machine(message: Any) -> MachineUsage:
    return MachineUsage(**{name: getattr(message, name) for name in _MACHINE_FIGURES})


def sample_behind(candidate: Mapping[str, Any], samples: Sequence[HostUsage]) -> HostUsage | None:
    """Return the newest sample whose figures a candidate's inputs are, to six digits."""
    names = [figure.name.lower() for figure in Sampled]
    given = [candidate["inputs"][name] for name in names]

    def same(usage: HostUsage) -> bool:
        told = [float(getattr(usage, name)) for name in names]
        return all(abs(a - b) <= 1e-5 * max(abs(b), 1e-3) for a, b in zip(given, told, strict=True))

    return next((usage for usage in reversed(samples) if same(usage)), None)


def decide_again(
    hosts: Mapping[str, Mapping[str, Any]],
    record: UsageRecord,
    placed: Sequence[Placed],
    *,
    told_by: Callable[[str], str] = lambda name: name,
) -> list[Decision]:
    """Make decisions again on a fleet that knows recorded samples and earlier claims alone.

    `told_by`: whose samples a host is given, by name: itself, to find the same decision.
    """
    fleet = Fleet()
    for name, row in hosts.items():
        parts = {key: row[key] for key in ("cpus", "memory_bytes", "disk_bytes")}
        fleet.upsert_host(a_host(name, traits=tuple(row["traits"]), **parts), AllocationRatios())
    givers = {told_by(name): name for name in hosts}
    happened: list[tuple[float, Callable[[], None]]] = []
    for sample in record.samples():
        host_id = f"hst-{givers[sample.host_name]}"
        happened.append((sample.at_s, lambda s=sample, h=host_id: _fold(fleet, h, s)))
    made: list[Decision] = []
    for one in placed:
        happened.append((one.at_s, lambda o=one: made.append(_decide(fleet, o))))
        happened.append((one.gone_s, lambda o=one: _release(fleet, o)))
    for _, act in sorted(happened, key=lambda event: event[0]):
        act()
    return made


def _fold(fleet: Fleet, host_id: str, sample: Recorded) -> None:
    fleet.fold([(host_id, sample.usage, sample.at_s)], {host_id: sample.machines})


def _decide(fleet: Fleet, placed: Placed) -> Decision:
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
        f"hst-{placed.decision['host_name']}",
        request.vcpus,
        request.memory_bytes,
        request.disk_bytes,
        placed.at_s,
        instance_id=request.instance_id,
    )
    return decision


def _release(fleet: Fleet, placed: Placed) -> None:
    instance = placed.instance
    fleet.release(
        f"hst-{placed.decision['host_name']}",
        instance.vcpus,
        instance.memory_bytes,
        instance.disk_bytes,
        instance_id=instance.id,
    )

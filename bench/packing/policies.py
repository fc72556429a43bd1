"""The policies of the density bench: the product's, and peers of the same run.

`Kept` is shaped as the scheduler's engine: scores per host are kept for each shape of request, and
only hosts that changed are scored anew. An empty host is opened only where nothing else has room
(but by Nova's weighers, which do not look at that), and equal scores go to the first host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.packing.replay import Policy
from bench.packing.trace import Hosts, Ints, Request
from unkai_scheduler.placement.flavor_mix import FlavorMix
from unkai_scheduler.placement.fragmentation import fragmentation_score, fullness_score
from unkai_scheduler.placement.lasting import (
    COLUMN,
    COLUMN_SHAPE,
    COLUMN_TYPE,
    LOOK_EVERY_S,
    Lasting,
)
from unkai_scheduler.placement.lifetimes import alignment_score, class_of
from unkai_scheduler.placement.signals import FULL

FRAGMENTATION_WEIGHT, ALIGNMENT_WEIGHT, FULLNESS_WEIGHT = 40, 3, 1
_OCCUPIED = 1 << 40
"""Added to the key of a host with an instance: above any score."""


class Score(Protocol):
    """Scores hosts for a request; below 2**40, more is better."""

    def version(self) -> object:
        """Return what changes when all scores do."""

    def of(self, rows: Ints, request: Request) -> Ints:
        """Score the hosts of some rows."""

    def saw(self, request: Request) -> None:
        """Note a request before it is placed."""

    def placed(self, request: Request, row: int) -> None:
        """Note a placement."""

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Note an end."""


class Quiet:
    """A score that learns nothing."""

    def version(self) -> object:
        """Never change."""
        return 0

    def saw(self, request: Request) -> None:
        """Learn nothing."""

    def placed(self, request: Request, row: int) -> None:
        """Learn nothing."""

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Learn nothing."""


class Fragmentation(Quiet):
    """The product's fragmentation score alone: FGD by the observed mix of flavors."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._flavors = FlavorMix()

    def version(self) -> object:
        """Change with the mix."""
        return self._flavors.mix.version

    def saw(self, request: Request) -> None:
        """Count it."""
        self._flavors.saw(request.vcpus, request.memory_mib)

    def of(self, rows: Ints, request: Request) -> Ints:
        """Score by what would become unusable."""
        hosts = self.hosts
        return fragmentation_score(
            hosts.free_vcpus[rows],
            hosts.free_memory_mib[rows],
            hosts.vcpus[rows],
            hosts.memory_mib[rows],
            wanted_vcpus=request.vcpus,
            wanted_memory_mib=request.memory_mib,
            mix=self._flavors.mix,
        )


class Product(Fragmentation):
    """The product's packing: fragmentation, alignment of lifetimes, fullness."""

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(hosts)
        self._columns: dict[str, npt.NDArray[np.generic]] = {
            COLUMN: np.zeros((len(hosts), *COLUMN_SHAPE), COLUMN_TYPE)
        }
        self._lasting = Lasting(self._columns)
        self._next_look_s = LOOK_EVERY_S

    def version(self) -> object:
        """Change with the mix, and with each look at how instances age."""
        return self._flavors.mix.version, self._lasting.version

    def saw(self, request: Request) -> None:
        """Count it; look again if it is time."""
        super().saw(request)
        now_s = request.arrival_ms // 1000
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_EVERY_S
            self._lasting.look_again(now_s)

    def of(self, rows: Ints, request: Request) -> Ints:
        """Return the weighted sum of the three scores."""
        hosts = self.hosts
        sums: Ints = self._columns[COLUMN][rows]  # type: ignore[assignment]
        alignment = alignment_score(
            sums, class_of(request.vcpus, request.memory_mib), self._lasting.table
        )
        fullness = fullness_score(
            hosts.free_vcpus[rows],
            hosts.free_memory_mib[rows],
            hosts.vcpus[rows],
            hosts.memory_mib[rows],
            wanted_vcpus=request.vcpus,
            wanted_memory_mib=request.memory_mib,
        )
        return (
            FRAGMENTATION_WEIGHT * super().of(rows, request)
            + ALIGNMENT_WEIGHT * alignment
            + FULLNESS_WEIGHT * fullness
        )

    def placed(self, request: Request, row: int) -> None:
        """Note it for later predictions."""
        now_s = request.arrival_ms // 1000
        self._lasting.placed(
            str(request.number),
            row,
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            since_s=now_s,
            now_s=now_s,
        )

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Learn from it."""
        self._lasting.ended(str(request.number), now_ms // 1000)


class BestFit(Quiet):
    """Least left over: the Euclidean norm (L2) of both resources' free shares."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts

    def of(self, rows: Ints, request: Request) -> Ints:
        """Score by what would be left."""
        hosts = self.hosts
        vcpus = (hosts.free_vcpus[rows] - request.vcpus) * FULL // hosts.vcpus[rows]
        memory = (hosts.free_memory_mib[rows] - request.memory_mib) * FULL // hosts.memory_mib[rows]
        score: Ints = 2 * FULL * FULL - vcpus * vcpus - memory * memory
        return score


class FirstFit(Quiet):
    """The first host with room."""

    def __init__(self, hosts: Hosts) -> None:
        del hosts

    def of(self, rows: Ints, request: Request) -> Ints:
        """Score all alike."""
        return np.zeros(len(rows), np.int64)


@dataclass(slots=True)
class _Keys:
    """One shape's keys of all hosts; below 0: no room."""

    keys: Ints
    version: object = None
    seen: int = 0
    """How many of the changes they know of."""


@dataclass
class Kept:
    """Chooses by a score whose values are kept per shape."""

    hosts: Hosts
    score: Score
    _shapes: dict[tuple[int, int], _Keys] = field(default_factory=dict)
    _changed: list[int] = field(default_factory=list)
    """The row of each placement and end so far."""

    def choose(self, request: Request) -> int:
        """Return the row with the greatest key, or -1."""
        self.score.saw(request)
        shape = (request.vcpus, request.memory_mib)
        kept = self._shapes.get(shape)
        if kept is None:
            kept = self._shapes[shape] = _Keys(np.zeros(len(self.hosts), np.int64))
        version = self.score.version()
        if kept.version != version:
            kept.version = version
            self._refresh(kept.keys, np.arange(len(self.hosts)), request)
        elif kept.seen < len(self._changed):
            rows = np.array(list(set(self._changed[kept.seen :])), np.int64)
            self._refresh(kept.keys, rows, request)
        kept.seen = len(self._changed)
        row = int(kept.keys.argmax())
        return row if kept.keys[row] >= 0 else -1

    def _refresh(self, keys: Ints, rows: Ints, request: Request) -> None:
        hosts = self.hosts
        fits = (hosts.free_vcpus[rows] >= request.vcpus) & (
            hosts.free_memory_mib[rows] >= request.memory_mib
        )
        value = self.score.of(rows, request) + (hosts.instances[rows] > 0) * _OCCUPIED
        keys[rows] = np.where(fits, value, -1)

    def placed(self, request: Request, row: int) -> None:
        """Note a placement."""
        self._changed.append(row)
        self.score.placed(request, row)

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Note an end."""
        self._changed.append(row)
        self.score.ended(request, row, now_ms)


@dataclass
class Nova:
    """As Nova weighs by default settings turned to packing: free memory and free virtual CPUs, each
    normalised over the hosts with room, with multiplier -1 (Nova's CPUWeigher and RAMWeigher,
    admin guide "Compute schedulers").
    """

    hosts: Hosts
    multiplier: float = -1.0

    def choose(self, request: Request) -> int:
        """Return the row of the greatest weight, or -1."""
        hosts = self.hosts
        fits = (hosts.free_vcpus >= request.vcpus) & (hosts.free_memory_mib >= request.memory_mib)
        rows = np.flatnonzero(fits)
        if not len(rows):
            return -1
        weight = np.zeros(len(rows))
        for free in (hosts.free_vcpus[rows], hosts.free_memory_mib[rows]):
            least, most = int(free.min()), int(free.max())
            if most > least:
                weight += self.multiplier * (free - least) / (most - least)
        return int(rows[weight.argmax()])

    def placed(self, request: Request, row: int) -> None:
        """Learn nothing."""

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Learn nothing."""


def ours(hosts: Hosts) -> Policy:
    """Return the product's policy."""
    return Kept(hosts, Product(hosts))


PEERS: dict[str, Callable[[Hosts], Policy]] = {
    "fragmentation_alone": lambda hosts: Kept(hosts, Fragmentation(hosts)),
    "l2_best_fit": lambda hosts: Kept(hosts, BestFit(hosts)),
    "nova_pack": Nova,
    "nova_spread": lambda hosts: Nova(hosts, 1.0),
    "first_fit": lambda hosts: Kept(hosts, FirstFit(hosts)),
}

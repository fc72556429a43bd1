"""A trace of VM requests, and the fleets that it is replayed on.

What a policy may know is a `Request`; when instances end stands apart, for the queue of ends alone.
Memory is in whole MiB and time in whole milliseconds, so that nothing rounds.
"""

from __future__ import annotations

import csv
import gzip
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MIB_PER_GB = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One VM as it is asked for."""

    number: int
    """Its place in the trace."""
    arrival_ms: int
    vcpus: int
    memory_mib: int
    batch_id: str
    """Requests of one tenant in the same five minutes share it."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, and when each one's instance ends; None: never."""

    requests: list[Request]
    ends_ms: list[int | None]


def read_trace(path: Path, rows: int | None = None) -> Trace:
    """Read a trace (bench/README.md has its columns), or its first rows."""
    requests: list[Request] = []
    ends_ms: list[int | None] = []
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if len(requests) == rows:
                break
            arrival_ms = round(float(row["arrival_s"]) * 1000)
            lifetime = row["lifetime_s"]
            ends_ms.append(arrival_ms + round(float(lifetime) * 1000) if lifetime else None)
            memory_mib = round(float(row["mem_gb"]) * MIB_PER_GB)
            requests.append(
                Request(len(requests), arrival_ms, int(row["vcpus"]), memory_mib, row["batch_id"])
            )
    if any(one.arrival_ms > two.arrival_ms for one, two in itertools.pairwise(requests)):
        raise ValueError(f"{path}: requests are not in order of arrival")
    return Trace(requests, ends_ms)


@dataclass(frozen=True, slots=True)
class HostShape:
    """Hosts of one kind; `parts`: how many of them to how many of the others."""

    vcpus: int
    memory_mib: int
    parts: int


def parse_shapes(text: str) -> list[HostShape]:
    """Read `96x256` or `64x128:2,96x256:2,64x384:1`: virtual CPUs x GB, and parts."""
    shapes = []
    for word in text.split(","):
        size, _, parts = word.partition(":")
        vcpus, _, memory_gb = size.partition("x")
        shapes.append(HostShape(int(vcpus), round(float(memory_gb) * MIB_PER_GB), int(parts or 1)))
    return shapes


def counts(shapes: list[HostShape], hosts: int) -> list[int]:
    """Return how many of so many hosts are of each shape, by the largest remainder."""
    parts = sum(shape.parts for shape in shapes)
    whole = [hosts * shape.parts // parts for shape in shapes]
    rest = sorted(range(len(shapes)), key=lambda i: (-(hosts * shapes[i].parts % parts), i))
    for i in rest[: hosts - sum(whole)]:
        whole[i] += 1
    return whole


class Hosts:
    """Columns of a fleet, one row per host; the rows of one shape stand together."""

    def __init__(self, shapes: list[HostShape], hosts: int) -> None:
        each = counts(shapes, hosts)
        self.vcpus: Ints = np.repeat([shape.vcpus for shape in shapes], each).astype(np.int64)
        self.memory_mib: Ints = np.repeat([shape.memory_mib for shape in shapes], each).astype(
            np.int64
        )
        self.free_vcpus = self.vcpus.copy()
        self.free_memory_mib = self.memory_mib.copy()
        self.instances = np.zeros(hosts, np.int64)

    def __len__(self) -> int:
        return len(self.vcpus)

    def take(self, row: int, request: Request, count: int = 1) -> None:
        """Place a request on a host, or with -1 take it away."""
        self.free_vcpus[row] -= count * request.vcpus
        self.free_memory_mib[row] -= count * request.memory_mib
        self.instances[row] += count
        if self.free_vcpus[row] < 0 or self.free_memory_mib[row] < 0:
            raise ValueError(f"request {request.number} does not fit on host {row}")

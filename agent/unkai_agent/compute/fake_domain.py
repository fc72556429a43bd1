"""One domain of the hypervisor made of nothing: what it is, uses and prints.

`fake.py` moves it from state to state, and tells of that; nothing here acts by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from unkai_agent.compute.driver import (
    DiskError,
    Domain,
    DomainSpec,
    DomainState,
    DomainUsage,
    OffReason,
)
from unkai_wire.errors import Conflict, FailedPrecondition

_CONSOLE_QUEUE = 256
_CONSOLE_KEEP_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class MachineLoad:
    """What a running machine uses."""

    cpu_cores: float = 0.02
    cpu_wait_cores: float = 0.0
    memory_ratio: float = 0.3
    """Share of its memory that it holds."""
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 4096.0
    bytes_per_request: int = 4096


@dataclass(slots=True)
class Counters:
    """What a domain has used since it was started, brought up to date when asked for."""

    since_s: float
    cpu_ns: float = 0.0
    wait_ns: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0

    def advance(self, now_s: float, load: MachineLoad) -> None:
        """Add what the load has used up to now, in monotonic seconds."""
        elapsed_s = max(0.0, now_s - self.since_s)
        self.since_s = now_s
        self.cpu_ns += load.cpu_cores * elapsed_s * 1e9
        self.wait_ns += load.cpu_wait_cores * elapsed_s * 1e9
        self.read_bytes += load.disk_read_bytes_per_s * elapsed_s
        self.write_bytes += load.disk_write_bytes_per_s * elapsed_s


class FakeConsole:
    """One attachment: what the guest prints, on its way to who reads it."""

    def __init__(self) -> None:
        self.output: asyncio.Queue[bytes | None] = asyncio.Queue(_CONSOLE_QUEUE)
        self.taken_over = False

    def put(self, text: bytes | None) -> None:
        """Pass on what was printed, instead of the oldest unread if need be; None ends it."""
        if self.output.full():
            self.output.get_nowait()
        self.output.put_nowait(text)


@dataclass(slots=True)
class FakeDomain:
    """A domain with all that is simulated of it."""

    spec: DomainSpec
    running: DomainSpec | None = None
    """What it was started with; a redefinition counts from the next start."""
    state: DomainState = DomainState.OFF
    off_reason: OffReason = OffReason.UNKNOWN
    disk_error: DiskError | None = None
    load: MachineLoad = field(default_factory=MachineLoad)
    counters: Counters | None = None
    links_down: set[str] = field(default_factory=set)
    """Ports that are plugged in with their link down."""
    has_run: bool = True
    """False from a paused start to its first resume."""
    console: FakeConsole | None = None
    printed: bytearray = field(default_factory=bytearray)

    def must_be_on(self) -> DomainSpec:
        """Return what it runs as; raise `FailedPrecondition` where it is off."""
        if self.running is None:
            raise FailedPrecondition(
                "the machine is off",
                reason="DOMAIN_OFF",
                fix="start it instead",
                metadata={"instance_id": self.spec.instance_id},
            )
        return self.running

    def observe(self) -> Domain:
        """Return it as a driver sees it."""
        spec = self.running or self.spec
        off = self.state is DomainState.OFF
        return Domain(
            instance_id=spec.instance_id,
            name=spec.name,
            state=self.state,
            off_reason=self.off_reason if off else None,
            generation=spec.generation,
            run_epoch=spec.run_epoch,
            accelerator=spec.accelerator,
            paused_by_error=self.disk_error is not None,
            disk_error=self.disk_error,
        )

    def usage(self, counters: Counters, now_s: float) -> DomainUsage:
        """Return what it has used since it was started."""
        load = self.load
        if self.state is not DomainState.RUNNING:
            load = replace(
                load,
                cpu_cores=0.0,
                cpu_wait_cores=0.0,
                disk_read_bytes_per_s=0.0,
                disk_write_bytes_per_s=0.0,
            )
        counters.advance(now_s, load)
        return DomainUsage(
            instance_id=self.spec.instance_id,
            cpu_time_ns=int(counters.cpu_ns),
            cpu_wait_ns=int(counters.wait_ns),
            memory_resident_bytes=int(self.spec.memory_bytes * load.memory_ratio),
            disk_read_bytes=int(counters.read_bytes),
            disk_write_bytes=int(counters.write_bytes),
            disk_reads=int(counters.read_bytes) // load.bytes_per_request,
            disk_writes=int(counters.write_bytes) // load.bytes_per_request,
        )

    def links(self) -> dict[str, bool]:
        """Return whether the link is up of each port that is plugged in, by its id."""
        ports = () if self.running is None else self.running.ports
        return {port.port_id: port.port_id not in self.links_down for port in ports}

    def attach(self, *, force: bool) -> FakeConsole:
        """Return its console, for one reader; raise `FailedPrecondition` or `Conflict`."""
        if self.state is DomainState.OFF:
            raise FailedPrecondition(
                "the machine is off, so it has no console",
                reason="DOMAIN_OFF",
                fix="start it first",
                metadata={"instance_id": self.spec.instance_id},
            )
        if self.console is not None:
            if not force:
                raise Conflict(
                    "somebody else is attached to the console",
                    reason="CONSOLE_IN_USE",
                    fix="wait, or attach by force, which ends the other session",
                    metadata={"instance_id": self.spec.instance_id},
                )
            self.console.taken_over = True
            self.console.put(None)
        self.console = FakeConsole()
        return self.console

    def banner(self) -> bytes:
        """Return what its guest says when it boots."""
        return (
            f"simulated machine {self.spec.name}\r\n"
            f"instance-id: {self.spec.instance_id}\r\n"
            f"{self.spec.name.rpartition('.')[0]} login: "
        ).encode()

    def print(self, text: bytes) -> None:
        """Let the guest print: who is attached reads it, the last of it is kept."""
        self.printed += text
        del self.printed[:-_CONSOLE_KEEP_BYTES]
        if self.console is not None:
            self.console.put(text)


def without_port(spec: DomainSpec, port_id: str) -> DomainSpec:
    """Return the spec without one of its ports, or as it is where it has no such port."""
    return replace(spec, ports=tuple(port for port in spec.ports if port.port_id != port_id))

"""A hypervisor made of nothing, for tests and for fleets of simulated hosts.

Passes the same contract suite as `libvirt_driver.py`. Machines run in name only: they print a few
lines on their console, echo what is typed, and use as much CPU as `load` says. `faults` is the
menu of what may go wrong; each entry acts until it is used up or taken back.

Time comes from `monotonic` and passes by `sleep`: both can be a test's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from unkai_agent.compute.changes import ChangeFeed
from unkai_agent.compute.driver import (
    DiskError,
    Domain,
    DomainPort,
    DomainSpec,
    DomainState,
    DomainUsage,
    OffReason,
)
from unkai_agent.compute.fake_domain import (
    Counters,
    FakeConsole,
    FakeDomain,
    MachineLoad,
    without_port,
)
from unkai_agent.domain.hosts import Accelerator
from unkai_wire.errors import Conflict, FailedPrecondition, NotFound, Unavailable, UnkaiError


@dataclass(slots=True)
class Faults:
    """What shall go wrong. All off by default."""

    hang: bool = False
    """Every call waits until its deadline, then raises `Unavailable`."""
    define_errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next calls of `define`, one each."""
    start_errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next calls of `start`, one each."""
    crash_on_start: int = 0
    """So many of the next starts succeed, and the domain dies at once."""
    ignore_shutdown: bool = False
    """Guests do not react to the power button."""
    ignore_unplug: bool = False
    """Guests do not let go of ports."""
    attach_errors: list[UnkaiError] = field(default_factory=list)
    """Raised by the next calls of `attach_port`, one each."""
    lose_answers: int = 0
    """So many of the next changing calls act, and then raise `Unavailable`: outcome unknown."""


class FakeCompute:
    """`ComputeDriver` in memory. `faults` may be changed at any time."""

    def __init__(
        self,
        *,
        accelerator: Accelerator | None = None,
        latency_s: float = 0.0,
        call_deadline_s: float = 10.0,
        write_console_logs: bool = False,
        plugged: Callable[[str, str, bool], None] = lambda instance_id, device, on: None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`plugged`: hears which device of which machine comes and goes."""
        self.faults = Faults()
        self.latency_s = latency_s
        """Time that each call takes."""
        self._accelerator = accelerator or Accelerator("tcg", "simulated")
        self._call_deadline_s = call_deadline_s
        self._write_console_logs = write_console_logs
        self._plugged = plugged
        self._monotonic = monotonic
        self._sleep = sleep
        self._records: dict[str, FakeDomain] = {}
        self._changes = ChangeFeed()

    # The port.

    async def prove_accelerator(self) -> Accelerator:
        """Return what the constructor was given."""
        await self._answer()
        return self._accelerator

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains."""
        await self._answer()
        return [record.observe() for record in self._records.values()]

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None."""
        await self._answer()
        record = self._records.get(instance_id)
        return None if record is None else record.observe()

    async def define(self, spec: DomainSpec) -> None:
        """Define the domain, or redefine it when it is off."""
        await self._answer()
        if self.faults.define_errors:
            raise self.faults.define_errors.pop(0)
        for other in self._records.values():
            if other.spec.name == spec.name and other.spec.instance_id != spec.instance_id:
                raise FailedPrecondition(
                    f"the name {spec.name} belongs to another domain on this host",
                    reason="DOMAIN_NAME_TAKEN",
                    metadata={"name": spec.name},
                )
        record = self._records.get(spec.instance_id)
        if record is None:
            self._records[spec.instance_id] = FakeDomain(spec)
            self._changes.publish(spec.instance_id)
        elif record.state is DomainState.OFF and record.spec != spec:
            record.spec = spec
            self._changes.publish(spec.instance_id)
        self._lose_answer()

    async def start(self, instance_id: str, *, paused: bool = False) -> None:
        """Start or resume the domain."""
        await self._answer()
        if self.faults.start_errors:
            raise self.faults.start_errors.pop(0)
        record = self._record(instance_id)
        if record.state is DomainState.OFF:
            self._boot(record, DomainState.PAUSED if paused else DomainState.RUNNING)
        elif record.state is DomainState.PAUSED and not paused:
            self._run(record)
        if self.faults.crash_on_start:
            self.faults.crash_on_start -= 1
            self._power_off(record, OffReason.CRASHED)
        self._lose_answer()

    async def shutdown(self, instance_id: str) -> None:
        """Ask the guest to power off; it obeys at once, unless `ignore_shutdown`."""
        await self._answer()
        record = self._records.get(instance_id)
        heard = not self.faults.ignore_shutdown
        if heard and record is not None and record.state is DomainState.RUNNING:
            self._print(record, b"power button pressed\r\n")
            self._power_off(record, OffReason.GUEST_SHUTDOWN)
        self._lose_answer()

    async def destroy(self, instance_id: str) -> None:
        """Cut the power."""
        await self._answer()
        record = self._records.get(instance_id)
        if record is not None and record.state is not DomainState.OFF:
            self._power_off(record, OffReason.DESTROYED)
        self._lose_answer()

    async def reboot(self, instance_id: str, *, force: bool) -> None:
        """Restart the guest; it obeys at once, unless `ignore_shutdown` and not `force`."""
        await self._answer()
        record = self._record(instance_id)
        record.must_be_on()
        if force or not self.faults.ignore_shutdown:
            self._print(record, record.banner())
        self._lose_answer()

    async def undefine(self, instance_id: str) -> None:
        """Remove the definition."""
        await self._answer()
        record = self._records.get(instance_id)
        if record is not None:
            if record.state is not DomainState.OFF:
                raise FailedPrecondition(
                    "the machine is not off",
                    reason="DOMAIN_NOT_OFF",
                    fix="stop it first",
                    metadata={"instance_id": instance_id},
                )
            del self._records[instance_id]
            self._changes.publish(instance_id)
        self._lose_answer()

    async def live_ports(self, instance_id: str) -> Mapping[str, bool]:
        """Return the ports plugged into a domain that is on."""
        await self._answer()
        record = self._records.get(instance_id)
        return {} if record is None else record.links()

    async def attach_port(self, instance_id: str, port: DomainPort) -> None:
        """Plug a port in, with its link down."""
        await self._answer()
        if self.faults.attach_errors:
            raise self.faults.attach_errors.pop(0)
        record = self._record(instance_id)
        running = record.must_be_on()
        if port.port_id not in {each.port_id for each in running.ports}:
            record.running = replace(running, ports=(*running.ports, port))
            record.links_down.add(port.port_id)
            self._plugged(instance_id, port.device, True)
        self._lose_answer()

    async def raise_link(self, instance_id: str, port_id: str) -> None:
        """Let a port's link be up."""
        await self._answer()
        record = self._record(instance_id)
        record.must_be_on()
        record.links_down.discard(port_id)
        self._lose_answer()

    async def detach_port(self, instance_id: str, port_id: str) -> None:
        """Ask for a port back; the guest obeys at once, unless `ignore_unplug`."""
        await self._answer()
        record = self._record(instance_id)
        record.spec = without_port(record.spec, port_id)
        if record.running is not None and not self.faults.ignore_unplug:
            for port in record.running.ports:
                if port.port_id == port_id:
                    self._plugged(instance_id, port.device, False)
            record.running = without_port(record.running, port_id)
        self._lose_answer()

    async def usage(self) -> Sequence[DomainUsage]:
        """Return counters of all domains that are on."""
        await self._answer()
        now_s = self._monotonic()
        return [
            record.usage(record.counters, now_s)
            for record in self._records.values()
            if record.counters is not None
        ]

    def watch(self) -> AsyncIterator[str]:
        """Yield the id of each domain whose state changed."""
        return self._changes.subscribe()

    async def attach_console(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to a console that echoes."""
        await self._answer()
        record = self._record(instance_id)
        console = record.attach(force=force)
        keys = asyncio.ensure_future(self._echo(record, console, typed))
        try:
            yield b""
            while (text := await console.output.get()) is not None:
                yield text
            if console.taken_over:
                raise Conflict(
                    "somebody else has taken the console over",
                    reason="CONSOLE_TAKEN_OVER",
                    fix="attach by force to take it back",
                    metadata={"instance_id": instance_id},
                )
        finally:
            keys.cancel()
            await asyncio.gather(keys, return_exceptions=True)
            if record.console is console:
                record.console = None

    async def close(self) -> None:
        """End the watches. Domains stay."""
        self._changes.close()

    # What happens to machines by itself, for tests and simulations.

    def guest_shuts_down(self, instance_id: str) -> None:
        """Let the guest power itself off."""
        self._power_off(self._record(instance_id), OffReason.GUEST_SHUTDOWN)

    def crash(self, instance_id: str) -> None:
        """Let the domain's process die."""
        self._power_off(self._record(instance_id), OffReason.CRASHED)

    def pause(self, instance_id: str) -> None:
        """Let somebody suspend the domain."""
        self._move(self._record(instance_id), DomainState.PAUSED)

    def pause_by_error(self, instance_id: str, error: DiskError = DiskError.NO_ROOM) -> None:
        """Let the domain be paused by an I/O error."""
        record = self._record(instance_id)
        record.disk_error = error
        self._move(record, DomainState.PAUSED)

    def reboot_host(self) -> None:
        """Let all domains be off for a reason that nobody knows, as after a power cut."""
        for record in self._records.values():
            if record.state is not DomainState.OFF:
                self._power_off(record, OffReason.UNKNOWN)

    def set_load(self, instance_id: str, load: MachineLoad) -> None:
        """Set what the machine uses from now on."""
        record = self._record(instance_id)
        if record.counters is not None:
            record.counters.advance(self._monotonic(), record.load)
        record.load = load

    def running_machines(self) -> list[tuple[MachineLoad, int]]:
        """Return each running machine's load and the memory it holds, for a simulated host."""
        return [
            (record.load, int(record.spec.memory_bytes * record.load.memory_ratio))
            for record in self._records.values()
            if record.state is DomainState.RUNNING
        ]

    def print_on_console(self, instance_id: str, text: bytes) -> None:
        """Let the guest print."""
        self._print(self._record(instance_id), text)

    def console_text(self, instance_id: str) -> bytes:
        """Return the last 64 KiB that the guest printed."""
        return bytes(self._record(instance_id).printed)

    # Inside.

    async def _answer(self) -> None:
        if self.faults.hang:
            await self._sleep(self._call_deadline_s)
            raise _no_answer()
        if self.latency_s:
            await self._sleep(self.latency_s)

    def _lose_answer(self) -> None:
        if self.faults.lose_answers:
            self.faults.lose_answers -= 1
            raise _no_answer()

    def _record(self, instance_id: str) -> FakeDomain:
        record = self._records.get(instance_id)
        if record is None:
            raise NotFound.of("domain", instance_id)
        return record

    def _move(self, record: FakeDomain, state: DomainState) -> None:
        if state is DomainState.RUNNING:
            record.disk_error = None
        record.state = state
        self._changes.publish(record.spec.instance_id)

    def _boot(self, record: FakeDomain, state: DomainState = DomainState.RUNNING) -> None:
        record.running = record.spec
        record.links_down.clear()
        record.counters = Counters(self._monotonic())
        record.has_run = False
        self._plug(record.spec, on=True)
        if state is DomainState.RUNNING:
            self._run(record)
        else:
            self._move(record, state)

    def _run(self, record: FakeDomain) -> None:
        """Let the guest go on; at the first time since its start it says who it is."""
        if not record.has_run:
            record.has_run = True
            self._print(record, record.banner())
        self._move(record, DomainState.RUNNING)

    def _plug(self, spec: DomainSpec, *, on: bool) -> None:
        for port in spec.ports:
            self._plugged(spec.instance_id, port.device, on)

    def _power_off(self, record: FakeDomain, reason: OffReason) -> None:
        record.off_reason = reason
        record.disk_error = None
        self._plug(record.running or record.spec, on=False)
        record.counters = record.running = None
        if record.console is not None:
            record.console.put(None)
            record.console = None
        self._move(record, DomainState.OFF)

    def _print(self, record: FakeDomain, text: bytes) -> None:
        record.print(text)
        if self._write_console_logs:
            with record.spec.console_log.open("ab") as log:
                log.write(text)

    async def _echo(
        self, record: FakeDomain, console: FakeConsole, typed: AsyncIterator[bytes]
    ) -> None:
        async for keys in typed:
            if record.console is not console:
                return
            self._print(record, keys)


def _no_answer() -> Unavailable:
    return Unavailable(
        "the hypervisor does not answer",
        reason="HYPERVISOR_UNAVAILABLE",
        fix="it is tried again by itself; look at libvirtd on the host if this goes on",
    )

"""The hypervisor with its figures and spans: how long its calls take and how they fail.

Stands before any driver. Calls that answer are measured; watches and consoles pass through.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

from unkai_agent.compute.driver import (
    ComputeDriver,
    Domain,
    DomainPort,
    DomainSpec,
    DomainUsage,
)
from unkai_agent.domain.hosts import Accelerator
from unkai_wire import tracing
from unkai_wire.errors import UnkaiError

SECONDS = Histogram(
    "unkai_agent_hypervisor_seconds",
    "Time calls of the hypervisor took, by call.",
    ["call"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
FAILURES = Counter(
    "unkai_agent_hypervisor_failures_total",
    "Calls that the hypervisor failed, by call and reason.",
    ["call", "reason"],
)


class MeasuredCompute:
    """A compute driver that counts what passes through it."""

    def __init__(self, driver: ComputeDriver, *, system: str) -> None:
        """`system` names the hypervisor's library in spans: `libvirt`."""
        self._driver = driver
        self._system = system

    async def prove_accelerator(self) -> Accelerator:
        """Find out whether KVM works."""
        with self._measured("prove_accelerator"):
            return await self._driver.prove_accelerator()

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains that bear our metadata."""
        with self._measured("list_domains"):
            return await self._driver.list_domains()

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None when there is none."""
        with self._measured("get_domain", instance_id):
            return await self._driver.get_domain(instance_id)

    async def define(self, spec: DomainSpec) -> None:
        """Define the domain."""
        with self._measured("define", spec.instance_id):
            await self._driver.define(spec)

    async def start(self, instance_id: str, *, paused: bool = False) -> None:
        """Start the domain, or resume it."""
        with self._measured("start", instance_id):
            await self._driver.start(instance_id, paused=paused)

    async def shutdown(self, instance_id: str) -> None:
        """Ask the guest to power off."""
        with self._measured("shutdown", instance_id):
            await self._driver.shutdown(instance_id)

    async def destroy(self, instance_id: str) -> None:
        """Cut the power."""
        with self._measured("destroy", instance_id):
            await self._driver.destroy(instance_id)

    async def reboot(self, instance_id: str, *, force: bool) -> None:
        """Ask the guest to restart, or reset it."""
        with self._measured("reboot", instance_id):
            await self._driver.reboot(instance_id, force=force)

    async def undefine(self, instance_id: str) -> None:
        """Remove the definition."""
        with self._measured("undefine", instance_id):
            await self._driver.undefine(instance_id)

    async def live_ports(self, instance_id: str) -> Mapping[str, bool]:
        """Return the ports plugged into a domain that is on."""
        with self._measured("live_ports", instance_id):
            return await self._driver.live_ports(instance_id)

    async def attach_port(self, instance_id: str, port: DomainPort) -> None:
        """Plug a port in."""
        with self._measured("attach_port", instance_id):
            await self._driver.attach_port(instance_id, port)

    async def raise_link(self, instance_id: str, port_id: str) -> None:
        """Let a port's link be up."""
        with self._measured("raise_link", instance_id):
            await self._driver.raise_link(instance_id, port_id)

    async def detach_port(self, instance_id: str, port_id: str) -> None:
        """Ask for a port back."""
        with self._measured("detach_port", instance_id):
            await self._driver.detach_port(instance_id, port_id)

    async def usage(self) -> Sequence[DomainUsage]:
        """Return counters of all running domains."""
        with self._measured("usage"):
            return await self._driver.usage()

    def watch(self) -> AsyncIterator[str]:
        """Yield the instance id of each domain whose state changed."""
        return self._driver.watch()

    def attach_console(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the serial console."""
        return self._driver.attach_console(instance_id, typed, force=force)

    async def close(self) -> None:
        """Let go of the hypervisor."""
        await self._driver.close()

    @contextmanager
    def _measured(self, call: str, instance_id: str = "") -> Iterator[None]:
        started_s = time.perf_counter()
        attributes = {"instance_id": instance_id} if instance_id else {}
        try:
            with tracing.span(f"{self._system} {call}", **attributes):
                yield
        except UnkaiError as error:
            FAILURES.labels(call, error.reason).inc()
            raise
        finally:
            SECONDS.labels(call).observe(time.perf_counter() - started_s)

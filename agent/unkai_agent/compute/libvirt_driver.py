"""The hypervisor behind the port: libvirt, at any URI.

Below `converge` (define, start, stop) and `metrics` (usage). Every call runs under a deadline, and
what a machine's own QEMU is asked to do costs its machine alone where it hangs (`Calls`).
Nothing here decides: whether a domain should run is the caller's business.

Trap: a domain's state comes from libvirt at that moment; events only say where to look. After a
reconnection each domain is hinted at once, since events may have been missed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unkai_agent.compute import domain_xml, libvirt_errors, libvirt_ports
from unkai_agent.compute.changes import ChangeFeed
from unkai_agent.compute.driver import (
    DiskError,
    Domain,
    DomainPort,
    DomainSpec,
    DomainState,
    DomainUsage,
)
from unkai_agent.compute.kvm_proof import prove_kvm
from unkai_agent.compute.libvirt_calls import Calls
from unkai_agent.compute.libvirt_console import ConsoleAttachment
from unkai_agent.compute.libvirt_domains import (
    disk_error,
    identity_of,
    look_up,
    must_look_up,
    observed,
)
from unkai_agent.compute.libvirt_session import Session
from unkai_agent.compute.libvirt_starts import Starts
from unkai_agent.compute.libvirt_usage import usage_of_all
from unkai_agent.domain.hosts import Accelerator
from unkai_wire.errors import Unavailable, UnkaiError

_DESTROY_DEADLINE_S = 30.0
"""libvirt waits up to 15 s for QEMU to die of SIGTERM, then of SIGKILL."""
_DISK_ERROR_S = 2.0
"""A QEMU that has not said by then what its disk met hangs, as one may whose disk hangs."""


class LibvirtDriver:
    """`ComputeDriver` over libvirt. Make it inside the event loop that uses it."""

    def __init__(
        self,
        uri: str = "qemu:///system",
        *,
        emulator: str = "qemu-system-x86_64",
        qemu_user: str = "libvirt-qemu",
        call_deadline_s: float = 10.0,
        start_deadline_s: float = 60.0,
        workers: int = 8,
        max_lost_calls: int = 16,
    ) -> None:
        import libvirt

        self._libvirt: Any = libvirt
        self._emulator = emulator
        self._qemu_user = qemu_user
        self._call_deadline_s = call_deadline_s
        self._start_deadline_s = start_deadline_s
        self._changes = ChangeFeed()
        self._calls = Calls(
            libvirt,
            uri,
            self._changes.publish,
            deadline_s=call_deadline_s,
            workers=workers,
            max_lost=max_lost_calls,
        )
        self._connections = self._calls.connections
        self._starts = Starts(libvirt)
        self._consoles: dict[str, ConsoleAttachment] = {}

    # The port.

    async def prove_accelerator(self) -> Accelerator:
        """Boot a guest on KVM under a deadline; takes up to `PROOF_DEADLINE_S` where it hangs."""
        return await prove_kvm(self._emulator, self._qemu_user)

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains that bear our metadata."""
        return await self._calls.ask(self._list, act="list the machines")

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None."""

        found = await self._calls.ask(
            self._observe(instance_id), act="look at the machine", instance_id=instance_id
        )
        if found is None or not found.paused_by_error:
            return found
        return replace(found, disk_error=await self._disk_error(instance_id))

    async def define(self, spec: DomainSpec) -> None:
        """Define the domain, or redefine it when it is off and its definition differs."""
        wanted = domain_xml.render(spec)

        def work(connection: Any) -> None:
            domain = look_up(self._libvirt, connection, spec.instance_id)
            if domain is not None and (domain.isActive() or self._is_defined_so(domain, wanted)):
                return
            if domain is not None and domain.name() != spec.name:
                domain.rename(spec.name)  # a definition under another name would be refused
            connection.defineXMLFlags(wanted, self._libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

        await self._calls.ask(work, act="define the machine", instance_id=spec.instance_id)
        self._changes.publish(spec.instance_id)

    async def start(self, instance_id: str, *, paused: bool = False) -> None:
        """Start the domain, or resume it when paused."""
        act = "start the machine"
        found = await self._calls.ask(self._observe(instance_id), act=act, instance_id=instance_id)
        if found is not None and found.state is DomainState.PAUSED:
            if paused:
                return
            # A QEMU that may hang is asked: such as do must not keep others from being started.
            await self._calls.act(
                self._starts.resume(instance_id), act, instance_id, self._calls.buttons
            )
        else:
            deadline_s = self._start_deadline_s
            await self._calls.act(
                self._starts.boot(instance_id, paused=paused),
                act,
                instance_id,
                self._calls.starts,
                deadline_s=deadline_s,
            )

    async def shutdown(self, instance_id: str) -> None:
        """Press the power button; whether the guest obeys is seen later."""

        def work(connection: Any) -> None:
            domain = look_up(self._libvirt, connection, instance_id)
            if domain is not None and domain.isActive():
                button = self._libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
                self._unless_off(domain, lambda: domain.shutdownFlags(button))

        await self._calls.act(work, "stop the machine", instance_id, self._calls.buttons)

    async def destroy(self, instance_id: str) -> None:
        """Cut the power."""

        def work(connection: Any) -> None:
            domain = look_up(self._libvirt, connection, instance_id)
            if domain is not None and domain.isActive():
                self._unless_off(domain, domain.destroy)

        deadline_s = max(_DESTROY_DEADLINE_S, self._call_deadline_s)
        await self._calls.act(
            work,
            "cut the machine's power",
            instance_id,
            self._calls.destroys,
            deadline_s=deadline_s,
        )

    async def reboot(self, instance_id: str, *, force: bool) -> None:
        """Ask the guest to restart by the power button, or reset it."""
        act = "restart the machine"

        def work(connection: Any) -> None:
            domain = must_look_up(self._libvirt, connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            if force:
                domain.reset()
            else:
                domain.reboot(self._libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)

        await self._calls.act(work, act, instance_id, self._calls.buttons)

    async def undefine(self, instance_id: str) -> None:
        """Remove the definition of a domain that is off."""
        act = "remove the machine's definition"

        def work(connection: Any) -> None:
            libvirt = self._libvirt
            domain = look_up(self._libvirt, connection, instance_id)
            if domain is None:
                return
            if domain.isActive():
                raise libvirt_errors.is_not_off(instance_id, act)
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            )

        await self._calls.ask(work, act=act, instance_id=instance_id)

    async def live_ports(self, instance_id: str) -> Mapping[str, bool]:
        """Return the ports plugged into a domain that is on."""

        def work(connection: Any) -> Mapping[str, bool]:
            domain = look_up(self._libvirt, connection, instance_id)
            return {} if domain is None else libvirt_ports.live_ports(domain)

        return await self._calls.ask(
            work, act="look at the machine's ports", instance_id=instance_id
        )

    async def attach_port(self, instance_id: str, port: DomainPort) -> None:
        """Plug a port in, with its link down."""
        await self._act_on_port(
            "plug a port in",
            instance_id,
            lambda domain: libvirt_ports.attach(self._libvirt, domain, port),
        )

    async def raise_link(self, instance_id: str, port_id: str) -> None:
        """Let a port's link be up."""
        await self._act_on_port(
            "let a port's link be up",
            instance_id,
            lambda domain: libvirt_ports.raise_link(self._libvirt, domain, port_id),
        )

    async def detach_port(self, instance_id: str, port_id: str) -> None:
        """Ask for a port back."""
        await self._act_on_port(
            "ask for a port back",
            instance_id,
            lambda domain: libvirt_ports.detach(self._libvirt, domain, port_id),
        )

    async def _act_on_port(self, act: str, instance_id: str, change: Callable[[Any], None]) -> None:
        def work(connection: Any) -> None:
            domain = must_look_up(self._libvirt, connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            change(domain)

        await self._calls.act(work, act, instance_id, self._calls.buttons)

    async def usage(self) -> Sequence[DomainUsage]:
        """Return counters of all running domains, asked for in one bulk call.

        Domains whose hypervisor process is busy are answered for without waiting for it.
        """
        return await self._calls.ask(
            lambda connection: usage_of_all(self._libvirt, connection),
            act="read the machines' usage",
        )

    def watch(self) -> AsyncIterator[str]:
        """Yield the id of each domain whose state changed since this call."""
        return self._watch(self._changes.subscribe())

    async def _watch(self, changes: AsyncIterator[str]) -> AsyncIterator[str]:
        with contextlib.suppress(Unavailable):
            await self._connections.watch()  # else the next call that gets through does
        async for instance_id in changes:
            yield instance_id

    async def attach_console(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the serial console; the session ends when the machine goes off."""
        with self._connections.own() as session:
            attachment = await self._attach(session, instance_id, force=force)
            self._consoles[instance_id] = attachment
            try:
                async for text in attachment.talk(typed):
                    yield text
            finally:
                if self._consoles.get(instance_id) is attachment:
                    del self._consoles[instance_id]
                with contextlib.suppress(Unavailable):
                    await attachment.end()

    async def _attach(
        self, session: Session, instance_id: str, *, force: bool
    ) -> ConsoleAttachment:
        act = "attach to the console"

        def work(connection: Any) -> Any:
            domain = must_look_up(self._libvirt, connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            stream = connection.newStream(self._libvirt.VIR_STREAM_NONBLOCK)
            session.keep(stream)
            domain.openConsole(None, stream, self._libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0)
            return stream

        async def call(work: Callable[[], Any], *, act: str) -> Any:
            return await self._calls.ask(
                lambda _connection: work(), act=act, instance_id=instance_id, session=session
            )

        holder = self._consoles.get(instance_id) if force else None
        if holder is not None:
            holder.taken_over = True  # before its end, so that it can say why
        try:
            stream = await self._calls.ask(work, act=act, instance_id=instance_id, session=session)
        except BaseException:
            if holder is not None:
                holder.taken_over = False
            raise
        return ConsoleAttachment(self._libvirt, stream, call, instance_id)

    async def close(self) -> None:
        """End the watches and let go of libvirt; domains go on."""
        self._changes.close()
        await self._calls.close()

    async def _disk_error(self, instance_id: str) -> DiskError | None:
        """Ask a paused machine's QEMU why; None when it does not say."""

        def work(connection: Any) -> DiskError | None:
            domain = look_up(self._libvirt, connection, instance_id)
            return None if domain is None else disk_error(self._libvirt, domain)

        deadline_s = min(_DISK_ERROR_S, self._call_deadline_s)
        with contextlib.suppress(UnkaiError):
            return await self._connections.run(
                work,
                act="ask for a disk's error",
                instance_id=instance_id,
                pool=self._calls.disk_looks,
                deadline_s=deadline_s,
            )
        return None

    # Inside worker threads.

    def _observe(self, instance_id: str) -> Callable[[Any], Domain | None]:
        def work(connection: Any) -> Domain | None:
            domain = look_up(self._libvirt, connection, instance_id)
            return None if domain is None else observed(self._libvirt, domain)

        return work

    def _unless_off(self, domain: Any, act: Callable[[], Any]) -> None:
        """Do `act`; that the domain has gone off meanwhile is what we wanted."""
        try:
            act()
        except self._libvirt.libvirtError:
            if domain.isActive():
                raise

    def _is_defined_so(self, domain: Any, wanted_xml: str) -> bool:
        identity = identity_of(self._libvirt, domain)
        return identity is not None and identity.definition == domain_xml.definition_of(wanted_xml)

    def _list(self, connection: Any) -> list[Domain]:
        found = (observed(self._libvirt, domain) for domain in connection.listAllDomains(0))
        return [domain for domain in found if domain is not None]

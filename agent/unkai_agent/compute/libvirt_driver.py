"""The hypervisor behind the port: libvirt, at any URI.

Below `converge` (define, start, stop) and `metrics` (usage). Every call has a connection of its own
while it is under way (`Connections`), and runs in a `CallPool` under a deadline. What a machine's
own QEMU is asked to do has pools of its own: one that hangs costs its machine alone.
Nothing here decides: whether a domain should run is the caller's business.

Trap: a domain's state comes from libvirt at that moment; events only say where to look. After a
reconnection each domain is hinted at once, since events may have been missed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from unkai_agent.compute import domain_xml, libvirt_errors, libvirt_ports
from unkai_agent.compute.call_pool import CallPool
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
from unkai_agent.compute.libvirt_connections import Connections
from unkai_agent.compute.libvirt_console import ConsoleAttachment
from unkai_agent.compute.libvirt_domains import disk_error, identity_of, observed
from unkai_agent.compute.libvirt_session import Session, qemu_uids
from unkai_agent.compute.libvirt_usage import usage_of_all
from unkai_agent.domain.hosts import Accelerator
from unkai_wire import ids
from unkai_wire.errors import NotFound, Unavailable, UnkaiError

T = TypeVar("T")

_DESTROY_DEADLINE_S = 30.0
"""libvirt waits up to 15 s for QEMU to die of SIGTERM, then of SIGKILL."""
_DISK_ERROR_S = 2.0
"""A QEMU that has not said by then what its disk met hangs, as one may whose disk hangs."""

# libvirtd carries out 20 calls at once, of whatever connection, and 5 more of such as cut a power
# (`max_workers` and `prio_workers` of libvirtd.conf). Each QEMU that hangs may hold one, given up
# or not: what waits for QEMUs takes 19 at most, so that machines can still be looked at.
_STARTS, _LOST_STARTS = 5, 4
_BUTTONS, _LOST_BUTTONS = 4, 6
_DISK_LOOKS, _LOST_DISK_LOOKS = 1, 2
_STUCK = "too many machines' QEMUs on the host do not answer"


class _Act:
    """What one machine's QEMU is asked to do, and whether that is under way."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work
        self.is_under_way = False

    def __call__(self, connection: Any) -> None:
        self.is_under_way = True
        try:
            self._work(connection)
        finally:
            self.is_under_way = False


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
        self._pool = CallPool("libvirt", size=workers, max_lost=max_lost_calls)
        # Starting and destroying take seconds: a burst of them must not keep looking waiting.
        self._start_pool = CallPool(
            "libvirt-starts", size=_STARTS, max_lost=min(_LOST_STARTS, max_lost_calls), stuck=_STUCK
        )
        self._button_pool = CallPool(
            "libvirt-buttons",
            size=_BUTTONS,
            max_lost=min(_LOST_BUTTONS, max_lost_calls),
            stuck=_STUCK,
        )
        # Cutting the power is what ends starts that hang, however many do.
        self._destroy_pool = CallPool("libvirt-destroys", size=workers, max_lost=max_lost_calls)
        # Asking a QEMU that hangs must not keep us from looking at its machine, or from ending it.
        self._disk_pool = CallPool("libvirt-disks", size=_DISK_LOOKS, max_lost=_LOST_DISK_LOOKS)
        self._changes = ChangeFeed()
        self._connections = Connections(
            libvirt, uri, self._changes.publish, pool=self._pool, deadline_s=call_deadline_s
        )
        self._stuck: dict[tuple[str, str], _Act] = {}
        """By act and machine: what did not end in time."""
        self._not_root: weakref.WeakSet[Any] = weakref.WeakSet()
        self._consoles: dict[str, ConsoleAttachment] = {}

    # The port.

    async def prove_accelerator(self) -> Accelerator:
        """Boot a guest on KVM under a deadline; takes up to `PROOF_DEADLINE_S` where it hangs."""
        return await prove_kvm(self._emulator, self._qemu_user)

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains that bear our metadata."""
        return await self._call(self._list, act="list the machines")

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None."""

        found = await self._call(
            self._observe(instance_id), act="look at the machine", instance_id=instance_id
        )
        if found is None or not found.paused_by_error:
            return found
        return replace(found, disk_error=await self._disk_error(instance_id))

    async def define(self, spec: DomainSpec) -> None:
        """Define the domain, or redefine it when it is off and its definition differs."""
        wanted = domain_xml.render(spec)

        def work(connection: Any) -> None:
            domain = self._look_up(connection, spec.instance_id)
            if domain is not None and (domain.isActive() or self._is_defined_so(domain, wanted)):
                return
            if domain is not None and domain.name() != spec.name:
                domain.rename(spec.name)  # a definition under another name would be refused
            connection.defineXMLFlags(wanted, self._libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

        await self._call(work, act="define the machine", instance_id=spec.instance_id)
        self._changes.publish(spec.instance_id)

    async def start(self, instance_id: str, *, paused: bool = False) -> None:
        """Start the domain, or resume it when paused."""
        act = "start the machine"
        found = await self._call(self._observe(instance_id), act=act, instance_id=instance_id)
        if found is not None and found.state is DomainState.PAUSED:
            if paused:
                return
            # A QEMU that may hang is asked: such as do must not keep others from being started.
            await self._act(self._resume(instance_id), act, instance_id, self._button_pool)
        else:
            deadline_s = self._start_deadline_s
            await self._act(
                self._boot(instance_id, paused=paused),
                act,
                instance_id,
                self._start_pool,
                deadline_s=deadline_s,
            )

    async def shutdown(self, instance_id: str) -> None:
        """Press the power button; whether the guest obeys is seen later."""

        def work(connection: Any) -> None:
            domain = self._look_up(connection, instance_id)
            if domain is not None and domain.isActive():
                button = self._libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
                self._unless_off(domain, lambda: domain.shutdownFlags(button))

        await self._act(work, "stop the machine", instance_id, self._button_pool)

    async def destroy(self, instance_id: str) -> None:
        """Cut the power."""

        def work(connection: Any) -> None:
            domain = self._look_up(connection, instance_id)
            if domain is not None and domain.isActive():
                self._unless_off(domain, domain.destroy)

        deadline_s = max(_DESTROY_DEADLINE_S, self._call_deadline_s)
        await self._act(
            work,
            "cut the machine's power",
            instance_id,
            self._destroy_pool,
            deadline_s=deadline_s,
        )

    async def reboot(self, instance_id: str, *, force: bool) -> None:
        """Ask the guest to restart by the power button, or reset it."""
        act = "restart the machine"

        def work(connection: Any) -> None:
            domain = self._must_look_up(connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            if force:
                domain.reset()
            else:
                domain.reboot(self._libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)

        await self._act(work, act, instance_id, self._button_pool)

    async def undefine(self, instance_id: str) -> None:
        """Remove the definition of a domain that is off."""
        act = "remove the machine's definition"

        def work(connection: Any) -> None:
            libvirt = self._libvirt
            domain = self._look_up(connection, instance_id)
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

        await self._call(work, act=act, instance_id=instance_id)

    async def live_ports(self, instance_id: str) -> Mapping[str, bool]:
        """Return the ports plugged into a domain that is on."""

        def work(connection: Any) -> Mapping[str, bool]:
            domain = self._look_up(connection, instance_id)
            return {} if domain is None else libvirt_ports.live_ports(domain)

        return await self._call(work, act="look at the machine's ports", instance_id=instance_id)

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
            domain = self._must_look_up(connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            change(domain)

        await self._act(work, act, instance_id, self._button_pool)

    async def usage(self) -> Sequence[DomainUsage]:
        """Return counters of all running domains, asked for in one bulk call.

        Domains whose hypervisor process is busy are answered for without waiting for it.
        """
        return await self._call(
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
            domain = self._must_look_up(connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            stream = connection.newStream(self._libvirt.VIR_STREAM_NONBLOCK)
            session.keep(stream)
            domain.openConsole(None, stream, self._libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0)
            return stream

        async def call(work: Callable[[], Any], *, act: str) -> Any:
            return await self._call(
                lambda _connection: work(), act=act, instance_id=instance_id, session=session
            )

        holder = self._consoles.get(instance_id) if force else None
        if holder is not None:
            holder.taken_over = True  # before its end, so that it can say why
        try:
            stream = await self._call(work, act=act, instance_id=instance_id, session=session)
        except BaseException:
            if holder is not None:
                holder.taken_over = False
            raise
        return ConsoleAttachment(self._libvirt, stream, call, instance_id)

    async def close(self) -> None:
        """End the watches and let go of libvirt; domains go on."""
        self._changes.close()
        await self._connections.close()
        for pool in (
            self._pool,
            self._start_pool,
            self._destroy_pool,
            self._button_pool,
            self._disk_pool,
        ):
            pool.close()

    # Calls.

    async def _disk_error(self, instance_id: str) -> DiskError | None:
        """Ask a paused machine's QEMU why; None when it does not say."""

        def work(connection: Any) -> DiskError | None:
            domain = self._look_up(connection, instance_id)
            return None if domain is None else disk_error(self._libvirt, domain)

        deadline_s = min(_DISK_ERROR_S, self._call_deadline_s)
        with contextlib.suppress(UnkaiError):
            return await self._connections.run(
                work,
                act="ask for a disk's error",
                instance_id=instance_id,
                pool=self._disk_pool,
                deadline_s=deadline_s,
            )
        return None

    async def _act(
        self,
        work: Callable[[Any], None],
        act: str,
        instance_id: str,
        pool: CallPool,
        *,
        deadline_s: float | None = None,
    ) -> None:
        """Run `work(connection)`, which waits for the machine's QEMU. While the same is stuck
        already, it is refused at once."""
        self._stuck = {key: one for key, one in self._stuck.items() if one.is_under_way}
        if (act, instance_id) in self._stuck:
            raise libvirt_errors.unavailable(
                "the machine's QEMU does not answer", {"act": act, "instance_id": instance_id}
            )
        once = _Act(work)
        deadline_s = deadline_s or self._call_deadline_s
        try:
            await self._connections.run(
                once, act=act, instance_id=instance_id, pool=pool, deadline_s=deadline_s
            )
        finally:
            if once.is_under_way:
                self._stuck[act, instance_id] = once

    async def _call(
        self,
        work: Callable[[Any], T],
        *,
        act: str,
        instance_id: str = "",
        session: Session | None = None,
    ) -> T:
        """Run `work(connection)`, which waits for libvirtd alone."""
        return await self._connections.run(
            work,
            act=act,
            instance_id=instance_id,
            pool=self._pool,
            deadline_s=self._call_deadline_s,
            session=session,
        )

    # Inside worker threads.

    def _observe(self, instance_id: str) -> Callable[[Any], Domain | None]:
        def work(connection: Any) -> Domain | None:
            domain = self._look_up(connection, instance_id)
            return None if domain is None else observed(self._libvirt, domain)

        return work

    def _look_up(self, connection: Any, instance_id: str) -> Any:
        try:
            return connection.lookupByUUIDString(str(ids.uuid_of(instance_id)))
        except self._libvirt.libvirtError as error:
            if error.get_error_code() == self._libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _must_look_up(self, connection: Any, instance_id: str) -> Any:
        domain = self._look_up(connection, instance_id)
        if domain is None:
            raise NotFound.of("domain", instance_id)
        return domain

    def _boot(self, instance_id: str, *, paused: bool) -> Callable[[Any], None]:
        def work(connection: Any) -> None:
            domain = self._must_look_up(connection, instance_id)
            # Another's start under way shows as a pause, which may be over by now.
            roused = not paused and self._rouse(domain)
            if not roused and not domain.isActive():
                self._refuse_root(connection, instance_id)
                self._create(domain, paused=paused)

        return work

    def _resume(self, instance_id: str) -> Callable[[Any], None]:
        def work(connection: Any) -> None:
            domain = self._must_look_up(connection, instance_id)
            if not self._rouse(domain) and not domain.isActive():
                raise libvirt_errors.unavailable("the machine went off meanwhile")

        return work

    def _rouse(self, domain: Any) -> bool:
        """Let a domain that sleeps go on; tell whether it slept."""
        state, _ = domain.state()
        if state == self._libvirt.VIR_DOMAIN_SHUTDOWN:
            raise libvirt_errors.unavailable("the machine is still powering off")
        if state == self._libvirt.VIR_DOMAIN_PAUSED:
            self._unless_running(domain, domain.resume)
        elif state == self._libvirt.VIR_DOMAIN_PMSUSPENDED:
            self._unless_running(domain, domain.pMWakeup)
        else:
            return False
        return True

    def _refuse_root(self, connection: Any, instance_id: str) -> None:
        """Refuse to start guests on a libvirtd that would run them as root. Asked for once each."""
        if connection in self._not_root:
            return
        if 0 in qemu_uids(connection.getCapabilities()):
            raise libvirt_errors.qemu_as_root(instance_id)
        self._not_root.add(connection)

    def _create(self, domain: Any, *, paused: bool) -> None:
        try:
            if paused:
                domain.createWithFlags(self._libvirt.VIR_DOMAIN_START_PAUSED)
            else:
                domain.create()
        except self._libvirt.libvirtError:
            if not domain.isActive():  # else another call was quicker
                raise

    def _unless_running(self, domain: Any, act: Callable[[], Any]) -> None:
        """Do `act`; that the domain runs meanwhile is what we wanted, that it is off is no refusal:
        the start that it was paused for has failed."""
        try:
            act()
        except self._libvirt.libvirtError as error:
            if not domain.isActive():
                raise libvirt_errors.unavailable("the machine went off meanwhile") from error
            if domain.state()[0] != self._libvirt.VIR_DOMAIN_RUNNING:
                raise

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

"""The hypervisor behind the port: libvirt, at any URI.

Below `converge` (define, start, stop) and `metrics` (usage). Every call runs in a `CallPool` of its
own, under a deadline; one that is missed means *unknown* and gives up both its thread and
its connection, so that the next call starts afresh. What a machine's own QEMU is asked to do goes
over a second connection, cutting its power over a third: one that hangs costs its machine alone.
Nothing here decides: whether a domain should run is the caller's business.

Trap: a domain's state comes from libvirt at that moment; events only say where to look. After a
reconnection each domain is hinted at once, since events may have been missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, TypeVar

from unkai_agent.compute import domain_xml, libvirt_errors
from unkai_agent.compute.call_pool import CallPool, CallTimedOut, PoolExhausted
from unkai_agent.compute.changes import ChangeFeed
from unkai_agent.compute.driver import DiskError, Domain, DomainSpec, DomainUsage
from unkai_agent.compute.kvm_proof import prove_kvm
from unkai_agent.compute.libvirt_console import ConsoleAttachment
from unkai_agent.compute.libvirt_domains import disk_error, identity_of, observed
from unkai_agent.compute.libvirt_session import Session, qemu_uids
from unkai_agent.compute.libvirt_usage import usage_of_all
from unkai_agent.domain.hosts import Accelerator
from unkai_wire import ids
from unkai_wire.errors import NotFound, Unavailable

T = TypeVar("T")

_DESTROY_DEADLINE_S = 30.0
"""libvirt waits up to 15 s for QEMU to die of SIGTERM, then of SIGKILL."""
_DISK_ERROR_S = 2.0
"""A QEMU that has not said by then what its disk met hangs, as one may whose disk hangs."""


class _Line(Enum):
    """What a connection is for."""

    LOOKS = auto()
    """Looks, definitions, events and consoles: nothing that waits for a QEMU, but for the two
    calls at most that ask what a disk met."""
    ACTS = auto()
    """What a QEMU is asked to do. libvirtd carries out 5 calls of a connection at once
    (`max_client_requests` of libvirtd.conf), so a few QEMUs that hang would block it."""
    CUTS = auto()
    """Cutting the power, which ends what hangs on the line before."""


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
        self._uri = uri
        self._emulator = emulator
        self._qemu_user = qemu_user
        self._call_deadline_s = call_deadline_s
        self._start_deadline_s = start_deadline_s
        self._pool = CallPool("libvirt", size=workers, max_lost=max_lost_calls)
        # Starting and destroying take seconds: a burst of them must not keep looking waiting.
        self._start_pool = CallPool("libvirt-starts", size=workers, max_lost=max_lost_calls)
        # Cutting the power is what ends starts that hang, however many do.
        self._destroy_pool = CallPool("libvirt-destroys", size=workers, max_lost=max_lost_calls)
        self._button_pool = CallPool("libvirt-buttons", size=workers, max_lost=max_lost_calls)
        # Asking a QEMU that hangs must not keep us from looking at its machine, or from ending it.
        self._disk_pool = CallPool("libvirt-disks", size=2, max_lost=2)
        self._changes = ChangeFeed()
        self._sessions: dict[_Line, Session] = {}
        self._stuck: dict[tuple[str, str], _Act] = {}
        """By act and machine: what did not end in time."""
        self._not_root: weakref.ref[Any] | None = None
        self._consoles: dict[str, ConsoleAttachment] = {}
        self._opening = asyncio.Lock()
        self._closed = False
        # A driver inside our own process cannot be connected to afresh.
        self._embedded = "/embed" in uri

    # The port.

    async def prove_accelerator(self) -> Accelerator:
        """Boot a guest on KVM under a deadline; takes up to `PROOF_DEADLINE_S` where it hangs."""
        return await prove_kvm(self._emulator, self._qemu_user)

    async def list_domains(self) -> Sequence[Domain]:
        """Return all domains that bear our metadata."""
        return await self._call(self._list, act="list the machines")

    async def get_domain(self, instance_id: str) -> Domain | None:
        """Return one domain, or None."""

        def work(connection: Any) -> Domain | None:
            domain = self._look_up(connection, instance_id)
            return None if domain is None else observed(self._libvirt, domain)

        found = await self._call(work, act="look at the machine", instance_id=instance_id)
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

    async def start(self, instance_id: str) -> None:
        """Start the domain, or resume it when paused."""

        def work(connection: Any) -> None:
            libvirt = self._libvirt
            domain = self._must_look_up(connection, instance_id)
            state, _ = domain.state()
            # Another's start under way shows as a pause, which may be over by now.
            if state == libvirt.VIR_DOMAIN_PAUSED:
                self._unless_running(domain, domain.resume)
            elif state == libvirt.VIR_DOMAIN_PMSUSPENDED:
                self._unless_running(domain, domain.pMWakeup)
            elif state == libvirt.VIR_DOMAIN_SHUTDOWN:
                raise libvirt_errors.unavailable("the machine is still powering off")
            elif not domain.isActive():
                self._refuse_root(connection, instance_id)
                self._create(domain)

        deadline_s = self._start_deadline_s
        await self._act(
            work, "start the machine", instance_id, self._start_pool, deadline_s=deadline_s
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
            line=_Line.CUTS,
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
            await self._open_session()  # else the next call that gets through does
        async for instance_id in changes:
            yield instance_id

    async def attach_console(
        self, instance_id: str, typed: AsyncIterator[bytes], *, force: bool
    ) -> AsyncIterator[bytes]:
        """Connect to the serial console; the session ends when the machine goes off."""
        act = "attach to the console"

        def work(connection: Any) -> Any:
            domain = self._must_look_up(connection, instance_id)
            if not domain.isActive():
                raise libvirt_errors.is_off(instance_id, act)
            stream = connection.newStream(self._libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, self._libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0)
            return stream

        async def call(work: Callable[[], Any], *, act: str) -> Any:
            return await self._call(lambda _connection: work(), act=act, instance_id=instance_id)

        holder = self._consoles.get(instance_id) if force else None
        if holder is not None:
            holder.taken_over = True  # before its end, so that it can say why
        try:
            stream = await self._call(work, act=act, instance_id=instance_id)
        except BaseException:
            if holder is not None:
                holder.taken_over = False
            raise
        attachment = ConsoleAttachment(self._libvirt, stream, call, instance_id)
        self._consoles[instance_id] = attachment
        try:
            async for text in attachment.talk(typed):
                yield text
        finally:
            if self._consoles.get(instance_id) is attachment:
                del self._consoles[instance_id]
            with contextlib.suppress(Unavailable):
                await attachment.end()

    async def close(self) -> None:
        """End the watches and let go of libvirt; domains go on."""
        self._closed = True
        self._changes.close()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            with contextlib.suppress(CallTimedOut, PoolExhausted):
                await self._pool.run(session.close, deadline_s=self._call_deadline_s)
        for pool in (
            self._pool,
            self._start_pool,
            self._destroy_pool,
            self._button_pool,
            self._disk_pool,
        ):
            pool.close()

    # Calls and connections.

    async def _disk_error(self, instance_id: str) -> DiskError | None:
        """Ask a paused machine's QEMU why; None when it does not say. The session stays."""
        connection = (await self._open_session()).connection

        def work() -> DiskError | None:
            domain = None if connection is None else self._look_up(connection, instance_id)
            return None if domain is None else disk_error(self._libvirt, domain)

        deadline_s = min(_DISK_ERROR_S, self._call_deadline_s)
        try:
            return await self._disk_pool.run(work, deadline_s=deadline_s)
        except (CallTimedOut, PoolExhausted, self._libvirt.libvirtError):
            return None

    async def _act(
        self,
        work: Callable[[Any], None],
        act: str,
        instance_id: str,
        pool: CallPool,
        *,
        deadline_s: float | None = None,
        line: _Line = _Line.ACTS,
    ) -> None:
        """Run `work(connection)`, which waits for the machine's QEMU. While the same is stuck
        already, it is refused at once."""
        self._stuck = {key: one for key, one in self._stuck.items() if one.is_under_way}
        if (act, instance_id) in self._stuck:
            raise libvirt_errors.unavailable(
                "the machine's QEMU does not answer", {"act": act, "instance_id": instance_id}
            )
        once = _Act(work)
        try:
            await self._run(
                once,
                act=act,
                instance_id=instance_id,
                line=line,
                pool=pool,
                deadline_s=deadline_s or self._call_deadline_s,
            )
        finally:
            if once.is_under_way:
                self._stuck[act, instance_id] = once

    async def _call(self, work: Callable[[Any], T], *, act: str, instance_id: str = "") -> T:
        """Run `work(connection)`, which waits for libvirtd alone."""
        return await self._run(
            work,
            act=act,
            instance_id=instance_id,
            line=_Line.LOOKS,
            pool=self._pool,
            deadline_s=self._call_deadline_s,
        )

    async def _run(
        self,
        work: Callable[[Any], T],
        *,
        act: str,
        instance_id: str,
        line: _Line,
        pool: CallPool,
        deadline_s: float,
    ) -> T:
        """Run `work(connection)`. Raises our errors, those of `libvirt_errors` included."""
        session = await self._open_session(line)
        connection = session.connection
        if connection is None:  # another call has given it up since
            raise libvirt_errors.unavailable("the hypervisor cannot be reached")
        try:
            return await pool.run(lambda: work(connection), deadline_s=deadline_s)
        except (CallTimedOut, PoolExhausted) as error:
            self._give_up(session)
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error
        except self._libvirt.libvirtError as error:
            if libvirt_errors.lost_connection(self._libvirt, error):
                self._give_up(session)
            raise libvirt_errors.translate(
                self._libvirt, error, act=act, instance_id=instance_id
            ) from error

    async def _open_session(self, line: _Line = _Line.LOOKS) -> Session:
        """Return the session in use, or a new one: one caller opens it, the others wait."""
        if self._embedded:
            line = _Line.LOOKS
        try:
            async with asyncio.timeout(self._call_deadline_s), self._opening:
                if self._closed:
                    raise libvirt_errors.unavailable("the agent is stopping")
                session = self._sessions.get(line)
                if session is not None and session.usable():
                    return session
                if session is not None:
                    self._give_up(session)
                return await self._connect(line)
        except TimeoutError as error:
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error

    async def _connect(self, line: _Line) -> Session:
        loop = asyncio.get_running_loop()

        def on_change(instance_id: str) -> None:  # in libvirt's event thread
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._changes.publish, instance_id)

        session = Session(self._libvirt, self._uri, on_change if line is _Line.LOOKS else None)
        opened = False
        try:
            await self._pool.run(session.open, deadline_s=self._call_deadline_s)
            opened = True
        except (CallTimedOut, PoolExhausted) as error:
            raise libvirt_errors.unavailable("the hypervisor does not answer") from error
        except self._libvirt.libvirtError as error:
            metadata = {"detail": libvirt_errors.without_paths(str(error))}
            raise libvirt_errors.unavailable(
                "the hypervisor cannot be reached", metadata
            ) from error
        finally:
            if not opened:
                session.retire()
        self._sessions[line] = session
        return session

    def _give_up(self, session: Session) -> None:
        for line, used in [*self._sessions.items()]:
            if used is session and not self._embedded:
                del self._sessions[line]
                session.retire()

    # Inside worker threads.

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

    def _refuse_root(self, connection: Any, instance_id: str) -> None:
        """Refuse to start guests on a libvirtd that would run them as root. Asked for once each."""
        if self._not_root is not None and self._not_root() is connection:
            return
        if 0 in qemu_uids(connection.getCapabilities()):
            raise libvirt_errors.qemu_as_root(instance_id)
        self._not_root = weakref.ref(connection)  # a reference of its own would keep it open

    def _create(self, domain: Any) -> None:
        try:
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

"""A libvirtd seen from libvirt's client, to put in place of `libvirt.open`.

A guest's QEMU may hang. What the real client does not survive is noted: two calls at once on a
connection (CVE-2024-4418), and who closed one, which blocks as long as libvirtd does not answer.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import libvirt

from tests.support.builders import an_id
from tests.support.compute import until
from unkai_agent.compute import domain_xml
from unkai_wire import ids


class Guest:
    """A guest that its disk has paused; the hung one's QEMU never says what it met there."""

    def __init__(self, ident: str, answers: threading.Event) -> None:
        self.ident = ident
        self.answers = answers
        self.is_on = True
        self.looks_until_off = 0
        """After so many looks at its state it goes off; 0: never."""
        self.next_states: list[int] = []
        """What it says of itself first, before what it is."""
        self.asked: list[str] = []


class FakeLibvirtd:
    """Two guests, and what came of the connections."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        at_once = threading.Event()
        at_once.set()
        self.guests: dict[str, Guest] = {}
        self.hung = an_id("instance")
        self.well = an_id("instance")
        self.add(Guest(self.hung, self.answers))
        self.add(Guest(self.well, at_once))
        self.connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self.opened = 0
        self.sending = threading.Event()
        """Something typed is under way."""
        self.consoles_left = 0
        self.kept_by_the_client: list[Any] = []
        """What libvirt's client never lets go of: streams that had a callback, and the callback."""
        self.connecting = threading.Event()
        """Connecting ends once it is set."""
        self.connecting.set()
        self.takes_no_more = False
        """No further connection can be made, for want of open files, say."""
        self.freed_by: list[threading.Thread] = []
        self.used_twice_at_once: list[str] = []

    def add(self, guest: Guest) -> None:
        self.guests[str(ids.uuid_of(guest.ident))] = guest

    def connect(self, _uri: str) -> _Connection:
        self.opened += 1
        self.connecting.wait(30)
        if self.takes_no_more:
            raise _error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_NONE)
        connection = _Connection(self)
        self.connections.add(connection)
        return connection

    async def until_open(self, number: int) -> None:
        """Wait until so many connections are left; threads close them."""

        async def so_many() -> bool:
            return len(self.connections) == number

        await until(so_many)

    def break_connections(self) -> None:
        """Let all connections be lost."""
        for connection in self.connections:
            connection.stands = False


class _Connection:
    """A connection as libvirt's client has it: one call at a time, or it may crash some day."""

    def __init__(self, libvirtd: FakeLibvirtd) -> None:
        self._libvirtd = libvirtd
        self._in_use = threading.Lock()
        self.stands = True

    @contextlib.contextmanager
    def used(self, call: str) -> Iterator[None]:
        alone = self._in_use.acquire(blocking=False)
        if not alone:
            self._libvirtd.used_twice_at_once.append(call)
        try:
            if not self.stands:
                raise _error(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC)
            yield
        finally:
            if alone:
                self._in_use.release()

    def __del__(self) -> None:
        self._libvirtd.freed_by.append(threading.current_thread())

    def isAlive(self) -> int:
        return int(self.stands)

    def domainEventRegisterAny(self, *_: Any) -> int:
        with self.used("register"):
            return 1

    def domainEventDeregisterAny(self, _ident: int) -> None:
        with self.used("deregister"):
            return

    def listAllDomains(self, _flags: int) -> list[Any]:
        with self.used("list"):
            return []

    def getCapabilities(self) -> str:
        with self.used("capabilities"):
            return "<capabilities/>"

    def newStream(self, _flags: int) -> _Stream:
        with self.used("new stream"):
            return _Stream(self, self._libvirtd)

    def lookupByUUIDString(self, text: str) -> _Domain:
        with self.used("look up"):
            if text not in self._libvirtd.guests:
                raise _error(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU)
            return _Domain(self, self._libvirtd.guests[text])


class _Domain:
    def __init__(self, connection: _Connection, guest: Guest) -> None:
        self._connection = connection
        self._guest = guest

    def metadata(self, *_: Any) -> str:
        with self._connection.used("metadata"):
            return (
                f'<{domain_xml.METADATA_TAG} xmlns="{domain_xml.NAMESPACE}" '
                f'instance_id="{self._guest.ident}" generation="1" run_epoch="1"/>'
            )

    def state(self) -> list[int]:
        guest = self._guest
        with self._connection.used("state"):
            if guest.looks_until_off:
                guest.looks_until_off -= 1
                guest.is_on = guest.looks_until_off > 0
        if guest.next_states:
            return [guest.next_states.pop(0), 0]
        if not guest.is_on:
            return [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED]
        return [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]

    def name(self) -> str:
        return self._guest.ident

    def isActive(self) -> bool:
        with self._connection.used("is active"):
            return self._guest.is_on

    def create(self) -> None:
        with self._connection.used("create"):
            self._guest.asked.append("create")
            self._guest.is_on = True

    def destroy(self) -> None:
        with self._connection.used("destroy"):
            self._guest.is_on = False

    def resume(self) -> None:
        self._ask("resume")

    def shutdownFlags(self, _flags: int) -> None:
        self._ask("shut down")

    def reboot(self, _flags: int) -> None:
        self._ask("restart")

    def reset(self) -> None:
        self._ask("reset")

    def openConsole(self, _device: None, _stream: _Stream, _flags: int) -> None:
        with self._connection.used("open console"):
            return

    def diskErrors(self) -> dict[str, int]:
        self._ask("disk errors")
        return {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}

    def _ask(self, call: str) -> None:
        with self._connection.used(call):
            self._guest.asked.append(call)
            self._guest.answers.wait(30)
            if not self._guest.is_on:
                raise libvirt.libvirtError("it went off")


class _Stream:
    """A console that takes what is typed once the hung guest answers."""

    def __init__(self, connection: _Connection, libvirtd: FakeLibvirtd) -> None:
        self._conn = connection
        self._libvirtd = libvirtd

    def __del__(self) -> None:
        return

    def eventAddCallback(self, *callback: Any) -> None:
        self._libvirtd.kept_by_the_client.append((self, callback))

    def eventRemoveCallback(self) -> None:
        return

    def send(self, typed: bytes) -> int:
        with self._conn.used("send"):
            self._libvirtd.sending.set()
            self._libvirtd.answers.wait(30)
            return len(typed)

    def abort(self) -> None:
        with self._conn.used("abort"):
            self._libvirtd.consoles_left += 1


def _error(code: int, domain: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("no")
    error.err = (code, domain, "no", 2, "", "", "", 0, 0)
    return error

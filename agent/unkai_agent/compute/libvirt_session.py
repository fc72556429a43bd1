"""One connection to libvirt, with its event subscription. Blocking: for worker threads only.

`libvirt_connections.py` opens sessions, gives each to one call at a time, and retires them. The
libvirt module is passed in, since only the driver imports it.

Traps. libvirt needs its event loop registered before the first connection of the process, and
running all the time (events and streams live on it). Closing a connection to a libvirtd that hangs
blocks, and freeing one under a call that is still under way crashes; so `retire` closes in a thread
of its own, and drops references only: the last one to go closes. None may thus be left to the event
loop's thread: not in the locals of an error's traceback, and not in a stream (`keep`).

Before libvirt 10.4 a call that is woken by another one on its connection, or by a keepalive ping,
leaves a pointer into its stack behind, which a later call follows (CVE-2024-4418). So a session's
calls take turns, and nothing asks for keepalive: each call has a deadline, and a local socket tells
at once that libvirtd has died.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from unkai_agent.compute.libvirt_errors import unavailable
from unkai_wire import ids

T = TypeVar("T")

_event_loop_lock = threading.Lock()
_event_loop: threading.Thread | None = None

_given_up_lock = threading.Lock()
_given_up: list[Session] = []
"""Sessions that no thread has begun to close yet."""


def start_event_loop(libvirt: Any) -> None:
    """Register and run libvirt's event loop, once per process.

    Raises Unavailable when the process can have no thread for it; the next call tries again.
    """
    global _event_loop  # noqa: PLW0603  libvirt's own loop is one per process
    with _event_loop_lock:
        if _event_loop is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # By default libvirt prints each error to stderr, although it also raises it.
        libvirt.registerErrorHandler(_ignore_error, None)
        loop = threading.Thread(
            target=_run_event_loop, args=(libvirt,), name="libvirt-events", daemon=True
        )
        try:
            loop.start()
        except RuntimeError as error:
            raise unavailable("the host has no thread for libvirt's events") from error
        _event_loop = loop


def _ignore_error(_opaque: object, _error: object) -> None:
    return


def _run_event_loop(libvirt: Any) -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            time.sleep(0.1)  # its poll failed; there is nothing to do but to go on


class Session:
    """A connection. `on_change(instance_id)` is called in libvirt's event thread; without it there
    is no subscription. One that is `shared` serves calls side by side: that of a driver inside our
    own process, which no message passes over."""

    def __init__(
        self,
        libvirt: Any,
        uri: str,
        on_change: Callable[[str], None] | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self._libvirt = libvirt
        self._uri = uri
        self._on_change = on_change
        self._lock = threading.Lock()
        self._turn = contextlib.nullcontext() if shared else threading.Lock()
        self._retired = threading.Event()
        self._callback_id: int | None = None
        self._connection: Any = None
        self._streams: list[Any] = []

    def open(self) -> None:
        """Connect, subscribe to events, and hint at every domain: events may have been missed."""
        self.call(lambda _connection: None)

    def call(self, work: Callable[[Any], T]) -> T:
        """Return `work(virConnect)`; connects at first. Calls of several threads take turns.

        Raises `libvirt.libvirtError`, and Unavailable once the connection was given up.
        """
        with self._turn:
            try:
                return work(self._connection or self._open())
            except Exception as error:
                _clear_locals(error)
                raise

    def keep(self, stream: Any) -> None:
        """Free a stream (virStream) when the connection is given up, and not before."""
        self._streams.append(stream)

    def _open(self) -> Any:
        libvirt = self._libvirt
        if self._retired.is_set():
            raise unavailable("the connection to the hypervisor was given up")
        start_event_loop(libvirt)
        connection = libvirt.open(self._uri)
        callback_id = None
        if self._on_change is not None:
            callback_id = connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle_event, None
            )
        with self._lock:
            self._connection, self._callback_id = connection, callback_id
        if self._retired.is_set():  # whoever asked has gone meanwhile
            self._let_go()
            raise unavailable("the connection to the hypervisor was given up")
        if self._on_change is not None:
            for domain in connection.listAllDomains(0):
                self._hint(domain)
        return connection

    def usable(self) -> bool:
        """Tell, without asking libvirtd, whether the connection still stands."""
        connection = self._connection
        try:
            return connection is not None and connection.isAlive() == 1
        except self._libvirt.libvirtError:
            return False

    def retire(self) -> None:
        """Give the connection up, without blocking and without ending calls under way."""
        retire_all([self])

    def give_up(self) -> bool:
        """Let no further call connect; tell whether there is something left to `close`."""
        with self._lock:
            was_retired = self._retired.is_set()
            self._retired.set()
            return not was_retired and self._connection is not None

    def close(self) -> None:
        """Give the connection up, and wait for that and for the calls under way."""
        self._retired.set()
        with self._turn:
            self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            callback_id, self._callback_id = self._callback_id, None
            streams, self._streams = self._streams, []
        for stream in streams:
            _free(stream)
        if connection is None or callback_id is None:
            return
        with contextlib.suppress(self._libvirt.libvirtError):
            connection.domainEventDeregisterAny(callback_id)

    def _lifecycle_event(
        self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: object
    ) -> None:
        if not self._retired.is_set():
            self._hint(domain)

    def _hint(self, domain: Any) -> None:
        instance_id = instance_id_of(domain.UUIDString())
        if instance_id is not None and self._on_change is not None:
            self._on_change(instance_id)


def retire_all(sessions: Sequence[Session]) -> None:
    """Give connections up in one thread, without blocking and without ending calls under way.

    When the process can have no thread for it, they wait for the next time.
    """
    given_up = [session for session in sessions if session.give_up()]
    with _given_up_lock:
        _given_up.extend(given_up)
        if not _given_up:
            return
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=_close_all, name="libvirt-retire", daemon=True).start()


def _close_all() -> None:
    while True:
        with _given_up_lock:
            if not _given_up:
                return
            session = _given_up.pop()
        session.close()
        del session  # here, and not when the next one has been waited for


def _free(stream: Any) -> None:
    """Free a stream now. libvirt's client never lets go of what `eventAddCallback` was given, and
    so would keep the Python stream, with its connection, for good."""
    stream.__del__()
    stream._conn = None


def _clear_locals(error: BaseException | None) -> None:
    """Let the frames of an error and of its causes go of connections and domains."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def qemu_uids(capabilities: str) -> set[int]:
    """Return the user ids that libvirt's capabilities say guests run as; none without DAC.

    `host/secmodel` of the model `dac`, whose `baselabel` is `+UID:+GID` (libvirt's "Driver
    capabilities XML format").
    """
    labels = [
        (label.text or "").strip().lstrip("+").partition(":")[0]
        for model in ET.fromstring(capabilities).iterfind("host/secmodel")  # noqa: S314  libvirt's
        if model.findtext("model") == "dac"
        for label in model.iterfind("baselabel")
    ]
    return {int(label) for label in labels if label.isdecimal()}


def instance_id_of(uuid_text: str) -> str | None:
    """Return the instance's id for a domain's UUID; None when it cannot be one of ours."""
    value = uuid.UUID(uuid_text)
    return ids.encode(ids.PREFIXES["instance"], value) if value.version == 7 else None

"""The console: this terminal joined to an instance's serial line.

On a terminal it is put into raw mode, so that every key goes to the guest but the one that
leaves. With piped input it sends what comes and leaves some seconds after the end of it. Bytes
pass as they are both ways; one that a slow guest has not taken yet holds up those behind it, so
that a long paste loses nothing.
"""

from __future__ import annotations

import io
import os
import queue
import random
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unkai_cli.output import note
from unkai_cli.terminals import RawTerminal, key_text
from unkai_wire.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    UnkaiError,
)

if TYPE_CHECKING:
    from unkai_cli.session import Session

LINGER_S = 2.0
"""With piped input: how long output is still shown after its end."""
PARTING_S = 0.5
"""How long what was typed just before leaving may take to the guest."""
HANDOVER_S = 15.0
"""After a lost connection the console may be held by our own last call for so long."""
_LINE_BYTES = 1024
"""What a line of a log is taken to be at most, when the last so many are wanted."""
_TAIL_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the user wants to be joined."""

    force: bool = False
    escape: int | None = 0x1D
    """Byte of the key that leaves; None: no key does."""
    reconnect: bool = False
    log_lines: int = 0
    """Show so many last lines of the log first."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A road to one console: by the scheduler, or by the host's agent."""

    name: str
    opening: Callable[[bool], Any]
    """Makes the first request: with force or not."""
    typed: Callable[[bytes], Any]
    attach: Callable[[Iterator[Any]], Any]
    log: Callable[[int], Iterable[Any]]
    """Reads the log's last so many bytes, while the console is open."""


def by_scheduler(session: Session, name: str, wishes: Wishes) -> None:
    """Join this terminal to the console by way of the scheduler."""
    from unkai.compute.v1 import instance_service_pb2 as pb

    client = session.client
    ident = client.resolve("instance", name)
    kind = pb.AttachConsoleRequest
    way = _Way(
        name,
        opening=lambda force: kind(open=kind.Open(instance_id=ident, force=force)),
        typed=lambda data: kind(input=data),
        attach=lambda requests: client.both("InstanceService", "AttachConsole", requests),
        log=lambda tail: client.stream_once(
            "InstanceService", "ReadConsoleLog", instance_id=ident, tail_bytes=tail
        ),
    )
    _Joint(way, wishes).run()


def on_host(name: str, wishes: Wishes) -> None:
    """Join this terminal to the console by this host's agent alone."""
    from unkai.agent.v1 import machine_service_pb2 as pb

    kind = pb.AttachConsoleRequest
    with _machine_here(name) as (machines, host_id, ident):
        way = _Way(
            name,
            opening=lambda force: kind(
                open=kind.Open(host_id=host_id, instance_id=ident, force=force)
            ),
            typed=lambda data: kind(input=data),
            attach=machines.AttachConsole,
            log=lambda tail: machines.ReadConsoleLog(
                pb.ReadConsoleLogRequest(host_id=host_id, instance_id=ident, tail_bytes=tail)
            ),
        )
        _Joint(way, wishes).run()


def log_by_scheduler(
    session: Session, name: str, *, tail_bytes: int, follow: bool
) -> Iterator[bytes]:
    """Yield pieces of a console's log by way of the scheduler."""
    for answer in session.client.stream(
        "InstanceService",
        "ReadConsoleLog",
        instance_id=session.client.resolve("instance", name),
        tail_bytes=tail_bytes,
        follow=follow,
    ):
        yield answer.output


def log_on_host(name: str, *, tail_bytes: int, follow: bool) -> Iterator[bytes]:
    """Yield pieces of a console's log by this host's agent alone."""
    from unkai.agent.v1 import machine_service_pb2 as pb

    with _machine_here(name) as (machines, host_id, ident), _errors():
        for answer in machines.ReadConsoleLog(
            pb.ReadConsoleLogRequest(
                host_id=host_id, instance_id=ident, tail_bytes=tail_bytes, follow=follow
            )
        ):
            yield answer.output


@contextmanager
def _machine_here(name: str) -> Iterator[tuple[Any, str, str]]:
    """Give the agent's machines, its host's id, and the id of the one machine of that name."""
    from unkai.agent.v1 import host_service_pb2, host_service_pb2_grpc
    from unkai.agent.v1 import machine_service_pb2 as pb
    from unkai.agent.v1 import machine_service_pb2_grpc as stubs
    from unkai_cli.channels import open_socket
    from unkai_cli.settings import agent_socket

    with open_socket(
        agent_socket(), "start the agent on this host, or leave --on-host out"
    ) as channel:
        machines = stubs.MachineServiceStub(channel)
        with _errors():
            described = host_service_pb2_grpc.HostServiceStub(channel).Describe(
                host_service_pb2.DescribeRequest(), timeout=5
            )
            host_id = described.host.host_id
            request = pb.ListMachinesRequest(host_id=host_id)
            held = machines.ListMachines(request, timeout=5).machines
        yield machines, host_id, chosen_machine(held, name)


def chosen_machine(machines: Any, name: str) -> str:
    """Return the id of the one machine of this name, domain, id, or beginning of an id.

    Raise `NotFound` when there is none, `InvalidArgument` when there are several.
    """
    exact = [m for m in machines if name in (m.instance_id, m.domain_name)]
    named = [m for m in machines if m.instance.name == name]
    begun = [m for m in machines if len(name) >= 6 and m.instance_id.startswith(name)]
    found = [m.instance_id for m in exact or named or begun]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise InvalidArgument(
            f"this host holds {len(found)} machines called {name}: {', '.join(found[:5])}",
            reason="AMBIGUOUS",
            fix="give the whole id",
            metadata={"text": name},
        )
    raise NotFound(
        f"this host holds no machine called {name}",
        reason="MACHINE_NOT_FOUND",
        fix="look where it is with 'unkai instance show', or leave --on-host out",
        metadata={"name": name},
    )


class _Attachment:
    """One call to a console, from its first message to its end."""

    def __init__(self, way: _Way, *, force: bool) -> None:
        self._way = way
        self._requests: queue.Queue[Any] = queue.Queue(maxsize=256)
        self._requests.put(way.opening(force))
        self._all_sent = threading.Event()
        self._last_typed_s = -LINGER_S
        self._call = way.attach(self._sent())
        self.is_open = False

    def _sent(self) -> Iterator[Any]:
        # grpc asks for the next message once the last one is on its way.
        yield from iter(self._requests.get, None)
        self._all_sent.set()

    def open(self) -> bytes:
        """Wait for the first answer, which says that the console is open."""
        with _errors():
            opening = next(self._call, None)
        self.is_open = True
        return b"" if opening is None else opening.output

    def output(self) -> Iterator[bytes]:
        """Yield what the guest prints."""
        with _errors():
            for answer in self._call:
                yield answer.output

    def send(self, data: bytes) -> None:
        """Send what was typed; wait while the guest takes no more, not longer than the call."""
        while self.is_open and self._call.is_active():
            with suppress(queue.Full):
                self._requests.put(self._way.typed(data), timeout=0.25)
                self._last_typed_s = time.monotonic()
                return

    def leave(self) -> None:
        """End the call, but let what was typed just before reach the guest."""
        with suppress(queue.Full):
            self._requests.put_nowait(None)
            self._all_sent.wait(PARTING_S)
        time.sleep(max(0.0, self._last_typed_s + PARTING_S - time.monotonic()))
        self._call.cancel()

    def end(self) -> None:
        """End the call and let grpc's sending thread go; a full queue means that it is gone."""
        self._call.cancel()
        with suppress(queue.Full):
            self._requests.put_nowait(None)


class _Joint:
    """This terminal and one console, by as many calls as it takes."""

    def __init__(self, way: _Way, wishes: Wishes) -> None:
        self._way = way
        self._wishes = wishes
        self._interactive = False
        self._left = threading.Event()
        """The user left: the end of the call is no error."""
        self._attachment = _Attachment(way, force=wishes.force)

    def run(self) -> None:
        """Carry bytes both ways until the user or the console leaves."""
        try:
            # Until the console is open keys stay the shell's: Ctrl-C ends the waiting.
            opening = self._attachment.open()
            last_lines = self._last_lines() if self._wishes.log_lines else b""
            with RawTerminal() as terminal:
                self._interactive = terminal.is_terminal
                _write(last_lines + opening)
                self._tell_connected()
                threading.Thread(target=self._read, daemon=True).start()
                self._carry()
        finally:
            self._attachment.end()
        if self._left.is_set():
            note("")
        else:
            note(f"the console of {self._way.name} was closed")

    def _carry(self) -> None:
        while True:
            why = f"the console of {self._way.name} was closed"
            try:
                for piece in self._attachment.output():
                    _write(piece)
            except Unavailable as error:
                if not self._wishes.reconnect and not self._left.is_set():
                    raise
                why = error.message
            except UnkaiError:
                if not self._left.is_set():
                    raise
            if self._left.is_set() or not self._wishes.reconnect or not self._joined_again(why):
                return

    def _joined_again(self, why: str) -> bool:
        """Try until the console is open again; False when the user left meanwhile."""
        self._tell(f"{why}; trying again{self._how_to_leave()}")
        lost_s, failures = time.monotonic(), 0
        while not self._left.wait(min(0.2 * 2**failures, 2.0) * random.uniform(0.7, 1.3)):  # noqa: S311 - jitter, not a secret
            self._attachment.end()
            # Never by force: who took the console over meanwhile may keep it.
            self._attachment = _Attachment(self._way, force=False)
            if self._left.is_set():
                break
            try:
                _write(self._attachment.open())
            except UnkaiError as error:
                if not self._left.is_set() and not _passes(error, time.monotonic() - lost_s):
                    raise
                failures += 1
                continue
            self._tell_connected()
            return True
        return False

    def _last_lines(self) -> bytes:
        """Return what the guest wrote before: read once the console is open, so none is lost."""
        lines = self._wishes.log_lines
        try:
            with _errors():
                tail = self._way.log(min(lines * _LINE_BYTES, _TAIL_MAX_BYTES))
                kept = b"".join(answer.output for answer in tail)
        except UnkaiError as error:
            # The console is what was asked for, and it is open.
            note(f"the log's last lines cannot be shown: {error.message}")
            return b""
        return b"".join(io.BytesIO(kept).readlines()[-lines:])

    def _how_to_leave(self) -> str:
        escape = self._wishes.escape
        return "" if escape is None else f"; {key_text(escape)} leaves"

    def _tell_connected(self) -> None:
        # Once this is read, every key is the guest's.
        self._tell(f"connected to {self._way.name}{self._how_to_leave()}")

    def _tell(self, text: str) -> None:
        if self._interactive:
            note(f"{text}\r")  # a raw terminal wants its return

    def _read(self) -> None:
        """Send what is typed until the key that leaves, or the end of input."""
        fd = sys.stdin.fileno()
        while not self._left.is_set():
            if not select.select([fd], [], [], 0.25)[0]:
                continue
            try:
                typed = os.read(fd, 4096)
            except OSError:  # the terminal is gone
                typed = b""
            keys, leaves = self._cut(typed)
            if keys:
                self._attachment.send(keys)
            if not typed:
                time.sleep(LINGER_S)
            if leaves or not typed:
                self._left.set()
                self._attachment.leave()

    def _cut(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what is the guest's, and whether the key that leaves was typed after it."""
        if not self._interactive or self._wishes.escape is None:
            return typed, False
        keys, found, _ = typed.partition(bytes([self._wishes.escape]))
        return keys, bool(found)


def _passes(error: UnkaiError, since_s: float) -> bool:
    """Tell whether an error of a console that was open may go away by itself."""
    if error.reason == "CONSOLE_IN_USE":
        return since_s < HANDOVER_S
    return isinstance(error, Unavailable | FailedPrecondition)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise our error for grpc's."""
    import grpc

    from unkai_wire.rpc_errors import from_rpc_error

    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()

"""The console: this terminal joined to an instance's serial line.

On a terminal it is put into raw mode, so that every key goes to the guest but Ctrl-], which
leaves. With piped input it sends what comes and leaves some seconds after the end of it.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unkai_cli.output import note
from unkai_wire.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

ESCAPE = 0x1D
"""Ctrl-], as telnet and virsh have it."""
LINGER_S = 2.0
"""With piped input: how long output is still shown after its end."""


def by_scheduler(session: Session, name: str, *, force: bool) -> None:
    """Join this terminal to the console by way of the scheduler."""
    from unkai.compute.v1 import instance_service_pb2 as pb

    ident = session.client.resolve("instance", name)
    first = pb.AttachConsoleRequest(
        open=pb.AttachConsoleRequest.Open(instance_id=ident, force=force)
    )
    _Joint(
        name,
        first,
        typed=lambda data: pb.AttachConsoleRequest(input=data),
        attach=lambda requests: session.client.both("InstanceService", "AttachConsole", requests),
    ).run()


def on_host(session: Session, name: str, *, force: bool) -> None:
    """Join this terminal to the console by this host's agent alone."""
    import grpc

    from unkai.agent.v1 import host_service_pb2, host_service_pb2_grpc
    from unkai.agent.v1 import machine_service_pb2 as pb
    from unkai.agent.v1 import machine_service_pb2_grpc as stubs
    from unkai_cli.channels import open_socket
    from unkai_cli.settings import agent_socket
    from unkai_wire.rpc_errors import from_rpc_error

    with open_socket(
        agent_socket(), "start the agent on this host, or leave --on-host out"
    ) as channel:
        machines = stubs.MachineServiceStub(channel)
        try:
            described = host_service_pb2_grpc.HostServiceStub(channel).Describe(
                host_service_pb2.DescribeRequest(), timeout=5
            )
            host_id = described.host.host_id
            request = pb.ListMachinesRequest(host_id=host_id)
            held = machines.ListMachines(request, timeout=5).machines
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        first = pb.AttachConsoleRequest(
            open=pb.AttachConsoleRequest.Open(
                host_id=host_id, instance_id=chosen_machine(held, name), force=force
            )
        )
        _Joint(
            name,
            first,
            typed=lambda data: pb.AttachConsoleRequest(input=data),
            attach=machines.AttachConsole,
        ).run()


def chosen_machine(machines: Any, name: str) -> str:
    """Return the id of the one machine of this name, domain, id, or beginning of an id."""
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


class _Joint:
    """This terminal and one console, from the first message to the end of the call."""

    def __init__(
        self,
        name: str,
        first: Any,
        *,
        typed: Callable[[bytes], Any],
        attach: Callable[[Iterator[Any]], Any],
    ) -> None:
        self._name = name
        self._typed = typed
        self._requests: queue.Queue[Any] = queue.Queue(maxsize=256)
        self._requests.put(first)
        self._call = attach(iter(self._requests.get, None))
        self._interactive = sys.stdin.isatty()
        self._left = False
        """The user left: the end of the call is no error."""

    def run(self) -> None:
        """Carry bytes both ways until the user or the console leaves."""
        import grpc

        from unkai_wire.rpc_errors import from_rpc_error

        try:
            # The first answer says that the console is open; until then keys stay the shell's.
            opening = next(self._call, None)
            if opening is not None:
                self._carry(opening.output)
        except grpc.RpcError as error:
            if not self._left:
                raise from_rpc_error(error) from error
        finally:
            self._call.cancel()
            self._end_requests()
        if self._left:
            note("")
        else:
            note(f"the console of {self._name} was closed")

    def _carry(self, opening: bytes) -> None:
        _write(opening)
        with _raw_terminal():
            if self._interactive:
                # Once this is read, every key is the guest's. A raw terminal wants its return.
                note(f"connected to {self._name}; Ctrl-] leaves\r")
            threading.Thread(target=self._read, daemon=True).start()
            for answer in self._call:
                _write(answer.output)

    def _end_requests(self) -> None:
        """Let grpc's sending thread end; a full queue means that it is gone already."""
        try:
            self._requests.put_nowait(None)
        except queue.Full:
            return

    def _read(self) -> None:
        """Send what is typed until Ctrl-], the end of input, or the end of the call."""
        fd = sys.stdin.fileno()
        while self._call.is_active():
            ready, _, _ = select.select([fd], [], [], 0.25)
            if not ready:
                continue
            data = os.read(fd, 4096)
            if self._interactive and ESCAPE in data:
                before = data[: data.index(ESCAPE)]
                if before:
                    self._requests.put(self._typed(before))
                self._leave()
                return
            if not data:
                time.sleep(LINGER_S)
                self._leave()
                return
            self._requests.put(self._typed(data))

    def _leave(self) -> None:
        self._left = True
        self._call.cancel()


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)

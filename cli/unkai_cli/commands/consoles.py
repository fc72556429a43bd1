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
from unkai_wire.errors import NotFound

if TYPE_CHECKING:
    from unkai_cli.main import Session

ESCAPE = 0x1D
"""Ctrl-], as telnet and virsh have it."""
LINGER_S = 2.0
"""With piped input: how long output is still shown after its end."""


def by_scheduler(session: Session, name: str, *, force: bool) -> int:
    """Join this terminal to the console by way of the scheduler; return the exit code."""
    from unkai.compute.v1 import instance_service_pb2 as pb

    ident = session.client.resolve("instance", name)
    first = pb.AttachConsoleRequest(
        open=pb.AttachConsoleRequest.Open(instance_id=ident, force=force)
    )
    return _join(
        name,
        first,
        lambda data: pb.AttachConsoleRequest(input=data),
        lambda requests: session.client.both("InstanceService", "AttachConsole", requests),
    )


def on_host(session: Session, name: str, *, force: bool) -> int:
    """Join this terminal to the console by this host's agent alone; return the exit code."""
    import grpc

    from unkai.agent.v1 import host_service_pb2, host_service_pb2_grpc
    from unkai.agent.v1 import machine_service_pb2 as pb
    from unkai.agent.v1 import machine_service_pb2_grpc as stubs
    from unkai_cli.client import open_socket
    from unkai_cli.settings import agent_socket
    from unkai_wire.rpc_errors import from_rpc_error

    channel = open_socket(agent_socket())
    machines = stubs.MachineServiceStub(channel)
    try:
        described = host_service_pb2_grpc.HostServiceStub(channel).Describe(
            host_service_pb2.DescribeRequest(), timeout=5
        )
        host_id = described.host.host_id
        held = machines.ListMachines(pb.ListMachinesRequest(host_id=host_id), timeout=5).machines
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    found = [
        m.instance_id
        for m in held
        if name in (m.instance.name, m.instance_id, m.domain_name)
        or (len(name) >= 6 and m.instance_id.startswith(name))
    ]
    if len(found) != 1:
        raise NotFound(
            f"this host holds {len(found)} machines called {name}",
            reason="MACHINE_NOT_FOUND",
            fix="give the whole id",
            metadata={"name": name, "found": str(len(found))},
        )
    first = pb.AttachConsoleRequest(
        open=pb.AttachConsoleRequest.Open(host_id=host_id, instance_id=found[0], force=force)
    )
    return _join(
        name, first, lambda data: pb.AttachConsoleRequest(input=data), machines.AttachConsole
    )


def _join(
    name: str,
    first: Any,
    typed: Callable[[bytes], Any],
    attach: Callable[[Iterator[Any]], Any],
) -> int:
    import grpc

    from unkai_wire.rpc_errors import from_rpc_error

    requests: queue.Queue[Any] = queue.Queue(maxsize=256)
    requests.put(first)
    call = attach(iter(requests.get, None))
    try:
        # The first answer says that the console is open; until then keys stay the shell's.
        _write(next(call).output)
        if sys.stdin.isatty():
            note(f"connected to {name}; Ctrl-] leaves")
        with _raw_terminal():
            reader = threading.Thread(target=_read, args=(requests, typed, call), daemon=True)
            reader.start()
            for answer in call:
                _write(answer.output)
    except StopIteration:
        return 0
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.CANCELLED:
            note("")
            return 0
        raise from_rpc_error(error) from error
    finally:
        requests.put(None)
    note(f"the console of {name} was closed")
    return 0


def _read(requests: queue.Queue[Any], typed: Callable[[bytes], Any], call: Any) -> None:
    """Send what is typed until Ctrl-], the end of input, or the end of the call."""
    fd, interactive = sys.stdin.fileno(), sys.stdin.isatty()
    while call.is_active():
        ready, _, _ = select.select([fd], [], [], 0.25)
        if not ready:
            continue
        data = os.read(fd, 4096)
        if interactive and ESCAPE in data:
            before = data[: data.index(ESCAPE)]
            if before:
                requests.put(typed(before))
            call.cancel()
            return
        if not data:
            time.sleep(LINGER_S)
            call.cancel()
            return
        requests.put(typed(data))


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
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)

"""`agent.v1.MachineService`: orders in, what is observed out, consoles.

Converts, and asks the converger, whose ledger checks the fence before anything is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, nullcontext
from typing import Any, cast

import grpc

from unkai.agent.v1 import machine_service_pb2 as pb
from unkai.agent.v1 import machine_service_pb2_grpc
from unkai_agent.api import convert
from unkai_agent.api.console_log import read_log
from unkai_agent.api.directory import Host, HostDirectory
from unkai_agent.api.interceptors import caller
from unkai_agent.converge.feed import Change, Synced
from unkai_agent.domain.machines import Machine, Tombstone
from unkai_wire.errors import InvalidArgument, NotFound
from unkai_wire.tls import Role

Context = grpc.aio.ServicerContext[Any, Any]
_TAIL_MAX_BYTES = 16 << 20
_INPUT_MAX_BYTES = 64 << 10


class MachineServicer(machine_service_pb2_grpc.MachineServiceServicer):
    """Machines of the hosts in the directory."""

    def __init__(self, directory: HostDirectory) -> None:
        self._directory = directory

    async def EnsureMachine(
        self, request: pb.EnsureMachineRequest, context: Context
    ) -> pb.EnsureMachineResponse:
        """Accept what shall be."""
        host = self._directory.find(request.host_id)
        fence = convert.fence(request.fence)
        machine = await host.converger.ensure(fence, convert.machine_spec(request.spec, fence))
        return pb.EnsureMachineResponse(machine=convert.machine_message(machine))

    async def RemoveMachine(
        self, request: pb.RemoveMachineRequest, context: Context
    ) -> pb.RemoveMachineResponse:
        """Accept a removal."""
        host = self._directory.find(request.host_id)
        left = await host.converger.remove(convert.fence(request.fence), request.instance_id)
        if isinstance(left, Tombstone):
            return pb.RemoveMachineResponse(tombstone=convert.tombstone_message(left))
        return pb.RemoveMachineResponse(machine=convert.machine_message(left))

    async def ListMachines(
        self, request: pb.ListMachinesRequest, context: Context
    ) -> pb.ListMachinesResponse:
        """Return all machines and tombstones."""
        converger = self._directory.find_for_reading(request.host_id).converger
        return pb.ListMachinesResponse(
            machines=[convert.machine_message(m) for m in converger.machines()],
            tombstones=[convert.tombstone_message(t) for t in converger.tombstones()],
        )

    async def GetMachineSpec(
        self, request: pb.GetMachineSpecRequest, context: Context
    ) -> pb.GetMachineSpecResponse:
        """Return a machine with what it was last ordered to be."""
        converger = self._directory.find(request.host_id).converger
        machine = converger.machine(request.instance_id)
        entry = converger.order_of(request.instance_id)
        return pb.GetMachineSpecResponse(
            machine=convert.machine_message(machine), spec=convert.spec_message(entry)
        )

    async def WatchMachines(
        self, request: pb.WatchMachinesRequest, context: Context
    ) -> AsyncIterator[pb.WatchMachinesResponse]:
        """Send all there is, then each change. A scheduler's watch counts as a leader's word."""
        converger = self._directory.find_for_reading(request.host_id).converger
        leads = caller(context).role is Role.SCHEDULER
        with converger.leader_watches() if leads else nullcontext():
            async for change in converger.watch():
                yield _change_message(change)

    async def AcknowledgeTombstones(
        self, request: pb.AcknowledgeTombstonesRequest, context: Context
    ) -> pb.AcknowledgeTombstonesResponse:
        """Note which tombstones the leader has recorded."""
        host = self._directory.find(request.host_id)
        stones = [convert.tombstone(t) for t in request.tombstones]
        await host.converger.acknowledge(convert.fence(request.fence), stones)
        return pb.AcknowledgeTombstonesResponse()

    async def ReadConsoleLog(
        self, request: pb.ReadConsoleLogRequest, context: Context
    ) -> AsyncIterator[pb.ReadConsoleLogResponse]:
        """Send what the machine wrote to its console; following ends when the machine is gone."""
        host = self._directory.find_for_reading(request.host_id)
        if not 0 <= request.tail_bytes <= _TAIL_MAX_BYTES:
            raise InvalidArgument.field("tail_bytes", "must be 0 to 16 MiB")
        machine = _machine(host, request.instance_id)
        path = await host.storage.console_log(machine.instance_id)
        log = read_log(
            path,
            tail_bytes=request.tail_bytes,
            follow=request.follow,
            goes_on=lambda: host.converger.holds(machine.instance_id),
        )
        async with aclosing(log) as pieces:
            async for piece in pieces:
                yield pb.ReadConsoleLogResponse(output=piece)

    async def AttachConsole(
        self, request_iterator: AsyncIterator[pb.AttachConsoleRequest], context: Context
    ) -> AsyncIterator[pb.AttachConsoleResponse]:
        """Connect the caller to the serial console."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("open"):
            raise InvalidArgument.field("open", "must be the first message")
        host = self._directory.find_for_reading(first.open.host_id)
        machine = _machine(host, first.open.instance_id)
        output = host.compute.attach_console(
            machine.instance_id, _typed(request_iterator), force=first.open.force
        )
        async with aclosing(cast("AsyncGenerator[bytes]", output)) as pieces:
            async for piece in pieces:
                yield pb.AttachConsoleResponse(output=piece)


def _machine(host: Host, ident: str) -> Machine:
    """Return the machine of an id, or of a name that one alone has: people come by the socket."""
    machines = host.converger.machines()
    for machine in machines:
        if machine.instance_id == ident:
            return machine
    named = [m for m in machines if ident in (m.domain_name, m.domain_name.rpartition(".")[0])]
    if len(named) != 1:
        raise NotFound.of("instance", ident)
    return named[0]


async def _typed(requests: AsyncIterator[pb.AttachConsoleRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if not request.HasField("input"):
            raise InvalidArgument.field("input", "must be set after the first message")
        if len(request.input) > _INPUT_MAX_BYTES:
            raise InvalidArgument.field("input", "is over 64 KiB")
        yield request.input


def _change_message(change: Change) -> pb.WatchMachinesResponse:
    match change:
        case Machine():
            return pb.WatchMachinesResponse(machine=convert.machine_message(change))
        case Tombstone():
            return pb.WatchMachinesResponse(tombstone=convert.tombstone_message(change))
        case Synced():
            return pb.WatchMachinesResponse(synced=True)
        case _:
            return pb.WatchMachinesResponse(alive=True)

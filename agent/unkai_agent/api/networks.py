"""`agent.v1.NetworkService`: names of networks in, connections to machines through.

Converts, and asks the host's networks; the fence's term is checked before anything is kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import grpc

from unkai.agent.v1 import network_service_pb2 as pb
from unkai.agent.v1 import network_service_pb2_grpc
from unkai_agent.api.convert_ports import is_domain
from unkai_agent.api.directory import Host, HostDirectory
from unkai_agent.domain.ports import PortSpec
from unkai_agent.network.forwarding import PIECE_BYTES, Forwarder
from unkai_agent.network.names.table import NameChanges
from unkai_wire.errors import InvalidArgument, NotFound, Unsupported
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_agent.network.service import HostNetworks

Context = grpc.aio.ServicerContext[Any, Any]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAMES_MAX = 20_000
_ADDRESSES_MAX = 32
_COOKIES_MAX = 64


class NetworkServicer(network_service_pb2_grpc.NetworkServiceServicer):
    """Networks of the hosts in the directory."""

    def __init__(self, directory: HostDirectory) -> None:
        self._directory = directory
        self._changing = asyncio.Lock()

    async def EnsureNames(
        self, request: pb.EnsureNamesRequest, context: Context
    ) -> pb.EnsureNamesResponse:
        """Take over what the leader says of a network's names."""
        host = self._directory.find(request.host_id)
        changes = _changes(request)
        await host.converger.announce_term(request.fence.term)
        async with self._changing:
            table = await asyncio.to_thread(_networks(host).names.change, changes)
        return pb.EnsureNamesResponse(revision=table.revision)

    async def Forward(
        self, request_iterator: AsyncIterator[pb.ForwardRequest], context: Context
    ) -> AsyncIterator[pb.ForwardResponse]:
        """Connect the caller to a TCP port of a machine."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("open"):
            raise InvalidArgument.field("open", "must be the first message")
        host = self._directory.find(first.open.host_id)
        port = _port(host, first.open)
        talk = _forwarder(host).talk(port, first.open.port_number, _data(request_iterator))
        async with aclosing(talk) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield pb.ForwardResponse(end=True)
                else:
                    yield pb.ForwardResponse(data=piece)

    async def CountFlows(
        self, request: pb.CountFlowsRequest, context: Context
    ) -> pb.CountFlowsResponse:
        """Say how many packets the switch's flows of some cookies have counted."""
        host = self._directory.find(request.host_id)
        if not 1 <= len(request.cookies) <= _COOKIES_MAX:
            raise InvalidArgument.field("cookies", f"must be 1 to {_COOKIES_MAX}")
        if host.flows is None:
            raise _no_switch(host)
        counts = await host.flows.count(request.cookies)
        return pb.CountFlowsResponse(
            counts=[
                pb.FlowCount(cookie=cookie, packet_count=count)
                for cookie, count in sorted(counts.items())
            ]
        )


def _networks(host: Host) -> HostNetworks:
    if host.networks is None:
        raise _no_switch(host)
    return host.networks


def _forwarder(host: Host) -> Forwarder:
    if host.forwarder is None:
        raise _no_switch(host)
    return host.forwarder


def _no_switch(host: Host) -> Unsupported:
    return Unsupported(
        f"host {host.record.name} has no switch for networks",
        reason="HOST_WITHOUT_NETWORKS",
        fix="install openvswitch-switch and ovn-host there, and set them in the agent's settings",
        metadata={"host": host.record.name},
    )


def _port(host: Host, opened: pb.ForwardRequest.Open) -> PortSpec:
    check_id("instance", opened.instance_id, "open.instance_id")
    check_id("port", opened.port_id, "open.port_id")
    if not 1 <= opened.port_number <= 65535:
        raise InvalidArgument.field("open.port_number", "must be 1 to 65535")
    for port in host.converger.order_of(opened.instance_id).spec.ports:
        if port.port_id == opened.port_id:
            return port
    raise NotFound.of("port", opened.port_id)


async def _data(requests: AsyncIterator[pb.ForwardRequest]) -> AsyncGenerator[bytes, None]:
    async for request in requests:
        if request.HasField("end") and request.end:
            return
        if not request.HasField("data"):
            raise InvalidArgument.field("data", "must be set after the first message")
        if len(request.data) > PIECE_BYTES:
            raise InvalidArgument.field("data", "is over 64 KiB")
        yield request.data


def _changes(request: pb.EnsureNamesRequest) -> NameChanges:
    check_id("network", request.network_id, "network_id")
    base, revision = request.base_revision, request.revision
    if not 0 <= base < revision:
        raise InvalidArgument.field("revision", "must be above base_revision, which is 0 or more")
    if request.domain and not is_domain(request.domain):
        raise InvalidArgument.field("domain", "is not a domain")
    for field in ("put", "removed"):
        if len(getattr(request, field)) > _NAMES_MAX:
            raise InvalidArgument.field(field, f"must be at most {_NAMES_MAX}")
    return NameChanges(
        network_id=request.network_id,
        base_revision=base,
        revision=revision,
        domain=request.domain,
        put={
            _name(record.name, f"put[{i}].name"): _addresses(record.addresses, f"put[{i}]")
            for i, record in enumerate(request.put)
        },
        removed=frozenset(_name(name, f"removed[{i}]") for i, name in enumerate(request.removed)),
    )


def _name(text: str, path: str) -> str:
    if not _NAME.fullmatch(text):
        raise InvalidArgument.field(path, "is not a name")
    return text


def _addresses(texts: Sequence[str], path: str) -> tuple[str, ...]:
    if len(texts) > _ADDRESSES_MAX:
        raise InvalidArgument.field(f"{path}.addresses", f"must be at most {_ADDRESSES_MAX}")
    try:
        return tuple(str(ip_address(text)) for text in texts)
    except ValueError as error:
        raise InvalidArgument.field(f"{path}.addresses", "is not an address") from error

"""The few calls the lab makes to its scheduler, by its unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from unkai.host.v1 import host_pb2, host_service_pb2, host_service_pb2_grpc

_DEADLINE_S = 2.0
_PAGE_SIZE = 500


@contextmanager
def open_channel(socket: Path) -> Iterator[grpc.Channel]:
    """Open a channel to a daemon's unix socket."""
    # A proxy of the environment is never meant for a unix socket.
    with grpc.insecure_channel(f"unix:{socket}", [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


def is_serving(socket: Path) -> bool:
    """Say whether the daemon behind a unix socket answers SERVING."""
    if not socket.exists():
        return False
    with open_channel(socket) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def list_hosts(socket: Path) -> list[host_pb2.Host]:
    """Return all hosts the scheduler knows; empty while it does not answer."""
    hosts: list[host_pb2.Host] = []
    if not socket.exists():
        return hosts
    with open_channel(socket) as channel:
        stub = host_service_pb2_grpc.HostServiceStub(channel)
        request = host_service_pb2.ListHostsRequest(page_size=_PAGE_SIZE)
        try:
            while True:
                answer = stub.ListHosts(request, timeout=_DEADLINE_S)
                hosts += answer.hosts
                if not answer.next_page_token:
                    return hosts
                request.page_token = answer.next_page_token
        except grpc.RpcError:
            return []

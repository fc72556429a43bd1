"""A monitor's certificate reads figures: no method of either daemon answers it but health.

The methods are those of the descriptors, so that a new one is tried from its first day. Figures
themselves are read in `tests/unit/wire/test_metrics_server.py` and by a real Prometheus in
`tests/e2e/test_prometheus.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.support.contracts import AGENT, methods
from tests.support.served_agent import HOST_ID, ServedAgent
from tests.support.served_api import ServedApi
from unkai_scheduler import certificates
from unkai_wire.errors import PermissionDenied
from unkai_wire.rpc_errors import from_rpc_error
from unkai_wire.tls import SCHEDULER_TLS_NAME, TlsFiles, channel_options, host_tls_name

ANSWER_S = 20.0
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def a_monitor(authority: certificates.Authority, folder: Path) -> TlsFiles:
    certificate, key, ca = authority.issue_monitor("prometheus").write(folder)
    return TlsFiles(ca, certificate, key)


def the_channel(port: int, tls: TlsFiles, name: str) -> grpc.Channel:
    return grpc.secure_channel(
        f"127.0.0.1:{port}", tls.channel_credentials(), options=channel_options(name)
    )


@contextmanager
def scheduler(folder: Path) -> Iterator[grpc.Channel]:
    authority = certificates.init(folder / "pki")
    authority.issue_scheduler("s1", ["127.0.0.1"]).write(folder / "pki")
    monitor = a_monitor(authority, folder / "prometheus")
    with (
        ServedApi(folder / "api", pki=folder / "pki") as served,
        the_channel(served.api.port, monitor, SCHEDULER_TLS_NAME) as channel,
    ):
        yield channel


@contextmanager
def agent(folder: Path) -> Iterator[grpc.Channel]:
    with ServedAgent(folder / "agent") as served:
        monitor = a_monitor(served.authority, folder / "prometheus")
        with the_channel(served.port, monitor, host_tls_name(HOST_ID)) as channel:
            before = served.kept()
            yield channel
            assert served.kept() == before, "a refused call changes nothing"


def answer(channel: grpc.Channel, path: str, message: bytes = b"") -> bytes:
    """Send one message to a method of any kind; return the first that comes back."""
    call = channel.stream_stream(path)(iter([message]), timeout=ANSWER_S)
    try:
        return bytes(next(call))
    finally:
        call.cancel()


SIDES = {
    "scheduler": (scheduler, methods(but=(AGENT,))),
    "agent": (agent, methods(AGENT)),
}


@pytest.mark.parametrize("side", SIDES)
def test_every_method_refuses_a_monitor_and_says_what_its_certificate_is_for(
    tmp_path: Path, side: str
) -> None:
    served, listed = SIDES[side]
    paths = {f"/{m.containing_service.full_name}/{m.name}" for m in listed.values()}
    assert len(paths) > 10
    with served(tmp_path) as channel:
        for path in sorted(paths | {REFLECTION}):
            with pytest.raises(grpc.RpcError) as caught:
                answer(channel, path)
            error = from_rpc_error(caught.value)
            assert isinstance(error, PermissionDenied), f"{path}: {error}"
            assert error.reason == "METHOD_NOT_ALLOWED"
            assert "monitor:prometheus may not call" in error.message
            assert "reads /metrics and /targets, and calls no method" in error.message
            assert "client certificate" in error.fix


@pytest.mark.parametrize("side", SIDES)
def test_a_monitor_may_ask_whether_a_daemon_serves(tmp_path: Path, side: str) -> None:
    served, _ = SIDES[side]
    with served(tmp_path) as channel:
        said = health_pb2.HealthCheckResponse.FromString(answer(channel, HEALTH))
    assert said.status == health_pb2.HealthCheckResponse.SERVING

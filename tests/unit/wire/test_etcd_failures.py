"""What etcd answered is told from that it did not answer."""

from __future__ import annotations

import grpc
import pytest

from unkai_wire.etcd_failures import refusal_of

NO_SPACE = "etcdserver: mvcc: database space exceeded"


class Answered(grpc.RpcError):
    """An answer of etcd, as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NO_SPACE, "ETCD_FULL"),
        (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", "ETCD_REFUSED"),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", "ETCD_REFUSED"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(
    code: grpc.StatusCode, details: str, reason: str
) -> None:
    refusal = refusal_of(Answered(code, details), "host")
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.fix


@pytest.mark.parametrize(
    "failure",
    [
        None,
        ValueError("Cannot invoke RPC on closed channel!"),
        Answered(grpc.StatusCode.UNAVAILABLE, "connection refused"),
        Answered(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    ],
)
def test_silence_is_no_refusal(failure: Exception | None) -> None:
    assert refusal_of(failure, "scheduler") is None


def test_whose_certificate_was_refused_is_said() -> None:
    refused = refusal_of(Answered(grpc.StatusCode.PERMISSION_DENIED, ""), "scheduler")
    assert refused is not None
    assert "this scheduler's certificate" in refused.message

"""Every error keeps class, reason, fix, metadata and details across the wire and on disk."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from unkai_wire import errors, rpc_errors

SAMPLES = [
    errors.InvalidArgument.field("instance.vcpus", "must be 1 to 256"),
    errors.InvalidArgument("two", violations=[("a", "x"), ("b", "y")], metadata={"a": "1"}),
    errors.Unauthenticated("who?", reason="NO_PRINCIPAL"),
    errors.PermissionDenied("no", fix="ask the operator"),
    errors.NotFound.of("instance", "ins-1"),
    errors.AlreadyExists.of("key_pair", "laptop"),
    errors.FailedPrecondition("image img-7 is still uploading", reason="IMAGE_NOT_READY"),
    errors.Conflict("the etag moved", reason="ETAG_MISMATCH"),
    errors.QuotaExceeded("5 of 5 vcpus", reason="QUOTA_EXCEEDED"),
    errors.NoCapacity("no host fits", reasons={"memory": 3, "cordon": 1}, metadata={"hosts": "4"}),
    errors.DeadlineExceeded("too late"),
    errors.Cancelled("given up", reason="CANCELLED"),
    errors.Unavailable("etcd is silent", retry_after_s=2.5),
    errors.Unsupported("this driver cannot"),
    errors.Internal("id 17"),
]


def _facts(error: errors.UnkaiError) -> tuple[object, ...]:
    return (
        type(error),
        error.message,
        error.reason,
        error.fix,
        error.metadata,
        error.details(),
    )


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_the_wire(error: errors.UnkaiError) -> None:
    error.request_id = "req-1"
    sent = rpc_errors.to_status(error).SerializeToString()
    back = rpc_errors.from_status(status_pb2.Status.FromString(sent))
    assert _facts(back) == _facts(error)
    assert back.request_id == "req-1"


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_its_record(error: errors.UnkaiError) -> None:
    assert _facts(errors.UnkaiError.from_record(error.to_record())) == _facts(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument(
            "é" * 9000, violations=[(f"field{i}", "é" * 300) for i in range(500)]
        ),
        errors.NotFound.of("instance", "x" * 100_000),
        errors.NoCapacity("no host", reasons={f"reason{i}": i for i in range(5000)}),
        errors.Unavailable("slow", metadata={str(i): "v" * 900 for i in range(100)}),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_huge_error_is_shortened_to_what_grpc_can_send(error: errors.UnkaiError) -> None:
    error.request_id = "r" * 100_000
    status = rpc_errors.bounded_status(error)
    assert status.ByteSize() <= rpc_errors.MAX_STATUS_BYTES
    back = rpc_errors.from_status(status)
    assert (type(back), back.reason) == (type(error), error.reason)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_of_usual_size_is_not_shortened(error: errors.UnkaiError) -> None:
    assert rpc_errors.bounded_status(error) == rpc_errors.to_status(error)


def test_every_class_is_registered_and_has_a_code() -> None:
    named = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.UnkaiError)
        and not name.startswith("_")
    }
    assert set(errors.CLASSES) == named - {"UnkaiError"}
    assert all(rpc_errors.status_code(e) is not grpc.StatusCode.UNKNOWN for e in SAMPLES)


def test_a_reason_that_is_not_upper_snake_case_is_refused() -> None:
    with pytest.raises(ValueError, match="upper snake"):
        errors.NotFound("x", reason="Not Found")


def test_a_record_of_an_unknown_class_becomes_internal() -> None:
    assert isinstance(
        errors.UnkaiError.from_record({"class": "Later", "message": "m"}), errors.Internal
    )


@given(
    st.text(max_size=200), st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4)
)
def test_any_text_and_metadata_survive(message: str, metadata: dict[str, str]) -> None:
    metadata.pop("fix", None)
    error = errors.FailedPrecondition(message, metadata=metadata)
    assert _facts(rpc_errors.from_status(rpc_errors.to_status(error))) == _facts(error)


def _of_grpc(code: grpc.StatusCode, details: str) -> errors.UnkaiError:
    """Return what a caller gets of a status that gRPC made itself."""
    none = grpc.aio.Metadata()
    return rpc_errors.from_rpc_error(grpc.aio.AioRpcError(code, none, none, details=details))


@pytest.mark.parametrize(
    "details",
    [
        "SERVER: Received message larger than max (5000149 vs. 4194304)",
        "CLIENT: Received message larger than max (5000149 vs. 4194304)",
        "CLIENT: Sent message larger than max (5000149 vs. 4194304)",
    ],
)
def test_a_message_that_is_too_large_is_no_matter_of_quota(details: str) -> None:
    back = _of_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
    assert (type(back), back.reason) == (errors.InvalidArgument, "MESSAGE_TOO_LARGE")
    assert "4194304" in back.message


def test_a_server_that_has_too_much_to_do_is_safe_to_ask_again() -> None:
    back = _of_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many pending requests")
    assert (type(back), back.reason) == (errors.Unavailable, "SERVER_BUSY")


def test_a_status_that_grpc_lost_while_sending_is_safe_to_retry() -> None:
    lost = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details="Internal error from Core",
    )
    back = rpc_errors.from_rpc_error(lost)
    assert (type(back), back.reason) == (errors.Unavailable, "STREAM_BROKEN")

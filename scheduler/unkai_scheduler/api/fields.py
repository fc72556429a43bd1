"""Fields that mean the same in every contract: durations, moments, enums."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from unkai_wire.errors import InvalidArgument

T = TypeVar("T")
_MAX_SECONDS = 315_576_000_000
_MAX_NANOS = 999_999_999


def seconds_of(duration: Duration, field: str) -> float:
    """Read a duration in seconds; refuse one that is none (google/protobuf/duration.proto)."""
    whole, nanos = duration.seconds, duration.nanos
    if abs(whole) > _MAX_SECONDS or abs(nanos) > _MAX_NANOS or whole * nanos < 0:
        raise InvalidArgument.field(
            field,
            "is no duration: its nanos must be below one second and of the sign of its seconds",
            reason="INVALID_DURATION",
        )
    return duration.seconds + duration.nanos / 1e9


def enum_of(values: Mapping[int, T], number: int, field: str) -> T:
    """Return what an enum's number stands for; refuse one that stands for nothing."""
    if number not in values:
        raise InvalidArgument.field(
            field, f"has no value {number} that may be asked for", reason="INVALID_ENUM"
        )
    return values[number]


def moment(message: Timestamp, field: str) -> datetime:
    """Read a moment in microseconds; refuse one that is none (google/protobuf/timestamp.proto)."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.field(
            field, "is no moment of the years 1 to 9999", reason="INVALID_TIMESTAMP"
        ) from error

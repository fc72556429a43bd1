"""Fields that mean the same in every contract: durations, enums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from unkai_wire.errors import InvalidArgument

T = TypeVar("T")


def seconds_of(duration: Duration) -> float:
    """Read a duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def enum_of(values: Mapping[int, T], number: int, field: str) -> T:
    """Return what an enum's number stands for; refuse one that stands for nothing."""
    if number not in values:
        raise InvalidArgument.field(
            field, f"has no value {number} that may be asked for", reason="INVALID_ENUM"
        )
    return values[number]

"""What this host's certificate may see in etcd, and what stands there of the host.

Raw requests on a channel of its own, one member after another: unlike `registry.py` it must tell a
refusal from silence, and see whether etcd asks for permission at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import etcd3.etcdrpc as rpc
import grpc

from unkai_wire.cluster_records import (
    LEADER_KEY,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
)
from unkai_wire.tls import TlsFiles

_CALL_S = 2.0
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
"""A user that etcd does not know is an invalid argument to it."""


@dataclass(frozen=True, slots=True)
class Access:
    """What was found. `answered`: some member did; all else is worth nothing without."""

    answered: bool = False
    refused: bool = False
    unguarded: bool = False
    """What is not ours can be read: etcd asks nobody for permission."""
    record: HostRecord | None = None
    schedulers: tuple[SchedulerRecord, ...] = ()


def look(endpoints: Sequence[str], tls: TlsFiles, host_id: str) -> Access:
    """Ask the members in turn until one answers."""
    try:
        credentials = tls.channel_credentials()
    except OSError:
        return Access()
    for endpoint in endpoints:
        with grpc.secure_channel(endpoint, credentials) as channel:
            keys = rpc.KVStub(channel)
            try:
                return _look(keys, host_id)
            except grpc.RpcError as error:
                if error.code() in _REFUSED:
                    return Access(answered=True, refused=True)
    return Access()


def _look(keys: Any, host_id: str) -> Access:
    own = _range(keys, host_key(host_id)) if host_id else []
    schedulers = []
    for value in _range(keys, SCHEDULERS_PREFIX, SCHEDULERS_PREFIX[:-1] + "0"):
        with suppress(ValueError):  # a newer version's, perhaps
            schedulers.append(SchedulerRecord.from_json(value))
    record = None
    with suppress(ValueError):
        record = HostRecord.from_json(own[0]) if own else None
    return Access(
        answered=True,
        unguarded=_may_read(keys, LEADER_KEY),
        record=record,
        schedulers=tuple(schedulers),
    )


def _range(keys: Any, key: str, end: str = "") -> list[bytes]:
    request = rpc.RangeRequest(key=key.encode(), range_end=end.encode(), limit=100)
    return [pair.value for pair in keys.Range(request, timeout=_CALL_S).kvs]


def _may_read(keys: Any, key: str) -> bool:
    try:
        _range(keys, key)
    except grpc.RpcError as error:
        if error.code() in _REFUSED:
            return False
        raise
    return True

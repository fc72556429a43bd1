"""What a scheduler's certificate may see in etcd, and all that stands there; for `diagnose`.

Raw requests on a channel of its own, one member after another: unlike `etcd.py` it must tell a
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
    HOSTS_PREFIX,
    LEADER_KEY,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
)
from unkai_wire.tls import TlsFiles

_CALL_S = 2.0
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
"""A user that etcd does not know is an invalid argument to it."""
_OTHERS = "/unkai-doctor"
"""A key outside all that is ours: readable only where etcd asks nobody for permission."""
_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class Access:
    """What was found. `answered`: some member did; all else is worth nothing without."""

    answered: bool = False
    refused: bool = False
    unguarded: bool = False
    leader: SchedulerRecord | None = None
    schedulers: tuple[SchedulerRecord, ...] = ()
    hosts: tuple[HostRecord, ...] = ()
    unreadable: int = 0
    """Records that make no sense."""


def look(endpoints: Sequence[str], tls: TlsFiles) -> Access:
    """Ask the members in turn until one answers."""
    try:
        credentials = tls.channel_credentials()
    except OSError:
        return Access()
    options = [("grpc.max_receive_message_length", _MOST)]
    for endpoint in endpoints:
        with grpc.secure_channel(endpoint, credentials, options) as channel:
            try:
                return _look(rpc.KVStub(channel))
            except grpc.RpcError as error:
                if error.code() in _REFUSED:
                    return Access(answered=True, refused=True)
    return Access()


def _look(keys: Any) -> Access:
    schedulers, hosts, unreadable, leader = [], [], 0, None
    for value in _below(keys, SCHEDULERS_PREFIX):
        with suppress(ValueError):
            schedulers.append(SchedulerRecord.from_json(value))
    for value in _below(keys, HOSTS_PREFIX):
        try:
            hosts.append(HostRecord.from_json(value))
        except ValueError:
            unreadable += 1
    for value in _range(keys, LEADER_KEY):
        with suppress(ValueError):
            leader = SchedulerRecord.from_json(value)
    return Access(
        answered=True,
        unguarded=_may_read(keys, _OTHERS),
        leader=leader,
        schedulers=tuple(schedulers),
        hosts=tuple(hosts),
        unreadable=unreadable,
    )


def _below(keys: Any, prefix: str) -> list[bytes]:
    return _range(keys, prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


def _range(keys: Any, key: str, end: str = "") -> list[bytes]:
    request = rpc.RangeRequest(key=key.encode(), range_end=end.encode())
    return [pair.value for pair in keys.Range(request, timeout=_CALL_S).kvs]


def _may_read(keys: Any, key: str) -> bool:
    try:
        _range(keys, key)
    except grpc.RpcError as error:
        if error.code() in _REFUSED:
            return False
        raise
    return True

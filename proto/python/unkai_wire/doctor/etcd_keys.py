"""What a certificate may read in etcd, by raw requests on a channel of their own.

Below `etcd_access.py` of both roles, which say what they look for. Unlike the adapters that the
daemons work with, it tells a refusal from silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import etcd3.etcdrpc as rpc
import grpc

from unkai_wire.cluster_records import prefix_end
from unkai_wire.etcd_failures import REFUSALS
from unkai_wire.tls import TlsFiles

T = TypeVar("T")
_CALL_S = 2.0
_MOST_BYTES = 64 << 20


class Refused(Exception):
    """A member answered, and does not let this certificate read."""


class Keys:
    """One member's keys. What is raised is grpc's."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = rpc.KVStub(channel)

    def at(self, key: str) -> list[bytes]:
        """Return the value of a key, if it is there."""
        return self._range(key, "")

    def below(self, prefix: str) -> list[bytes]:
        """Return the values of all keys that begin with the prefix."""
        return self._range(prefix, prefix_end(prefix))

    def may_read(self, key: str) -> bool:
        """Tell whether this key is open to us, whether it is there or not."""
        try:
            self.at(key)
        except grpc.RpcError as error:
            if error.code() in REFUSALS:
                return False
            raise
        return True

    def _range(self, key: str, end: str) -> list[bytes]:
        request = rpc.RangeRequest(key=key.encode(), range_end=end.encode())
        return [pair.value for pair in self._stub.Range(request, timeout=_CALL_S).kvs]


def ask(endpoints: Sequence[str], tls: TlsFiles, question: Callable[[Keys], T]) -> T | None:
    """Put a question to the members in turn until one answers; None: none does.

    Also None when our own files cannot be used. Raises `Refused`.
    """
    try:
        credentials = tls.channel_credentials()
    except OSError:
        return None
    options = [("grpc.max_receive_message_length", _MOST_BYTES)]
    for endpoint in endpoints:
        with grpc.secure_channel(endpoint, credentials, options) as channel:
            try:
                return question(Keys(channel))
            except grpc.RpcError as error:
                if error.code() in REFUSALS:
                    raise Refused from error
    return None

"""What etcd's refusals mean, in the same words for both roles.

The adapters of etcd catch what their module raises; here it is told which of it is not silence.
Nothing here opens a connection.
"""

from __future__ import annotations

import grpc

from unkai_wire.errors import Unavailable

REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
"""Codes by which etcd says that we may not; a user it does not know is an invalid argument."""


def refusal_of(failure: Exception | None, party: str) -> Unavailable | None:
    """Return what to raise when etcd answered that it will not; None: it did not answer.

    `party`: whose certificate it was, `scheduler` or `host`.
    """
    if not isinstance(failure, grpc.RpcError):
        return None
    # etcd's own limit of room (its NOSPACE alarm) forbids writing.
    is_full = failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    if is_full and "space exceeded" in str(failure.details()):
        return Unavailable(
            "etcd has used up the room it may take, and takes no more writes",
            reason="ETCD_FULL",
            fix="compact and defragment it ('etcdctl compact', 'etcdctl defrag'), then "
            "'etcdctl alarm disarm'; see --quota-backend-bytes",
        )
    if failure.code() in REFUSALS:
        return Unavailable(
            f"etcd refuses this {party}'s certificate",
            reason="ETCD_REFUSED",
            fix="run 'unkai-scheduler etcd secure' where the certificate was made",
        )
    return None

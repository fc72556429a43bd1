"""Who may read and write what in etcd: its users, one for each certificate, and their roles.

etcd takes the common name of a client's certificate for the user (`--client-cert-auth`). Used by
the `etcd` commands, never by a daemon. `secure` may run at any time and any number of times; it
turns authentication on last, so that a cloud at work notices nothing.

Traps of etcd 3.4: a user needs a password (ours are random and forgotten at once); a lease can be
kept alive by anybody who knows its number, so `revoke` deletes the holder's keys too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import etcd3.etcdrpc as rpc
import grpc

from unkai_wire.cluster_records import PREFIX, SCHEDULERS_PREFIX, host_key, prefix_end
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError
from unkai_wire.fleets import FLEET_SIZE, fleet_host_id
from unkai_wire.tls import ETCD_ROOT, Principal, Role, common_name

CALL_S = 5.0
"""Deadline of one request."""
Say = Callable[[str], None]


class Access(Enum):
    """What may be done with keys, as etcd numbers it (auth.proto, Permission.Type)."""

    READ = 0
    WRITE = 1
    READ_WRITE = 2


@dataclass(frozen=True, slots=True)
class Permission:
    """Access to the keys from `key` up to, not including, `end`; empty: to `key` alone."""

    access: Access
    key: str
    end: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """A user of etcd and all that it may."""

    user: str
    permissions: frozenset[Permission]


def grant_of(principal: Principal) -> Grant | None:
    """Return what a holder of a certificate may do in etcd; None: nothing at all."""
    match principal.role:
        case Role.SCHEDULER:
            permissions = {_below(Access.READ_WRITE, PREFIX)}
        case Role.HOST:
            own = Permission(Access.READ_WRITE, host_key(principal.host_id))
            permissions = {own, _below(Access.READ, SCHEDULERS_PREFIX)}
        case Role.FLEET:
            first, last = (fleet_host_id(principal.name, n) for n in (0, FLEET_SIZE - 1))
            own = Permission(Access.READ_WRITE, host_key(first), host_key(last) + "\0")
            permissions = {own, _below(Access.READ, SCHEDULERS_PREFIX)}
        case _:
            return None
    return Grant(common_name(principal), frozenset(permissions))


def secure(
    endpoints: Sequence[str],
    root: grpc.ChannelCredentials,
    principals: Sequence[Principal],
    say: Say = lambda line: None,
) -> None:
    """Make users and roles of all that need one, then turn authentication on.

    Users of others stay. Raises `Unavailable`, after which it may simply be run again.
    """
    grants = [grant for p in principals if (grant := grant_of(p)) is not None]
    with _channel(endpoints, root) as channel:
        auth = rpc.AuthStub(channel)
        roles = set(auth.RoleList(rpc.AuthRoleListRequest(), timeout=CALL_S).roles)
        users = set(auth.UserList(rpc.AuthUserListRequest(), timeout=CALL_S).users)
        if ETCD_ROOT not in roles:
            auth.RoleAdd(rpc.AuthRoleAddRequest(name=ETCD_ROOT), timeout=CALL_S)
        _give(auth, ETCD_ROOT, users)
        for grant in grants:
            changed = _shape_role(auth, grant, roles)
            changed |= _give(auth, grant.user, users)
            say(f"{'granted' if changed else 'kept'} {grant.user}")
        auth.AuthEnable(rpc.AuthEnableRequest(), timeout=CALL_S)
        say("etcd asks for permission")


def revoke(endpoints: Sequence[str], root: grpc.ChannelCredentials, principal: Principal) -> None:
    """Let a holder do nothing more in etcd, and delete what it alone could write."""
    grant = grant_of(principal)
    if grant is None:
        return
    with _channel(endpoints, root) as channel:
        auth, keys = rpc.AuthStub(channel), rpc.KVStub(channel)
        if grant.user in auth.UserList(rpc.AuthUserListRequest(), timeout=CALL_S).users:
            auth.UserDelete(rpc.AuthUserDeleteRequest(name=grant.user), timeout=CALL_S)
        if grant.user in auth.RoleList(rpc.AuthRoleListRequest(), timeout=CALL_S).roles:
            auth.RoleDelete(rpc.AuthRoleDeleteRequest(role=grant.user), timeout=CALL_S)
        if principal.role is Role.SCHEDULER:
            return  # its records are under the prefix of all schedulers, and end with their lease
        for permission in grant.permissions:
            if permission.access is Access.READ_WRITE:
                request = rpc.DeleteRangeRequest(
                    key=permission.key.encode(), range_end=permission.end.encode()
                )
                keys.DeleteRange(request, timeout=CALL_S)


def _below(access: Access, prefix: str) -> Permission:
    """Return access to every key that begins with the prefix."""
    return Permission(access, prefix, prefix_end(prefix))


def _shape_role(auth: Any, grant: Grant, roles: set[str]) -> bool:
    """Give the user's role exactly its permissions; tell whether anything had to change."""
    held: set[Permission] = set()
    if grant.user in roles:
        answer = auth.RoleGet(rpc.AuthRoleGetRequest(role=grant.user), timeout=CALL_S)
        held = {_held(permission) for permission in answer.perm}
    else:
        auth.RoleAdd(rpc.AuthRoleAddRequest(name=grant.user), timeout=CALL_S)
    for permission in held - grant.permissions:
        auth.RoleRevokePermission(
            rpc.AuthRoleRevokePermissionRequest(
                role=grant.user, key=permission.key, range_end=permission.end
            ),
            timeout=CALL_S,
        )
    for permission in grant.permissions - held:
        auth.RoleGrantPermission(
            rpc.AuthRoleGrantPermissionRequest(name=grant.user, perm=_message(permission)),
            timeout=CALL_S,
        )
    return held != grant.permissions


def _give(auth: Any, user: str, users: set[str]) -> bool:
    """See that the user is there and has the role of its name; tell whether it is new."""
    if user not in users:
        auth.UserAdd(
            rpc.AuthUserAddRequest(name=user, password=secrets.token_urlsafe(32)), timeout=CALL_S
        )
    auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user, role=user), timeout=CALL_S)
    return user not in users


def _message(permission: Permission) -> dict[str, Any]:
    return {
        "permType": permission.access.value,
        "key": permission.key.encode(),
        "range_end": permission.end.encode(),
    }


def _held(message: Any) -> Permission:
    return Permission(Access(message.permType), message.key.decode(), message.range_end.decode())


@contextmanager
def _channel(
    endpoints: Sequence[str], credentials: grpc.ChannelCredentials
) -> Iterator[grpc.Channel]:
    """Open a channel to the first member that answers, and say what went wrong on it."""
    for endpoint in endpoints:
        with grpc.secure_channel(endpoint, credentials) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CALL_S)
            except grpc.FutureTimeoutError:
                continue
            try:
                yield channel
            except grpc.RpcError as error:
                raise _failure(endpoint, error) from error
            return
    raise Unavailable(
        f"no etcd member answers at {', '.join(endpoints)}",
        reason="ETCD_UNAVAILABLE",
        fix="see whether etcd runs, and whether its certificate is of this CA",
    )


def _failure(endpoint: str, error: Any) -> UnkaiError:
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unavailable(
            f"etcd at {endpoint} stopped answering",
            reason="ETCD_UNAVAILABLE",
            fix="run the command again: it goes on where it stopped",
        )
    return FailedPrecondition(
        f"etcd at {endpoint} refused: {error.details()}",
        reason="ETCD_REFUSED",
        fix="start etcd with --client-cert-auth and the CA of this cloud",
    )

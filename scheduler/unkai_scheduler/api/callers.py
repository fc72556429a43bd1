"""Who is calling: set by the interceptor (or a peer's proxy), read by the servicers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from unkai_scheduler.services.context import Call
from unkai_wire.errors import Unauthenticated
from unkai_wire.tls import Principal, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of the method that runs in this task."""

    principal: Principal
    method: str


_CURRENT: ContextVar[Caller] = ContextVar("unkai_caller")


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Say who calls, for the block."""
    token = _CURRENT.set(caller)
    try:
        yield
    finally:
        # A stream that is torn down late is closed in another context; then nothing is left to do.
        if _CURRENT.get(None) is caller:
            _reset(token)


def _reset(token: Any) -> None:
    try:
        _CURRENT.reset(token)
    except ValueError:
        return


def current() -> Caller:
    """Return the caller of the method that runs in this task."""
    caller = _CURRENT.get(None)
    if caller is None:
        raise Unauthenticated("nobody is calling", reason="NO_PRINCIPAL")
    return caller


def call_of(request: Any) -> Call:
    """Return what services are told of the call with this request message."""
    caller = current()
    return Call(
        principal=caller.principal,
        method=caller.method,
        request_id=getattr(request, "request_id", ""),
        digest=hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest(),
    )


def principal_of_text(text: str) -> Principal:
    """Read `str(principal)` back; raise `Unauthenticated` when it names nobody."""
    role_text, _, name = text.partition(":")
    role = {r.value: r for r in Role}.get(role_text)
    if role is Role.LOCAL:
        return Principal(role, "root")
    if role is None or not name:
        raise Unauthenticated(f"{text[:80]!r} names no principal", reason="NO_PRINCIPAL")
    return Principal(role, name)

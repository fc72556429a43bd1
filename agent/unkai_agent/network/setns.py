"""Calls made inside another network namespace.

`setns` acts on the calling thread alone, and a socket stays where it was made. So each call has a
thread of its own that enters, calls and ends: no thread ever comes back from a namespace, since one
that failed to would be poisoned. Nothing is forked: the process has threads of libvirt and gRPC.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from unkai_wire.errors import Unavailable

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_CALL_S = 10.0
"""Making a socket takes microseconds; a kernel that needs longer is not well."""
_LIBC = ctypes.CDLL(None, use_errno=True)


async def call_inside(namespace: Path, call: Callable[[], T]) -> T:
    """Call in a network namespace; what it raises is raised here.

    Raises OSError when the namespace is none. Where nobody waits for the result any more, one that
    can be closed is closed.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            _close(result)
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            _enter(namespace)
            result = call()
        except BaseException as caught:  # noqa: BLE001 - carried to who awaits it
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop has ended
            _close(result)

    threading.Thread(target=run, name="inside-a-network", daemon=True).start()
    try:
        async with asyncio.timeout(_CALL_S):
            return await future
    except TimeoutError as error:
        raise Unavailable(
            f"a call inside namespace {namespace.name} did not end",
            reason="NAMESPACE_HANGS",
            metadata={"namespace": namespace.name},
        ) from error


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(descriptor)


def _close(result: Any) -> None:
    if hasattr(result, "close"):
        result.close()

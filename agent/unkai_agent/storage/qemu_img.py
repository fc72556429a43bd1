"""`qemu-img` under limits of time, CPU and memory.

It never opens an image of a user's: an overlay is made "unsafely" (`-u`), that is, without looking
at the file below, whose header was read by `image_header`. Every format is named.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import Counter, Histogram

from unkai_agent.domain.machines import ImageFormat
from unkai_agent.storage.refusals import disk_full, storage_failed
from unkai_wire import tracing
from unkai_wire.errors import UnkaiError

_TIMEOUT_S = 30.0
"""Making an overlay takes about 20 ms; a disk that needs longer is not well."""
_DIE_S = 10.0
"""Longest that one that was killed is waited for."""
_LIMITS = ("--cpu=20", "--as=1073741824", "--core=0", "--nofile=64")
"""Seconds of CPU, bytes of address space, no core dump, open files (prlimit(1))."""
_ENVIRONMENT = {"LC_ALL": "C"}
SECONDS = Histogram(
    "unkai_agent_qemu_img_seconds",
    "Time calls of qemu-img took, by command.",
    ["command"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
FAILURES = Counter(
    "unkai_agent_qemu_img_failures_total",
    "Calls of qemu-img that failed, by command and reason.",
    ["command", "reason"],
)


async def create_overlay(
    path: Path, *, base: str, base_format: ImageFormat, size_bytes: int, what: str
) -> None:
    """Make a qcow2 file that stands on `base`, named relative to it.

    Raises `FailedPrecondition` / DISK_FULL, else `Unavailable` / STORAGE_FAILED; the file may then
    be there, half-made.
    """
    options = ("-q", "-u", "-f", "qcow2", "-F", base_format.value, "-b", base)
    await _run(what, ("create", *options, str(path), str(size_bytes)))


async def _run(what: str, arguments: Sequence[str]) -> None:
    command, started_s = arguments[0], time.perf_counter()
    try:
        with tracing.span(f"qemu-img {command}"):
            await _execute(what, arguments)
    except UnkaiError as error:
        FAILURES.labels(command, error.reason).inc()
        raise
    finally:
        SECONDS.labels(command).observe(time.perf_counter() - started_s)


async def _execute(what: str, arguments: Sequence[str]) -> None:
    environment = _ENVIRONMENT | {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        process = await asyncio.create_subprocess_exec(
            *("prlimit", *_LIMITS, "--", "qemu-img", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except FileNotFoundError as error:
        raise storage_failed(what, "prlimit is not installed") from error
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, errors = await process.communicate()
    except TimeoutError as error:
        raise storage_failed(what, f"qemu-img did not end within {_TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            # One that the disk holds up does not even die; once it could act again, it is dead.
            await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=_DIE_S)
    if process.returncode == 0:
        return
    text = errors.decode("utf-8", "replace").strip()
    # qemu-img has one exit status for all; this is strerror(ENOSPC) and strerror(EDQUOT).
    if "No space left on device" in text or "Disk quota exceeded" in text:
        raise disk_full(what)
    raise storage_failed(what, f"qemu-img failed ({process.returncode}): {text.splitlines()[-1:]}")

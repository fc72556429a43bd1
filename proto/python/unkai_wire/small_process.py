"""What keeps an idle daemon small. Each daemon's package imports this before all else.

structlog imports rich where it is installed, for tracebacks in colour. A daemon shows none, and
rich with all that it imports is 4 MiB and a tenth of a second of each start. So structlog is
imported here as if rich were not there; who imports rich afterwards gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""mallopt(3); the numbers are from glibc's malloc.h."""
LARGE_BYTES = 256 << 10
"""Pieces so large are got from the system and given back to it one by one. Left to itself, glibc
raises this to whatever was freed last, and the holes of a burst of images stay for good."""
GIVE_BACK_S = 30.0
"""Seconds between looks for memory that is free: a look takes 1 to 3 ms of a thread of its own."""


def _import_structlog_plainly() -> None:
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        # Where it is missing, so is the role's extra: the command says that (`extras`).
        with contextlib.suppress(ModuleNotFoundError):
            import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


def share_memory_among_threads(arenas: int) -> None:
    """Let all threads have so many arenas among them; call it before any is started.

    glibc gives out eight for each CPU, and each keeps what its threads have freed. A daemon's many
    threads mostly wait, so they do not get into each other's way. Elsewhere it does nothing.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, arenas)
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def stop_looking_at_what_stays() -> None:
    """Take what is imported by now out of the garbage collector's rounds: it stays for good."""
    gc.collect()
    gc.freeze()


async def give_memory_back(every_s: float = GIVE_BACK_S) -> None:
    """Return free memory to the system now and then, until cancelled.

    After a burst glibc keeps whatever lies below something still in use, for good; malloc_trim(3)
    gives whole pages back wherever they lie. Without glibc there is nothing to do.
    """
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)


_import_structlog_plainly()

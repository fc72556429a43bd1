"""How many files a daemon may open: as many as it is let, not as few as shells begin with."""

from __future__ import annotations

import resource
from contextlib import suppress

MOST = 65_536
"""What the systemd units give: streams of all hosts, consoles, the store."""


def raise_limit() -> None:
    """Raise this process's soft limit up to its hard one; nothing where that is not permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

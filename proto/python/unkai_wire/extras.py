"""What a role's command says where the distribution was installed without the role's extra.

The base is what `unkai` needs; `unkai-scheduler` and `unkai-agent` are installed with it all the
same, and would end in a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def missing_module(error: ModuleNotFoundError) -> str:
    """Return the distribution's top module that is missing; "" for one of our own: our bug."""
    name = (error.name or "").partition(".")[0]
    return "" if name in ("", "unkai") or name.startswith("unkai_") else name


@contextmanager
def explain_missing(role: str) -> Iterator[None]:
    """End the process with status 1 and the fix when a module of the role's is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = missing_module(error)
        if not name:
            raise
        sys.stderr.write(
            f"unkai-{role}: the Python module {name} is not installed\n"
            f"  fix: {sys.executable} -m pip install 'unkai[{role}]'\n"
        )
        raise SystemExit(1) from error

"""Writes files into an ISO 9660 volume, as a program of its own: `python iso_program.py FOLDER`.

pycdlib and what it imports would stay in the agent for good, 4 MiB for what is done once in a
machine's life; a process of its own takes a tenth of a second and leaves nothing. FOLDER is where
pycdlib lies; the label and the files come as marshalled tuple on standard input, the volume goes
to standard output. It imports nothing of ours, and starts without `site`, to be quick.
"""

from __future__ import annotations

import io
import marshal
import sys
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

_DATE_S = 1767225600.0
"""Every date in the volume: 2026-01-01, UTC. Content decides the bytes, not the time of writing."""


def volume(label: str, files: Mapping[str, bytes]) -> bytes:
    """Return a volume with the files in its root, by Rock Ridge and Joliet names too."""
    iso = _pycdlib().PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    for name, content in files.items():
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"/{name.upper().replace('-', '_')}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    written = io.BytesIO()
    iso.write_fp(written)
    iso.close()
    return written.getvalue()


def _pycdlib() -> Any:
    """Import pycdlib with its clock stopped.

    pycdlib (1.22) dates what it writes by the wall clock and the local time zone, and takes no
    parameter for it. This may go once it does.
    """
    import pycdlib
    from pycdlib import dates, headervd, utils
    from pycdlib import pycdlib as module

    stopped = SimpleNamespace(**vars(time))
    stopped.time = lambda: _DATE_S
    stopped.localtime = time.gmtime
    for each in (dates, headervd, utils, module):
        vars(each)["time"] = stopped
    return pycdlib


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    told = marshal.loads(sys.stdin.buffer.read())  # noqa: S302 - by the agent, our parent
    sys.stdout.buffer.write(volume(*told))

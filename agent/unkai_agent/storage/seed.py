"""The seed disk that tells a guest who it is at its first boot. Pure: bytes in, bytes out.

NoCloud, as cloud-init reads it: an ISO 9660 volume labelled CIDATA with the files meta-data,
user-data and vendor-data, by Rock Ridge and Joliet names. The same spec gives the same bytes, so
that a seed is rewritten only when what it says has changed.

Source: cloud-init's documentation, "NoCloud" data source.
"""

from __future__ import annotations

import functools
import io
import time
from types import SimpleNamespace
from typing import Any

from unkai_agent.domain.machines import SeedSpec

LABEL = "CIDATA"
_DATE_S = 1767225600.0
"""Every date in the volume: 2026-01-01, UTC. Content decides the bytes, not the time of writing."""


def render(instance_id: str, spec: SeedSpec) -> bytes:
    """Return the seed disk's bytes."""
    iso = _pycdlib().PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    files = {
        "meta-data": meta_data(instance_id, spec).encode(),
        "user-data": spec.user_data,
        "vendor-data": b"",
    }
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


def meta_data(instance_id: str, spec: SeedSpec) -> str:
    """Return the meta-data: YAML, one `key: "value"` or `- "value"` a line."""
    lines = [f"instance-id: {_quoted(instance_id)}", f"local-hostname: {_quoted(spec.hostname)}"]
    if spec.public_keys:
        lines.append("public-keys:")
        lines += [f"- {_quoted(key)}" for key in spec.public_keys]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Write a text as a double-quoted scalar in ASCII (YAML 1.2, sections 5.7 and 7.3.1)."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\U{ord(char):08x}"


@functools.cache
def _pycdlib() -> Any:
    """Import pycdlib with its clock stopped.

    pycdlib (1.22) dates what it writes by the wall clock and the local time zone, and takes no
    parameter for it. This may go once it does.
    """
    import pycdlib
    from pycdlib import dates, headervd, utils
    from pycdlib import pycdlib as volume

    stopped = SimpleNamespace(**vars(time))
    stopped.time = lambda: _DATE_S
    stopped.localtime = time.gmtime
    for module in (dates, headervd, utils, volume):
        vars(module)["time"] = stopped
    return pycdlib

"""The seed disk that tells a guest who it is at its first boot.

NoCloud, as cloud-init reads it: an ISO 9660 volume labelled CIDATA with the files meta-data,
user-data and vendor-data, and network-config where the machine has ports, by Rock Ridge and Joliet
names. The same spec gives the same bytes, so that a seed is rewritten only when what it says has
changed.

Source: cloud-init's documentation, "NoCloud" data source.
"""

from __future__ import annotations

import importlib.util
import marshal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unkai_agent.domain.machines import SeedSpec
from unkai_agent.domain.ports import PortSpec
from unkai_agent.storage import iso_program
from unkai_agent.storage.network_config import network_config
from unkai_agent.storage.refusals import storage_failed

LABEL = "CIDATA"
_WRITE_S = 30.0
"""Writing takes a tenth of a second; a host that needs longer is not well."""


def render(instance_id: str, spec: SeedSpec, ports: Sequence[PortSpec] = ()) -> bytes:
    """Return the seed disk's bytes; blocks until a process of its own has made them.

    Raises `Unavailable` / STORAGE_FAILED when it does not.
    """
    files = {
        "meta-data": meta_data(instance_id, spec).encode(),
        "user-data": spec.user_data,
        "vendor-data": b"",
    }
    if ports:
        files["network-config"] = network_config(ports).encode()
    command = [sys.executable, "-I", "-S", iso_program.__file__, str(_folder_of("pycdlib"))]
    try:
        done = subprocess.run(
            command,
            input=marshal.dumps((LABEL, files)),
            capture_output=True,
            timeout=_WRITE_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise storage_failed(f"seed disk of {instance_id}", f"it was not written: {why}") from error
    except subprocess.TimeoutExpired as error:
        why = f"it was not written within {_WRITE_S:.0f} s"
        raise storage_failed(f"seed disk of {instance_id}", why) from error
    return done.stdout


def _folder_of(package: str) -> Path:
    """Return where a package lies, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(found.origin).parents[1]


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

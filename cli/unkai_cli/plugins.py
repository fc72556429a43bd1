"""Commands that other installed packages add, by the entry-point group `unkai.commands`.

Reads the `entry_points.txt` of each installed distribution itself: `importlib.metadata` says the
same but takes three times as long as all else that `unkai --help` does. Source of the format:
PyPA specifications, "Entry points specification" and "Recording installed projects".
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

GROUP = "unkai.commands"


@functools.cache
def added() -> dict[str, str]:
    """Return the added commands: name to `module:attribute`. The first on the path counts."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for text in _entry_point_files(folder):
            for name, target in _entries(text):
                found.setdefault(name, target)
    return dict(sorted(found.items()))


def load(name: str) -> Any:
    """Import an added command."""
    module, _, attribute = added()[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _entry_point_files(folder: str) -> Iterator[str]:
    try:
        names = [name for name in os.listdir(folder or ".") if name.endswith(".dist-info")]
    except OSError:
        return  # not a folder (a zip file), or not ours to read
    for name in sorted(names):
        try:
            with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8") as file:
                yield file.read()
        except (OSError, UnicodeDecodeError):
            continue


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the group's entries of one file."""
    if GROUP not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == GROUP and "=" in line and not line.startswith(("#", ";")):
            name, _, target = line.partition("=")
            # Extras in brackets after the target are of no use here.
            yield name.strip(), target.partition("[")[0].strip()

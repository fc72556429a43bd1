"""The wheel and the sdist, built from a copy of the sources; and an environment made from one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PARTS = (
    *(
        "proto",
        "scheduler",
        "agent",
        "cli",
        "lab",
        "images",
        "bench",
        "tests",
        "docs",
        "observe",
        "tools",
    ),
    *("buf.yaml", "Makefile", "pyproject.toml", "requirements.lock", "LICENSE"),
    *("README.md", "README.zh-CN.md", "CONTRIBUTING.md"),
)
_IGNORED = shutil.ignore_patterns("__pycache__", "build", ".*_cache")


def copy_sources(folder: Path) -> Path:
    """Copy what a clone has, so that building leaves nothing in this one."""
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=_IGNORED)
        elif source.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / part)
    return folder


def build(sources: Path, out: Path, *kinds: str) -> list[Path]:
    """Build `wheel`s and `sdist`s with the locked hatchling; return the files."""
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--no-isolation", "--outdir", out),
            *(f"--{kind}" for kind in kinds),
            sources,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return sorted(out.iterdir())


def make_environment(folder: Path, requirement: str) -> Path:
    """Make an empty virtual environment, install into it with locked versions; return its bin."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
    environment = os.environ | {"PIP_CONSTRAINT": str(ROOT / "requirements.lock")}
    subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", requirement],
        check=True,
        env=environment,
        timeout=420,
    )
    return folder / "bin"

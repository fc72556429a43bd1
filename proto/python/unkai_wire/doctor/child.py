"""Checks run in a process of their own: `unkai-agent diagnose`, `unkai-scheduler diagnose`.

Whoever asks, the daemon for its callers or `unkai doctor` on the machine, starts the role's command
and reads its report. What hangs there is killed with it, a broken daemon is examined as well as a
sound one, and the CLI imports no role.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from unkai_wire.doctor.findings import CHECK_S, Finding, Report, Severity
from unkai_wire.errors import Unavailable

GRACE_S = 5.0
"""Beyond the checks' own deadline: for the interpreter's start."""
Examine = Callable[[Sequence[str]], Awaitable[Report]]
"""Runs the checks of these names, or all."""


def command(
    role: str, config: Path | None, only: Sequence[str] = (), timeout_s: float = CHECK_S
) -> list[str]:
    """Return the command that examines a role; `role` is `agent` or `scheduler`."""
    named = [word for name in only for word in ("--check", name)]
    settings = ["--config", str(config)] if config else []
    return [
        *(sys.executable, "-m", f"unkai_{role}", "diagnose"),
        *("--output", "json", "--timeout", f"{timeout_s:g}", *settings, *named),
    ]


async def examine(
    role: str, config: Path | None, only: Sequence[str] = (), timeout_s: float = CHECK_S
) -> Report:
    """Run a role's checks in a process; always return a report, of its failure if need be."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command(role, config, only, timeout_s),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"GRPC_VERBOSITY": "NONE"},
        )
    except OSError as error:
        raise Unavailable(
            f"the checks cannot be started: {error.strerror or error}",
            reason="DIAGNOSIS_FAILED",
            fix=f"run 'unkai-{role} diagnose' on the machine itself",
        ) from error
    try:
        async with asyncio.timeout(timeout_s + GRACE_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        return broken(role, f"they did not end within {timeout_s + GRACE_S:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return read(role, output.decode(errors="replace"), complaint.decode(errors="replace"))


def read(role: str, output: str, complaint: str) -> Report:
    """Read what the command printed."""
    try:
        return Report.from_json(output)
    except ValueError:
        lines = complaint.strip().splitlines()
        fix = next((line.strip() for line in lines if line.strip().startswith("fix:")), "")
        why = lines[0] if lines else "it printed nothing"
        return broken(role, why, fix.removeprefix("fix:").strip())


def broken(role: str, why: str, fix: str = "") -> Report:
    """Return the report of checks that could not be run."""
    finding = Finding(
        "python-modules" if "the Python module" in why else "checks-run",
        Severity.FAIL,
        f"the checks of the {role} could not be run: {why}",
        "nothing is known of it",
        fix or f"run by hand: unkai-{role} diagnose",
        role,
    )
    return Report(role, "", 0, (finding,))

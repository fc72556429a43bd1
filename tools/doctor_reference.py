"""Write docs/reference/doctor.md from the checks themselves."""

from __future__ import annotations

from pathlib import Path

from unkai_agent.doctor.networks import CHECKS as AGENT
from unkai_scheduler.doctor.checks import CHECKS as SCHEDULER
from unkai_wire.doctor.command import SETTINGS, SETTINGS_ASKS

PAGE = Path(__file__).parents[1] / "docs/reference/doctor.md"
_HEAD = """\
# Checks of `unkai doctor`

Written by `tools/doctor_reference.py` from the code. How to use them: [doctor](../howto/doctor.md).
Names are stable; `--check NAME` runs one alone.
"""
_ASKED = """
## Asked for through the scheduler

| Check | What it looks at |
| --- | --- |
| `scheduler-answers` | the scheduler answers this command |
| `agent-answers` | the host's agent answers the scheduler |
| `clock-command` | this machine's clock agrees with the scheduler's |
| `clock-scheduler` | the host's clock agrees with the scheduler's |
| `checks-run` | the checks themselves could be run |
"""


def text() -> str:
    """Return the page."""
    parts = [_HEAD]
    for title, checks in (("A host's agent", AGENT), ("A scheduler", SCHEDULER)):
        rows = [(SETTINGS, SETTINGS_ASKS), *((check.name, check.asks) for check in checks.all)]
        lines = [f"| `{name}` | {asks} |" for name, asks in rows]
        head = f"\n## {title}\n\n| Check | What it looks at |\n| --- | --- |\n"
        parts.append(head + "\n".join(lines) + "\n")
    return "".join([*parts, _ASKED])


if __name__ == "__main__":
    PAGE.write_text(text())

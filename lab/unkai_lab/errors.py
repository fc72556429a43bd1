"""The one error of the lab: a step that did not succeed, with the end of the log that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unkai_wire.errors import FailedPrecondition

_TAIL_LINES = 15
_TAIL_BYTES = 8192


class LabError(FailedPrecondition):
    """A step of the lab failed. `log`: the last lines of what the failing program said."""

    default_reason = "LAB_STEP_FAILED"

    def __init__(self, message: str, *, log: str = "", fix: str = "", **common: Any) -> None:
        text = f"{message}\n{log}" if log else message
        super().__init__(text, fix=fix or "put right what this says, then try again", **common)

    @classmethod
    def of_log(cls, message: str, log: Path, *, fix: str = "") -> LabError:
        """Make the error of a program that wrote to `log`."""
        return cls(message, log=tail(log), fix=fix, metadata={"log": str(log)})


def tail(path: Path) -> str:
    """Return the last lines of a file, each indented; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-_TAIL_LINES:])

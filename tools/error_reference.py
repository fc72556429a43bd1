"""Write docs/reference/errors.md from the code: `python tools/error_reference.py [FILE]`.

Reads every place that raises an error of `unkai_wire.errors` with a `reason` of its own, so that
the page cannot miss one. A unit test compares the file with what this writes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reference" / "errors.md"
PACKAGES = (
    "proto/python/unkai_wire",
    "scheduler/unkai_scheduler",
    "agent/unkai_agent",
    "cli/unkai_cli",
    "lab/unkai_lab",
)
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,62}")
_CODES = {
    "InvalidArgument": "INVALID_ARGUMENT",
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "FailedPrecondition": "FAILED_PRECONDITION",
    "Conflict": "ABORTED",
    "QuotaExceeded": "RESOURCE_EXHAUSTED",
    "NoCapacity": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "Unavailable": "UNAVAILABLE",
    "Unsupported": "UNIMPLEMENTED",
    "Internal": "INTERNAL",
}
_HEAD = """\
# Reference: errors

Made from the code by `python tools/error_reference.py`; do not edit it by hand.

Every refused call carries a `google.rpc.Status` in `grpc-status-details-bin` with
`google.rpc.ErrorInfo`: `domain` is `unkai`, `reason` is one of the names below and stable for ever,
`metadata` has each value that the message names and, where there is something to do, `fix`. By code
there is one more detail: BadRequest (INVALID_ARGUMENT, a violation per field), ResourceInfo
(NOT_FOUND, ALREADY_EXISTS), PreconditionFailure, QuotaFailure, RetryInfo (UNAVAILABLE: safe to
retry as is). A failed operation keeps the same status in `error`, an instance in `state_reason`.

`<KIND>_NOT_FOUND` and `<KIND>_EXISTS` are made for every kind of resource (`INSTANCE_NOT_FOUND`).
`…` stands for a value.

| reason | code | says |
| --- | --- | --- |
"""


@dataclass(frozen=True, order=True)
class Raised:
    """One place that raises a reason."""

    reason: str
    code: str
    text: str


def raised(tree: ast.AST) -> Iterator[Raised]:
    """Yield every error with a constant reason that a module makes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        code = _CODES.get(_class_of(node.func), "")
        reasons = [word.value for word in node.keywords if word.arg == "reason"]
        names = [name for value in reasons for name in _constants(value)]
        if code:
            text = " ".join(filter(None, (_text(a) for a in node.args[:2])))
            yield from (Raised(name, code, text) for name in names)


def _class_of(function: ast.expr) -> str:
    """Return `NotFound` of `NotFound(…)`, `errors.NotFound(…)` and `NotFound.field(…)`."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        return function.attr if function.attr in _CODES else _class_of(function.value)
    return ""


def _constants(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and _REASON.fullmatch(str(node.value)):
            yield str(node.value)


def _text(node: ast.expr) -> str:
    """Return a message with its values left out."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…" if isinstance(node, ast.Name | ast.Attribute | ast.Call) else ""


def page() -> str:
    """Return the whole page."""
    found: dict[tuple[str, str], str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for entry in sorted(raised(ast.parse(path.read_text()))):
                key = (entry.reason, entry.code)
                found[key] = max(found.get(key, ""), entry.text, key=_worth)
    rows = [
        f"| `{reason}` | {code} | {text.replace('|', '/')} |"
        for (reason, code), text in sorted(found.items())
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _worth(text: str) -> tuple[int, str]:
    """Prefer the message that says most in words of its own."""
    return len(text.replace("…", "")), text


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(page())

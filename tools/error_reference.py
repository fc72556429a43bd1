"""Write docs/reference/errors.md from the code: `python tools/error_reference.py [FILE]`.

Reads every place that raises an error of `unkai_wire.errors` with a `reason` of its own: written
there, handed to a function that passes it on, or taken from a table in a loop. A unit test
compares the file with what this writes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unkai_lab.errors import LabError
from unkai_wire import errors

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
    "LabError": "FAILED_PRECONDITION",
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
A reason that says no more than its code stands where there is nothing more to say. `…` stands for a
value.

| reason | code | says |
| --- | --- | --- |
"""


@dataclass(frozen=True, order=True)
class Raised:
    """One place that raises a reason."""

    reason: str
    code: str
    text: str


@dataclass(frozen=True)
class Sender:
    """A function that takes a reason as an argument and raises, or returns, an error with it."""

    name: str
    code: str
    parameters: tuple[str, ...]
    """Without `self`."""
    reason: str
    """The parameter that is the reason."""


def senders(tree: ast.AST) -> Iterator[Sender]:
    """Yield the functions of a module to which reasons are handed."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = [parameter.arg for parameter in (*function.args.args, *function.args.kwonlyargs)]
        parameters = tuple(name for name in names if name not in ("self", "cls"))
        for code, reason in _made(function):
            if isinstance(reason, ast.Name) and reason.id in parameters:
                yield Sender(function.name, code, parameters, reason.id)


def raised(tree: ast.AST, handed_to: Sequence[Sender] = ()) -> Iterator[Raised]:
    """Yield every error with a reason of its own that a module makes, or has a sender make."""
    by_name = {sender.name: sender for sender in handed_to}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        code, sender = _CODES.get(_class_of(node.func), ""), by_name.get(_last_name(node.func))
        if code:
            text = " ".join(filter(None, (_text(a) for a in node.args[:2])))
            values = [word.value for word in node.keywords if word.arg == "reason"]
            names = [name for value in values for name in _constants(value)]
            names = names or [name for value in values for name in _of_loops(tree, node, value)]
            yield from (Raised(name, code, text) for name in names)
        elif sender:
            given = dict(zip(sender.parameters, node.args, strict=False))
            given |= {word.arg: word.value for word in node.keywords if word.arg}
            told = [v for k, v in given.items() if k not in (sender.reason, "ok", "fix")]
            text = " ".join(filter(None, map(_text, told)))
            reason = given.get(sender.reason, ast.Constant(""))
            yield from (Raised(name, sender.code, text) for name in _constants(reason))


def _made(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the code and the reason of each error that is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (code := _CODES.get(_class_of(node.func))):
            yield from ((code, word.value) for word in node.keywords if word.arg == "reason")


def _of_loops(tree: ast.AST, made: ast.Call, value: ast.expr) -> Iterator[str]:
    """Yield the reasons that the variable of a loop around an error stands for: its table's."""
    variables = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    tables = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for loop in ast.walk(tree):
        if not isinstance(loop, ast.For) or made not in ast.walk(loop):
            continue
        bound = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        if bound & variables:
            named = isinstance(loop.iter, ast.Name) and tables.get(loop.iter.id)
            yield from _constants(named or loop.iter)


def _last_name(function: ast.expr) -> str:
    """Return `require` of `wrong.require`."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


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
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    trees = [ast.parse(path.read_text()) for path in files]
    handed_to = [sender for tree in trees for sender in senders(tree)]
    entries = [entry for tree in trees for entry in raised(tree, handed_to)]
    for entry in sorted([*entries, *_of_classes()]):
        key = (entry.reason, entry.code)
        found[key] = max(found.get(key, ""), entry.text, key=_worth)
    rows = [
        f"| `{reason}` | {code} | {text.replace('|', '/')} |"
        for (reason, code), text in sorted(found.items())
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _of_classes() -> Iterator[Raised]:
    """Yield the reasons that say no more than their class of error."""
    for kind in (*errors.CLASSES.values(), LabError):
        yield Raised(
            kind.default_reason, _CODES[kind.__name__], str(kind.__doc__).partition(".")[0]
        )


def _worth(text: str) -> tuple[int, str]:
    """Prefer the message that says most in words of its own."""
    return len(text.replace("…", "")), text


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(page())

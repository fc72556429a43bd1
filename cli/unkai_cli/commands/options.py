"""Options and value types that many commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from unkai_cli.output import FORMATS

if TYPE_CHECKING:
    from unkai_cli.main import Session

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Size(click.ParamType[int]):
    """Bytes with a unit, always binary: `512M` = `512MiB` = 536870912."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        size = float(match[1]) * 1024 ** _UNITS[match[2].lower()] if match else -1.0
        if not match or size != int(size):
            self.fail(f"{value!r} is not a size; write 512M, 4GiB or bytes", param, ctx)
        return int(size)


class Seconds(click.ParamType[float]):
    """A length of time: `90`, `90s`, `5m`, `2h`, `7d`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            self.fail(f"{value!r} is not a length of time; write 30s, 5m or 2h", param, ctx)
        return float(match[1]) * _SECONDS[(match[2] or "").lower()]


class Label(click.ParamType[tuple[str, str]]):
    """`key=value`."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not a label; write key=value", param, ctx)
        return key, text


def complete_names(kind: str) -> Callable[..., list[CompletionItem]]:
    """Return a completer that offers the live names of a kind; offers none on any trouble."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from unkai_cli.main import Session

        session = Session()
        service = "".join(part.capitalize() for part in kind.split("_"))
        try:
            found = session.client.pages(f"{service}Service", f"List{service}s", limit=500)
            names = sorted({str(getattr(m, "name", "") or m.id) for m in found})
        except Exception:  # noqa: BLE001 - a completion must never print a traceback
            return []
        finally:
            session.close()
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return complete


def named(kind: str, **settings: Any) -> Callable[[F], F]:
    """Return an argument that names one thing of a kind, completed with live names."""
    metavar = kind.upper().replace("KEY_PAIR", "KEY")
    return click.argument(
        settings.pop("to", kind),
        metavar=metavar + ("..." if settings.get("nargs") == -1 else ""),
        shell_complete=complete_names(kind),
        **settings,
    )


def common(function: F) -> F:
    """Add the options that stand after any command, and pass the session first."""

    @click.option("-o", "--output", "form", default="", help=f"Format: {', '.join(FORMATS)}.")
    @click.option("-p", "--project", "in_project", default="", help="Project to work in.")
    @click.option("--no-headers", "bare", is_flag=True, help="Leave the titles out.")
    @click.pass_obj
    @functools.wraps(function)
    def wrapped(
        session: Session, /, form: str, in_project: str, bare: bool, **arguments: Any
    ) -> Any:
        session.form = form or session.form
        session.project = in_project or session.project
        session.headers = session.headers and not bare
        _ = session.printer  # a wrong format is refused before anything is done
        return function(session, **arguments)

    return wrapped  # type: ignore[return-value]


def listing(function: F) -> F:
    """Add the options of lists in a project."""
    function = click.option("--limit", type=click.IntRange(1), help="Show at most so many.")(
        function
    )
    return click.option("-A", "--all-projects", is_flag=True, help="Of all projects.")(function)


def waiting(function: F) -> F:
    """Add --wait/--no-wait and --timeout."""
    function = click.option(
        "--timeout", type=Seconds(), default=600.0, show_default="10m", help="How long to wait."
    )(function)
    return click.option(
        "--wait/--no-wait", default=True, show_default=True, help="Wait for the work to end."
    )(function)


def confirmed(session: Session, operation: Any, *, wait: bool, timeout: float) -> Any:
    """Wait for an operation when asked to, with its progress on standard error."""
    from unkai_cli.output import Progress, note

    if not wait:
        note(f"operation {operation.id} accepted; 'unkai operation wait {operation.id}' waits")
        return operation
    progress = Progress()
    try:
        return session.client.wait_operation(operation, timeout_s=timeout, progress=progress.show)
    finally:
        progress.clear()

"""Options and value types that many commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from unkai_cli.output import FORMATS
from unkai_cli.terminals import control_key
from unkai_wire.errors import UnkaiError

if TYPE_CHECKING:
    from unkai_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])

_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(?:i?b|i)?|b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"\d+(?:\.\d+)?|(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", re.ASCII)
_MILLISECONDS = {"ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_BYTES = 2**63 - 1
"""What the contracts' int64 fields hold."""
MAX_COUNT = 2**31 - 1
MAX_SECONDS = 365 * 86400


class Size(click.ParamType[int]):
    """Bytes with a unit, always binary: `512M`, `512Mi`, `512MB` and `512MiB` are 536870912.

    Kept exactly: a size that is no whole number of bytes is refused, never rounded.
    """

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if not match:
            self.fail(f"{value!r} is not a size; write 512M, 4GiB or bytes", param, ctx)
        size = Fraction(match[1]) * _FACTORS[(match[2] or "").lower()]
        if size.denominator != 1:
            self.fail(f"{value!r} is not a whole number of bytes", param, ctx)
        if size > MAX_BYTES:
            self.fail(f"{value!r} is more than any host has", param, ctx)
        return int(size)


class Count(click.ParamType[int]):
    """A whole number from 1 on that the contracts' int32 fields hold."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(click.IntRange(1, MAX_COUNT).convert(value, param, ctx))


class Seconds(click.ParamType[float]):
    """A length of time: `90`, `90s`, `5m`, `1h30m`, `7d`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip().lower()
        if not _DURATION.fullmatch(text):
            self.fail(f"{value!r} is not a length of time; write 30s, 5m or 1h30m", param, ctx)
        parts = _DURATION_PART.findall(text)
        total = sum((Fraction(number) * _MILLISECONDS[unit] for number, unit in parts), Fraction())
        if total > MAX_SECONDS * 1000:
            self.fail(f"{value!r} is longer than a year", param, ctx)
        return float(total / 1000)


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


class ControlKey(click.ParamType[int | None]):
    """A control key as people write it: `^]`, `ctrl-a`; `none` for no key."""

    name = "key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        try:
            return control_key(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_names(*kinds: str) -> Completer:
    """Return a completer that offers the live names of kinds; offers none on any trouble."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from unkai_cli.names import OF_PROJECTS
        from unkai_cli.session import Session

        chosen = ctx.find_root().params
        project = str(ctx.params.get("in_project") or chosen.get("project") or "")
        session = Session(context=str(chosen.get("context") or ""), project=project, hurried=True)
        names: set[str] = set()
        try:
            for kind in kinds:
                noun = "".join(part.capitalize() for part in kind.split("_"))
                own = {"project_id": session.client.project_id} if kind in OF_PROJECTS else {}
                found = session.client.pages(f"{noun}Service", f"List{noun}s", limit=500, **own)
                names.update(str(getattr(m, "name", "") or m.id) for m in found)
        except Exception:  # noqa: BLE001 - a completion must never print a traceback
            return []
        finally:
            session.close()
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]

    return complete


def complete_zones(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the zones that hosts are in; none on any trouble."""
    from unkai_cli.session import Session

    context = str(ctx.find_root().params.get("context") or "")
    session = Session(context=context, hurried=True)
    try:
        zones = {str(host.zone) for host in session.client.pages("HostService", "ListHosts")}
    except Exception:  # noqa: BLE001 - a completion must never print a traceback
        return []
    finally:
        session.close()
    return [CompletionItem(zone) for zone in sorted(zones) if zone.startswith(incomplete)]


def complete_contexts(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the names of contexts; none when their file cannot be read."""
    from unkai_cli import settings

    try:
        names = sorted(settings.load().contexts)
    except UnkaiError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _complete_formats(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    words = [form.removesuffix("FIELD") for form in FORMATS]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def named(kind: str, **settings: Any) -> Callable[[F], F]:
    """Return an argument that names one thing of a kind, completed with live names."""
    metavar = kind.upper().replace("KEY_PAIR", "KEY").replace("_", "-")
    return click.argument(
        settings.pop("to", kind),
        metavar=metavar + ("..." if settings.get("nargs") == -1 else ""),
        shell_complete=complete_names(kind),
        **settings,
    )


def common(function: F) -> F:
    """Add the options that stand after any command, and pass the session first."""

    @click.option(
        "-o",
        "--output",
        "form",
        default="",
        help=f"Format: {', '.join(FORMATS)}.",
        shell_complete=_complete_formats,
    )
    @click.option(
        "-p",
        "--project",
        "in_project",
        default="",
        help="Project to work in.",
        shell_complete=complete_names("project"),
    )
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


def limited(function: F) -> F:
    """Add --limit and --watch: every list has them."""
    function = click.option(
        "-w", "--watch", is_flag=True, help="Go on and show each change, until interrupted."
    )(function)
    return click.option("--limit", type=click.IntRange(1), help="Show at most so many.")(function)


def listing(function: F) -> F:
    """Add the options of lists in a project."""
    function = limited(function)
    return click.option("-A", "--all-projects", is_flag=True, help="Of all projects.")(function)


def waiting(function: F) -> F:
    """Add --wait/--no-wait and --timeout."""
    function = click.option(
        "--timeout", type=Seconds(), default="10m", show_default=True, help="How long to wait."
    )(function)
    return click.option(
        "--wait/--no-wait", default=True, show_default=True, help="Wait for the work to end."
    )(function)

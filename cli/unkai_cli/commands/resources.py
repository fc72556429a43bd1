"""What the nouns of networks have in common: read, make, change and remove one by its kind.

A kind is the word of ids and events (`floating_ip`); service, methods and fields follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unkai_cli.commands.acting import attempted, raise_first, resolved
from unkai_cli.commands.options import Label
from unkai_cli.commands.settling import Waiting, settled
from unkai_cli.commands.watching import Listing
from unkai_cli.output import Column, Record, age_text, note
from unkai_wire.errors import NotFound, PermissionDenied

if TYPE_CHECKING:
    from unkai_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])
Columns = Sequence[Column]

NAME = Column("NAME", lambda r: r["name"])
READY = Column("READY", lambda r: "no" if r["reconciling"] else "yes")
AGE = Column("AGE", lambda r: age_text(r["create_time"]), right=True)
ID = Column("ID", lambda r: r["id"])
LABELS = Column("LABELS", lambda r: ",".join(f"{k}={v}" for k, v in r["labels"].items()), wide=True)
LAST = (READY, AGE, ID, LABELS)
"""The columns that end each table."""
ALONE = (
    Column("PROJECT", lambda r: r["project_id"]),
    Column("CREATED", lambda r: r["create_time"]),
    Column("ETAG", lambda r: r["etag"]),
)
"""The columns that one thing alone has besides."""


class Names:
    """Names of things by their ids, asked for when a table needs them."""

    def __init__(self, session: Session, *, many: bool = False) -> None:
        """`many`: for a list, whose names are fetched kind by kind, not one by one."""
        self._session = session
        self._many = many
        self._known: dict[str, dict[str, str]] = {}

    def of(self, kind: str, ident: str) -> str:
        """Return the name; the id where it has none that we may read."""
        if not ident:
            return ""
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = self._all(kind) if self._many else {}
        if ident not in known:
            known[ident] = self._one(kind, ident)
        return known[ident]

    def _all(self, kind: str) -> dict[str, str]:
        client = self._session.client
        found = client.pages(
            f"{noun(kind)}Service", f"List{noun(kind)}s", project_id=client.list_project_id
        )
        return {str(message.id): str(message.name) for message in found}

    def _one(self, kind: str, ident: str) -> str:
        try:
            return str(read(self._session, kind, ident).name)
        except (NotFound, PermissionDenied):
            return ident


def noun(kind: str) -> str:
    """Return the kind as services and methods write it: `FloatingIp`."""
    return "".join(part.capitalize() for part in kind.split("_"))


def words(kind: str) -> str:
    """Return the kind as people write it: `floating ip`."""
    return kind.replace("_", " ")


def read(session: Session, kind: str, ident: str) -> Any:
    """Return the message with this id."""
    name, named = noun(kind), {f"{kind}_id": ident}
    answer = session.client.call(f"{name}Service", f"Get{name}", timeout_s=None, **named)
    return getattr(answer, kind)


def found(session: Session, kind: str, text: str) -> Any:
    """Return the message that a name, an id or the beginning of an id stands for."""
    return read(session, kind, session.client.resolve(kind, text))


def labelled(function: F) -> F:
    """Add the option that labels a new thing."""
    return click.option("-l", "--label", "labels", type=Label(), multiple=True, help="key=value.")(
        function
    )


def renaming(function: F) -> F:
    """Add the options that change a name and labels."""
    for option in (
        click.option("--remove-label", "removed", multiple=True, help="Remove a label."),
        click.option("-l", "--label", "labels", type=Label(), multiple=True, help="Set key=value."),
        click.option("--name", "new_name", help="New name."),
    ):
        function = option(function)
    return function


def choosing(function: F) -> F:
    """Add the option that lists only what is labelled so."""
    return click.option(
        "-l", "--label", "labels", multiple=True, help="Only those with key=value, or key."
    )(function)


def listed(
    session: Session,
    kind: str,
    columns: Columns,
    *,
    labels: Iterable[str],
    limit: int | None,
    watch: bool,
    filters: Mapping[str, Any] | None = None,
    matches: Callable[[Record], bool] = lambda row: True,
) -> None:
    """Print a list. `matches`: what `filters` say, asked of each changed thing of a watch."""
    wanted = [text.partition("=") for text in labels]

    def fits(row: Record) -> bool:
        has = row["labels"]
        return matches(row) and all(
            key in has and (not equals or has[key] == value) for key, equals, value in wanted
        )

    asked = {"project_id": session.client.list_project_id, **(filters or {})}
    Listing(kind, columns, asked, fits, sifted=bool(wanted)).show(session, limit=limit, watch=watch)


def made(session: Session, kind: str, wanted: Any, waiting: Waiting) -> Any:
    """Make one in the project; return the message."""
    client = session.client
    answer = client.call(
        f"{noun(kind)}Service",
        f"Create{noun(kind)}",
        project_id=client.project_id,
        **{kind: wanted},
    )
    return settled(session, kind, getattr(answer, kind), waiting)


def changed(session: Session, kind: str, now: Any, waiting: Waiting, **fields: Any) -> Any:
    """Change fields of one that was read, and wait for it; return the message."""
    return settled(session, kind, updated(session, kind, now, **fields), waiting)


def updated(session: Session, kind: str, now: Any, **fields: Any) -> Any:
    """Change fields of one that was read; return the message. Somebody else's change is refused."""
    from google.protobuf import field_mask_pb2

    if not fields:
        raise click.UsageError("say what to change; see --help")
    wanted = type(now)(id=now.id, etag=now.etag, **fields)
    answer = session.client.call(
        f"{noun(kind)}Service",
        f"Update{noun(kind)}",
        update_mask=field_mask_pb2.FieldMask(paths=sorted(fields)),
        **{kind: wanted},
    )
    return getattr(answer, kind)


def renamed(
    now: Any, new_name: str | None, labels: Sequence[tuple[str, str]], removed: Sequence[str]
) -> dict[str, Any]:
    """Return the fields that the options of `renaming` change."""
    fields: dict[str, Any] = {"name": new_name} if new_name else {}
    if labels or removed:
        kept = {key: value for key, value in now.labels.items() if key not in removed}
        fields["labels"] = kept | dict(labels)
    return fields


def removed_all(session: Session, kind: str, names: Sequence[str]) -> None:
    """Remove each; say so; raise the first refusal."""
    remove_named(session, kind, resolved(session, kind, names))


def remove_named(session: Session, kind: str, names: Mapping[str, str]) -> None:
    """Remove things, given as their names by their ids."""

    name = noun(kind)

    def remove(ident: str) -> None:
        named = {f"{kind}_id": ident}
        session.client.call(f"{name}Service", f"Delete{name}", timeout_s=None, **named)
        note(f"{words(kind)} {names[ident]} deleted")

    raise_first(attempted(names, remove)[1])


def show_rows(session: Session, columns: Columns, *messages: Any) -> None:
    """Print messages as rows."""
    from unkai_cli.records import record

    session.printer.rows([record(message) for message in messages], columns)


def show_one(session: Session, columns: Columns, message: Any) -> None:
    """Print one message with all its fields."""
    from unkai_cli.records import record

    session.printer.one(record(message), columns)

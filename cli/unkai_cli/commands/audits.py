"""`unkai audit …`: what does not fit between the database and what hosts hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.options import common, complete_names
from unkai_cli.groups import Group
from unkai_cli.output import EXIT_STATE, EXIT_UNAVAILABLE, Column, Record, bytes_text, note

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from unkai_cli.session import Session

ORPHAN = "ORPHAN"
KINDS = (
    ORPHAN,
    "UNCLAIMED_MACHINE",
    "CLAIM_WITHOUT_MACHINE",
    "MACHINE_AHEAD",
    "MACHINE_BEHIND",
    "STATE_MISMATCH",
    "SPEC_MISMATCH",
    "DELETED_ON_HOST",
    "LOST",
    "HOST_OVERSOLD",
)
REMEDIES = ("LEADER", "OPERATOR")
DRIFT = (
    Column("KIND", lambda r: r["kind"]),
    Column("HOST", lambda r: r["host_name"]),
    Column("INSTANCE", lambda r: r["instance_name"] or r["instance_id"]),
    Column("REMEDY", lambda r: r["remedy"]),
    Column("MESSAGE", lambda r: r["message"]),
    Column("FIX", lambda r: r["fix"]),
    Column("ID", lambda r: r["instance_id"], wide=True),
    Column("GENERATION", lambda r: str(r["generation"] or ""), wide=True, right=True),
)
ORPHANS = (
    Column("ID", lambda r: r["instance_id"]),
    Column("HOST", lambda r: r["host_name"]),
    Column("NAME", lambda r: r["instance_name"]),
    Column("STATE", lambda r: r["machine_state"]),
    Column("VCPUS", lambda r: str(r["vcpus"] or ""), right=True),
    Column("MEMORY", lambda r: bytes_text(r["memory_bytes"]), right=True),
    Column("PROJECT", lambda r: r["project_id"], wide=True),
    Column("GENERATION", lambda r: str(r["generation"]), wide=True, right=True),
    Column("MESSAGE", lambda r: r["message"], wide=True),
)


@click.group(cls=Group)
def audit() -> None:
    """What does not fit between the database and what hosts hold."""


def on_host(function: Any) -> Any:
    """Add --host."""
    option = click.option("--host", help="Of this host.", shell_complete=complete_names("host"))
    return option(function)


@audit.command("drift")
@on_host
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind for kind in KINDS if kind != ORPHAN], case_sensitive=False),
    metavar="KIND",
    multiple=True,
    help="Only of this kind; repeatable.",
)
@click.option(
    "--remedy",
    type=click.Choice(REMEDIES, case_sensitive=False),
    metavar="WHO",
    help="Only what LEADER or OPERATOR has to mend.",
)
@common
def drift(session: Session, host: str | None, kinds: tuple[str, ...], remedy: str | None) -> int:
    """List where instances and machines differ, and whose turn it is.

    Exit codes: 0 nothing found; 4 something found; 6 nothing found, but some hosts are silent and
    could not be looked at.
    """
    wanted = kinds or tuple(kind for kind in KINDS if kind != ORPHAN)
    found = Findings(session, wanted, host)
    rows = [row for row in found if remedy in (None, row["remedy"])]
    return _show(session, rows, DRIFT, found)


@audit.command("orphans")
@on_host
@common
def orphans(session: Session, host: str | None) -> int:
    """List machines that the database does not know: 'unkai instance adopt' takes them in.

    Exit codes: 0 nothing found; 4 something found; 6 nothing found, but some hosts are silent and
    could not be looked at.
    """
    found = Findings(session, (ORPHAN,), host)
    return _show(session, list(found), ORPHANS, found)


def _show(
    session: Session, rows: Sequence[Record], columns: Sequence[Column], found: Findings
) -> int:
    named = [{"name": row["instance_id"] or row["host_name"], **row} for row in rows]
    shown = named if session.printer.form == "name" else rows
    session.printer.rows(shown, columns)
    found.tell_unseen()
    if rows:
        return EXIT_STATE
    return EXIT_UNAVAILABLE if found.unseen else 0


class Findings:
    """The findings of some kinds; once they were read, which hosts could not be looked at."""

    def __init__(self, session: Session, kinds: Sequence[str], host: str | None) -> None:
        self._session = session
        self._kinds = kinds
        self._host_id = session.client.resolve("host", host) if host else ""
        self._host_name = self._name_of(self._host_id)
        self.unseen: list[str] = []
        self._unseen_count = 0

    def _name_of(self, host_id: str) -> str:
        if not host_id:
            return ""
        return str(self._session.client.call("HostService", "GetHost", host_id=host_id).host.name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from unkai.host.v1 import audit_pb2
        from unkai_cli.records import record

        numbers = [audit_pb2.Finding.Kind.Value(f"KIND_{kind}") for kind in self._kinds]
        token = ""
        while True:
            answer = self._session.client.call(
                "AuditService",
                "ListFindings",
                kinds=numbers,
                host_id=self._host_id,
                page_size=1000,
                page_token=token,
            )
            self._take(answer.audit)
            yield from map(record, answer.findings)
            token = answer.next_page_token
            if not token:
                return

    def _take(self, audited: Any) -> None:
        names = list(audited.unseen_hosts)
        if self._host_name:
            names = [name for name in names if name == self._host_name]
        self.unseen = names
        self._unseen_count = len(names) if self._host_name else audited.unseen_host_count

    def tell_unseen(self) -> None:
        """Say which hosts could not be looked at."""
        if self.unseen:
            shown = ", ".join(self.unseen[:5]) + (", ..." if self._unseen_count > 5 else "")
            count = self._unseen_count
            silent = "1 host is" if count == 1 else f"{count} hosts are"
            note(f"{silent} silent and could not be looked at: {shown}")


def complete_orphans() -> Callable[..., list[CompletionItem]]:
    """Return a completer that offers the ids of orphans; offers none on any trouble."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from unkai_cli.session import Session

        context = str(ctx.find_root().params.get("context") or "")
        session = Session(context=context, hurried=True)
        try:
            found = {str(row["instance_id"]): row for row in Findings(session, (ORPHAN,), None)}
        except Exception:  # noqa: BLE001 - a completion must never print a traceback
            return []
        finally:
            session.close()
        return [
            CompletionItem(ident, help=f"{row['instance_name']} on {row['host_name']}")
            for ident, row in sorted(found.items())
            if ident.startswith(incomplete) and ident.isprintable()
        ]

    return complete

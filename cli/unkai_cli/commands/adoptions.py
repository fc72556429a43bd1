"""`unkai instance adopt`: takes machines that the database does not know into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.acting import attempted, raise_first
from unkai_cli.commands.audits import ORPHAN, Findings
from unkai_cli.output import EXIT_UNAVAILABLE, Column, note
from unkai_wire import ids
from unkai_wire.errors import InvalidArgument, NotFound, Unavailable, UnkaiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unkai_cli.session import Session

MOST_AT_ONCE = 1000
"""Orphans that `--all` adopts: more than a host holds are invented ones."""


def adopt(
    session: Session,
    names: tuple[str, ...],
    columns: Sequence[Column],
    *,
    every: bool,
    host: str | None,
    new_name: str,
    rename: bool,
) -> int:
    """Adopt the orphans named, or all of them; return the exit code."""
    if every == bool(names):
        raise click.UsageError("say which ones, or --all")
    if new_name and (every or len(names) != 1):
        raise click.UsageError("--name is for one alone")
    client, found = session.client, Findings(session, (ORPHAN,), host)
    holders = _all(found) if every else {_ident(found, name): set() for name in names}
    silent: dict[str, UnkaiError] = {}
    project_id = client.project_id if session.project else ""
    host_id = client.resolve("host", host) if host else ""

    def act(ident: str) -> Any:
        known = holders[ident]
        if known and known <= silent.keys():
            raise _not_asked(ident, silent[min(known)])
        try:
            return client.call(
                "InstanceService",
                "AdoptInstance",
                instance_id=ident,
                host_id=host_id,
                project_id=project_id,
                name=new_name,
                rename_if_taken=rename or every,
            )
        except Unavailable as refusal:
            if refusal.reason == "HOST_UNREACHABLE":
                silent[refusal.metadata.get("host", "")] = refusal
            raise

    answers, refusals = attempted(holders, act, goes_on=_is_of_its_host)
    _show(session, answers, columns)
    found.tell_unseen()
    if every and found.unseen:
        left = f", {len(refusals)} were not" if refusals else ""
        note(
            f"{len(answers)} orphans of the other hosts were adopted{left}; repeat this once every "
            "host is back"
        )
    raise_first(refusals)
    return EXIT_UNAVAILABLE if every and found.unseen else 0


def _is_of_its_host(refusal: UnkaiError) -> bool:
    """Tell whether one host alone cannot be asked: those of other hosts can be adopted still."""
    return bool(refusal.metadata.keys() & {"host", "host_id"})


def _not_asked(ident: str, first: UnkaiError) -> Unavailable:
    """Say of an orphan what was found of its host when the one before was to be adopted: asking
    again would take a host's whole time for each."""
    host = first.metadata["host"]
    return Unavailable(
        f"host {host} was not asked for machine {ident}: it did not answer a moment ago",
        reason=first.reason,
        fix=first.fix,
        metadata={"host": host, "instance_id": ident},
    )


def _all(found: Findings) -> dict[str, set[str]]:
    """Return the orphans, each with the names of the hosts that hold it."""
    idents: dict[str, set[str]] = {}
    for row in found:
        idents.setdefault(str(row["instance_id"]), set()).add(str(row["host_name"]))
    if len(idents) > MOST_AT_ONCE:
        raise InvalidArgument(
            f"there are {len(idents)} orphans; --all adopts {MOST_AT_ONCE} at most",
            reason="TOO_MANY_ORPHANS",
            fix="see 'unkai audit orphans' for a host that invents them; adopt --host by host",
        )
    return idents


def _show(session: Session, answers: Sequence[Any], columns: Sequence[Column]) -> None:
    from unkai_cli.records import record

    if answers or session.printer.form not in ("table", "wide"):
        session.printer.rows([record(answer.instance) for answer in answers], columns)
    else:
        note("nothing adopted")
    for answer in answers:
        for warning in answer.warnings:
            note(f"{answer.instance.name}: {warning if warning.isprintable() else ascii(warning)}")


def _ident(found: Findings, text: str) -> str:
    """Return the id that an id, its unique beginning, or an orphan's name stands for."""
    if ids.is_id("instance", text):
        return text
    known = {str(row["instance_id"]): str(row["instance_name"]) for row in found}
    meant = [ident for ident, name in known.items() if name == text]
    if not meant and text.startswith("ins-") and text != "ins-":
        meant = [ident for ident in known if ident.startswith(text)]
    if not meant:
        raise NotFound(
            f"no host that could be looked at holds an orphan {text}",
            reason="ORPHAN_NOT_FOUND",
            fix="see 'unkai audit orphans'",
            metadata={"instance_id": text},
            resource_kind="machine",
            resource=text,
        )
    if len(meant) > 1:
        raise InvalidArgument(
            f"{text} stands for {len(meant)} orphans",
            reason="AMBIGUOUS",
            fix="give the whole id; see 'unkai audit orphans'",
            metadata={"text": text},
        )
    return meant[0]

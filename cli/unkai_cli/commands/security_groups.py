"""`unkai security-group …`: what may reach a port, and what may leave it.

How rules are read and written: `security_rules.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from unkai_cli.commands.acting import attempted, raise_first
from unkai_cli.commands.options import common, complete_names, listing, named
from unkai_cli.commands.resources import (
    ALONE,
    LAST,
    NAME,
    Names,
    changed,
    choosing,
    found,
    labelled,
    listed,
    made,
    removed_all,
    renamed,
    renaming,
    show_rows,
)
from unkai_cli.commands.security_rules import (
    DIRECTIONS,
    Rule,
    fields,
    next_words,
    parse,
    rule_text,
)
from unkai_cli.commands.settling import Waiting, settled, settling
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record, note
from unkai_wire import ids
from unkai_wire.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from unkai_cli.session import Session

COLUMNS = (
    NAME,
    Column("RULES", lambda r: str(len(r["rules"])), right=True),
    Column("PORTS", lambda r: str(r["port_count"]), right=True),
    Column("DESCRIPTION", lambda r: r["description"]),
    *LAST,
)
DETAILS = (*COLUMNS, *ALONE)
_RULE_HELP = "such as 'ingress tcp 22 from 10.0.0.0/8'"


class RuleType(click.ParamType[Rule]):
    """A rule as people write it, in one word of the shell."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rule:
        if isinstance(value, Rule):
            return value
        try:
            return parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(cls=Group)
def security_group() -> None:
    """Security groups: what may reach a port, and what may leave it."""


@security_group.command("list")
@choosing
@listing
@common
def list_security_groups(
    session: Session,
    *,
    labels: tuple[str, ...],
    all_projects: bool,
    limit: int | None,
    watch: bool,
) -> None:
    """List security groups."""
    session.all_projects = all_projects
    listed(session, "security_group", COLUMNS, labels=labels, limit=limit, watch=watch)


@security_group.command("show")
@named("security_group")
@common
def show(session: Session, security_group: str) -> None:
    """Show one security group, and its rules in words."""
    from unkai_cli.records import record

    shown = record(found(session, "security_group", security_group))
    session.printer.one(shown, DETAILS)
    if session.printer.form in ("table", "wide"):
        names = Names(session)
        session.printer.line()
        for line in _in_words(shown, names) or ["no rules: nothing passes"]:
            session.printer.line(line)


def _in_words(group: Record, names: Names) -> list[str]:
    """Return a group's rules as lines, ingress first."""
    rows = sorted(group["rules"], key=lambda rule: rule["direction"] != "INGRESS")
    return [_line(rule, names) for rule in rows]


def _line(rule: Record, names: Names) -> str:
    text = rule_text(rule, lambda ident: names.of("security_group", ident))
    return f"{text}    # {rule['description']}" if rule["description"] else text


@security_group.command("create")
@click.argument("name")
@click.option(
    "-r", "--rule", "rules", type=RuleType(), multiple=True, help=f"Rule, {_RULE_HELP}; repeatable."
)
@click.option("--description", default="", help="What it is for.")
@click.option("--no-default-rules", is_flag=True, help="Without the rule that lets all out.")
@labelled
@settling
@common
def create(
    session: Session,
    *,
    name: str,
    rules: tuple[Rule, ...],
    description: str,
    no_default_rules: bool,
    labels: tuple[tuple[str, str], ...],
    wait: bool,
    timeout: float,
) -> None:
    """Make a security group NAME.

    In comes what --rule says, out goes everything unless a rule says what.

    \b
    unkai security-group create web -r 'ingress tcp 443' -r 'ingress tcp 22 from 10.0.0.0/8'
    """
    from unkai.network.v1 import security_group_pb2

    said = [_message(session, rule) for rule in rules]
    if said and not no_default_rules and all(rule.direction != "EGRESS" for rule in rules):
        said.append(_message(session, Rule("EGRESS")))
    wanted = security_group_pb2.SecurityGroup(
        name=name,
        description=description,
        rules=said,
        no_default_rules=no_default_rules or bool(said),
        labels=dict(labels),
    )
    new = made(session, "security_group", wanted, Waiting(wait, timeout))
    show_rows(session, COLUMNS, new)


def _message(session: Session, rule: Rule, description: str = "") -> Any:
    from unkai.network.v1 import security_group_pb2

    client = session.client
    group_id = client.resolve("security_group", rule.remote_group) if rule.remote_group else ""
    said = {key: value for key, value in fields(rule, group_id).items() if value is not None}
    return security_group_pb2.SecurityGroup.Rule(description=description, **said)


@security_group.command("update")
@named("security_group")
@renaming
@click.option("--description", help="What it is for.")
@click.option(
    "-r", "--rule", "rules", type=RuleType(), multiple=True, help="Replace all rules by these."
)
@settling
@common
def update(
    session: Session,
    *,
    security_group: str,
    new_name: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    description: str | None,
    rules: tuple[Rule, ...],
    wait: bool,
    timeout: float,
) -> None:
    """Change a security group; --rule replaces all rules, 'rule add' adds one."""
    now = found(session, "security_group", security_group)
    said = renamed(now, new_name, labels, removed)
    if description is not None:
        said["description"] = description
    if rules:
        said["rules"] = [_message(session, rule) for rule in rules]
    new = changed(session, "security_group", now, Waiting(wait, timeout), **said)
    show_rows(session, COLUMNS, new)


@security_group.command("delete")
@named("security_group", nargs=-1, required=True)
@common
def delete(session: Session, security_group: tuple[str, ...]) -> None:
    """Remove security groups that no port is in and no rule names."""
    removed_all(session, "security_group", security_group)


@security_group.group("rule", cls=Group)
def rule() -> None:
    """Rules of a group: each allows what fits all that it says; nothing else passes.

    \b
    ingress tcp 22 from 10.0.0.0/8      egress udp 53
    ingress tcp 8000-8099 from group web
    ingress icmp                        egress ipv6 any
    """


def _rule_columns(names: Names) -> Sequence[Column]:
    return (
        Column("ID", lambda r: r["id"]),
        Column("RULE", lambda r: rule_text(r, lambda ident: names.of("security_group", ident))),
        Column("DESCRIPTION", lambda r: r["description"]),
    )


@rule.command("list")
@named("security_group")
@click.option("--direction", type=click.Choice(("ingress", "egress")), help="Only these.")
@common
def list_rules(session: Session, security_group: str, direction: str | None) -> None:
    """List a group's rules in words."""
    from unkai_cli.records import record

    group = record(found(session, "security_group", security_group))
    wanted = DIRECTIONS.get(direction or "", "")
    rows = [row for row in group["rules"] if wanted in ("", row["direction"])]
    session.printer.rows(rows, _rule_columns(Names(session)))


def _complete_rule(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the words that may stand next in a rule; groups where another group may."""
    words = list(ctx.params.get("words") or ())
    if words and words[-1] == "group":
        return complete_names("security_group")(ctx, param, incomplete)
    return [CompletionItem(word) for word in next_words(words) if word.startswith(incomplete)]


@rule.command("add")
@named("security_group")
@click.argument("words", metavar="RULE...", nargs=-1, required=True, shell_complete=_complete_rule)
@click.option("--description", default="", help="What it is for.")
@settling
@common
def add(
    session: Session,
    *,
    security_group: str,
    words: tuple[str, ...],
    description: str,
    wait: bool,
    timeout: float,
) -> None:
    """Add a rule to a group.

    \b
    unkai security-group rule add web ingress tcp 443
    unkai security-group rule add db ingress tcp 5432 from group web
    """
    client = session.client
    wanted = _message(session, _read(words), description)
    answer = client.call(
        "SecurityGroupService",
        "AddSecurityGroupRule",
        security_group_id=client.resolve("security_group", security_group),
        rule=wanted,
    )
    settled(session, "security_group", answer.security_group, Waiting(wait, timeout))
    show_rows(session, _rule_columns(Names(session)), answer.rule)


def _read(words: Sequence[str]) -> Rule:
    try:
        return parse(" ".join(words))
    except ValueError as error:
        raise InvalidArgument(
            str(error), reason="INVALID_RULE", fix=f"write a rule {_RULE_HELP}"
        ) from error


@rule.command("remove")
@named("security_group")
@click.argument("words", metavar="RULE...", nargs=-1, required=True)
@settling
@common
def remove(
    session: Session,
    *,
    security_group: str,
    words: tuple[str, ...],
    wait: bool,
    timeout: float,
) -> None:
    """Remove rules by their ids, or one by its words.

    Connections that no rule allows any more are cut.

    \b
    unkai security-group rule remove web ingress tcp 443
    unkai security-group rule remove web sgr-01m4k2
    """
    group = found(session, "security_group", security_group)

    def take(ident: str) -> Any:
        answer = session.client.call(
            "SecurityGroupService", "RemoveSecurityGroupRule", rule_id=ident
        )
        note(f"rule {ident} removed")
        return answer.security_group

    groups, refusals = attempted(_named_rules(session, group, words), take)
    if groups:
        settled(session, "security_group", groups[-1], Waiting(wait, timeout))
    raise_first(refusals)


def _named_rules(session: Session, group: Any, words: Sequence[str]) -> list[str]:
    """Return the ids of the rules that the words name."""
    known = [str(rule.id) for rule in group.rules]
    if not all(word.startswith(f"{ids.PREFIXES['security_group_rule']}-") for word in words):
        return [_said(session, group, words)]
    idents: dict[str, None] = {}
    for word in words:
        fitting = [ident for ident in known if ident.startswith(word)]
        if not fitting:
            raise _no_such_rule(group, word)
        if len(fitting) > 1:
            raise InvalidArgument(
                f"{word} stands for {len(fitting)} rules: {', '.join(fitting[:5])}",
                reason="AMBIGUOUS",
                fix="give more characters of the id",
                metadata={"text": word},
            )
        idents[fitting[0]] = None
    return list(idents)


def _said(session: Session, group: Any, words: Sequence[str]) -> str:
    """Return the id of the rule that says the same as the words."""
    from unkai_cli.records import record

    wanted = rule_text(record(_message(session, _read(words))))
    for known in group.rules:
        if rule_text(record(known)) == wanted:
            return str(known.id)
    raise _no_such_rule(group, " ".join(words))


def _no_such_rule(group: Any, text: str) -> NotFound:
    return NotFound(
        f"security group {group.name} has no rule {text}",
        reason="SECURITY_GROUP_RULE_NOT_FOUND",
        fix=f"see its rules with 'unkai security-group rule list {group.name}'",
        metadata={"security_group_id": group.id, "rule": text},
    )

"""Security groups: what may reach a port, and what may leave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from unkai_scheduler.domain import names
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.domain.security_groups import DEFAULT_GROUP, Direction, Rule, SecurityGroup
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.services import ovn_work
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch, found
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.mutations import mutate
from unkai_scheduler.services.networking import check_configured, record_change
from unkai_scheduler.services.projects import resolve_project
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.services.security_rules import (
    MAX_DESCRIPTION,
    MAX_RULES,
    RuleDraft,
    all_out,
    make_rule,
    make_rules,
    renewed,
)
from unkai_scheduler.store import networks, security_groups
from unkai_wire.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("name", "labels", "description", "rules")


@dataclass(frozen=True, slots=True)
class SecurityGroupDraft:
    """What a user may say of a security group."""

    name: str = ""
    description: str = ""
    rules: Sequence[RuleDraft] = ()
    no_default_rules: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddedRule:
    """A rule and the group that it was added to."""

    group: SecurityGroup
    rule: Rule


def ensure_default_group(
    conn: Connection, context: ServiceContext, call: Call, project: Project
) -> SecurityGroup:
    """Return the project's default group; one that has none gets it now.

    The project is locked (`resolve_project`), so there is one.
    """
    known = security_groups.find(conn, project.id, DEFAULT_GROUP)
    if known is not None:
        return known
    now, ident = context.clock(), context.new_id("security_group")
    members = Rule(context.new_id("security_group_rule"), Direction.INGRESS, remote_group_id=ident)
    group = SecurityGroup(
        id=ident,
        project_id=project.id,
        name=DEFAULT_GROUP,
        description="Nothing in but from its own members, everything out.",
        rules=(members, all_out(context.new_id)),
        etag=context.new_etag(),
        create_time=now,
        update_time=now,
    )
    return insert_group(conn, context, call, group)


def insert_group(
    conn: Connection, context: ServiceContext, call: Call, group: SecurityGroup
) -> SecurityGroup:
    """Insert a group with its event and its work on OVN; return it as it is then."""
    security_groups.insert(conn, group)
    ovn_work.touched(conn, context, "security_group", group.id, reason="made")
    record_change(
        conn,
        context,
        call,
        kind="security_group",
        row=group,
        change=EventType.CREATED,
        what="was made",
    )
    return replace(group, reconciling=True)


class SecurityGroupsService:
    """Use cases of security groups."""

    def __init__(self, context: ServiceContext, settings: NetworkSettings) -> None:
        self._context = context
        self._settings = settings

    async def create(self, call: Call, project_id: str, draft: SecurityGroupDraft) -> SecurityGroup:
        """Make a security group."""
        rules = self._check(draft, frozenset(_CHANGEABLE))
        _check_not_reserved(draft.name)
        check_configured(self._settings)
        if not rules and not draft.no_default_rules:
            rules = (all_out(self._context.new_id),)
        ident = self._context.new_id("security_group")

        def work(conn: Connection) -> SecurityGroup:
            now = self._context.clock()
            group = SecurityGroup(
                id=ident,
                project_id=resolve_project(conn, project_id).id,
                name=draft.name,
                description=draft.description,
                rules=rules,
                etag=self._context.new_etag(),
                create_time=now,
                update_time=now,
                labels=dict(draft.labels),
            )
            security_groups.lock(conn, [], _named(group, rules))
            _check_remotes(conn, group, rules)
            return insert_group(conn, self._context, call, group)

        return await mutate(self._context, call, SecurityGroup, work, wakes=[ident])

    async def get(self, group_id: str) -> SecurityGroup:
        """Return one security group."""
        return await read_row(self._context.uow, "security_group", group_id, security_groups.get)

    async def list(
        self, paging: Paging, *, project_id: str = "", name: str = ""
    ) -> Page[SecurityGroup]:
        """Return security groups by name."""
        if project_id:
            check_id("project", project_id, "project_id")
        names.check_text(name, "name", names.MAX_FILTER)
        page = plan(paging, "security_groups", [project_id, name], _key, key_length=2)
        return await page.read(
            self._context.uow,
            partial(security_groups.list_page, project_id=project_id or None, name=name or None),
        )

    async def update(
        self,
        call: Call,
        group_id: str,
        draft: SecurityGroupDraft,
        mask: Sequence[str],
        etag: str,
    ) -> SecurityGroup:
        """Change the fields that the mask names."""
        fields = check_mask(mask, _CHANGEABLE)
        rules = self._check(draft, fields)

        def work(conn: Connection) -> SecurityGroup:
            old = _locked(conn, group_id, "security_group.id", rules)
            if "name" in fields and draft.name != old.name:
                _keep_default_name(old)
                _check_not_reserved(draft.name)
            new = replace(
                old,
                name=draft.name if "name" in fields else old.name,
                labels=dict(draft.labels) if "labels" in fields else old.labels,
                description=draft.description if "description" in fields else old.description,
                rules=renewed(old.rules, rules) if "rules" in fields else old.rules,
            )
            return self._replace(conn, call, old, new, etag=etag, what="was changed")

        return await mutate(self._context, call, SecurityGroup, work, wakes=[group_id])

    async def add_rule(self, call: Call, group_id: str, draft: RuleDraft) -> AddedRule:
        """Add one rule."""
        rule = make_rule(draft, "rule", self._context.new_id)

        def work(conn: Connection) -> AddedRule:
            old = _locked(conn, group_id, "security_group_id", [rule])
            _check_new(old, rule)
            new = replace(old, rules=(*old.rules, rule))
            what = f"has rule {rule.id}"
            return AddedRule(self._replace(conn, call, old, new, etag="", what=what), rule)

        return await mutate(self._context, call, AddedRule, work, wakes=[group_id])

    async def remove_rule(self, call: Call, rule_id: str) -> SecurityGroup:
        """Remove one rule."""
        check_id("security_group_rule", rule_id, "rule_id")

        def work(conn: Connection) -> SecurityGroup:
            group_id = found("security_group_rule", rule_id, security_groups.of_rule(conn, rule_id))
            old = _locked(conn, group_id, "security_group_id")
            rules = tuple(rule for rule in old.rules if rule.id != rule_id)
            if len(rules) == len(old.rules):  # it went between the two looks
                raise NotFound.of("security_group_rule", rule_id)
            new = replace(old, rules=rules)
            return self._replace(conn, call, old, new, etag="", what=f"lost rule {rule_id}")

        return await mutate(self._context, call, SecurityGroup, work, wakes=[rule_id])

    async def delete(self, call: Call, group_id: str, etag: str = "") -> None:
        """Remove a group that no port is in and no other group's rule names."""

        def work(conn: Connection) -> SecurityGroup:
            self._lock_project_of_default(conn, group_id)
            row = _locked(conn, group_id, "security_group_id")
            check_etag("security_group", row.id, row.etag, etag)
            _check_unused(conn, row)
            security_groups.delete(conn, row.id)
            ovn_work.removed(conn, self._context, "security_group", row.id)
            self._record(conn, call, row, EventType.DELETED, "was removed")
            return row

        await mutate(self._context, call, SecurityGroup, work, wakes=[group_id])

    @staticmethod
    def _lock_project_of_default(conn: Connection, group_id: str) -> None:
        """Lock the project of a default group, as those have who find it by `ensure_default_group`.

        They need not hold it then.
        """
        seen = fetch(
            "security_group", group_id, "security_group_id", partial(security_groups.get, conn)
        )
        if seen.name == DEFAULT_GROUP:
            resolve_project(conn, seen.project_id)

    def _check(self, draft: SecurityGroupDraft, fields: frozenset[str]) -> tuple[Rule, ...]:
        """Return the draft's rules; raise `InvalidArgument` for all that is wrong with it."""
        rules: tuple[Rule, ...] = ()
        with Violations() as wrong:
            if "name" in fields:
                with wrong.collect():
                    names.check_name(draft.name, "security_group.name")
            if "labels" in fields:
                with wrong.collect():
                    names.check_labels(draft.labels, "security_group.labels")
            if "description" in fields:
                with wrong.collect():
                    names.check_text(
                        draft.description, "security_group.description", MAX_DESCRIPTION
                    )
            if "rules" in fields:
                with wrong.collect():
                    rules = make_rules(draft.rules, "security_group.rules", self._context.new_id)
        return rules

    def _replace(
        self,
        conn: Connection,
        call: Call,
        old: SecurityGroup,
        new: SecurityGroup,
        *,
        etag: str,
        what: str,
    ) -> SecurityGroup:
        new = replace(new, etag=self._context.new_etag(), update_time=self._context.clock())
        _check_remotes(conn, new, set(new.rules) - set(old.rules))
        security_groups.replace(conn, new, etag=etag or None)
        if new.rules != old.rules:
            ovn_work.touched(conn, self._context, "security_group", new.id)
            new = replace(new, reconciling=True)
        self._record(conn, call, new, EventType.UPDATED, what)
        return new

    def _record(
        self, conn: Connection, call: Call, row: SecurityGroup, change: EventType, what: str
    ) -> None:
        record_change(
            conn, self._context, call, kind="security_group", row=row, change=change, what=what
        )


def _key(group: SecurityGroup) -> Sequence[str]:
    return [group.name, group.id]


def _locked(
    conn: Connection, group_id: str, path: str, rules: Iterable[Rule] = ()
) -> SecurityGroup:
    """Return a group, locked; those that these rules name are held.

    All are taken in one order: two groups may be given rules that name each other.
    """

    def look(ident: str) -> SecurityGroup | None:
        security_groups.lock(conn, [ident], {rule.remote_group_id for rule in rules} - {""})
        return security_groups.get(conn, ident)

    return fetch("security_group", group_id, path, look)


def _named(group: SecurityGroup, rules: Iterable[Rule]) -> list[str]:
    """Return the ids of other groups that rules name, in order."""
    return sorted({rule.remote_group_id for rule in rules} - {"", group.id})


def _check_remotes(conn: Connection, group: SecurityGroup, rules: Iterable[Rule]) -> None:
    """Raise `NotFound` unless the groups that rules name, which are held, are the project's."""
    for ident in _named(group, rules):
        other = security_groups.get(conn, ident)
        if other is None or other.project_id != group.project_id:
            raise NotFound.of("security_group", ident)


def _check_new(group: SecurityGroup, rule: Rule) -> None:
    same = next((some for some in group.rules if some.same_as(rule)), None)
    if same is not None:
        raise AlreadyExists(
            f"security group {group.name} has a rule that says the same, {same.id}",
            reason="SECURITY_GROUP_RULE_EXISTS",
            fix="nothing is to do: it is in force",
            metadata={"security_group_id": group.id, "rule_id": same.id},
            resource_kind="security_group_rule",
            resource=same.id,
        )
    if len(group.rules) >= MAX_RULES:
        raise FailedPrecondition(
            f"security group {group.name} has {len(group.rules)} rules, and no room for more",
            reason="SECURITY_GROUP_FULL",
            fix="remove a rule, or make another group: a port may be in 16",
            metadata={"security_group_id": group.id, "rules": str(len(group.rules))},
        )


def _keep_default_name(group: SecurityGroup) -> None:
    if group.name == DEFAULT_GROUP:
        raise FailedPrecondition(
            f"security group {DEFAULT_GROUP} keeps its name: ports that name no group are in it",
            reason="SECURITY_GROUP_IS_DEFAULT",
            fix="make another group",
            metadata={"security_group_id": group.id},
        )


def _check_not_reserved(name: str) -> None:
    if name == DEFAULT_GROUP:
        raise InvalidArgument.field(
            "security_group.name",
            f"{DEFAULT_GROUP!r} is the group that each project has by itself",
            reason="RESERVED_NAME",
            fix="choose another name, or change that group's rules",
        )


def _check_unused(conn: Connection, group: SecurityGroup) -> None:
    if group.port_count:
        raise FailedPrecondition(
            f"{group.port_count} ports are in security group {group.name}",
            reason="SECURITY_GROUP_IN_USE",
            fix="take these ports out of it, or remove them",
            metadata={"security_group_id": group.id, "ports": str(group.port_count)},
        )
    others = security_groups.naming(conn, group.id)
    if others:
        raise FailedPrecondition(
            f"rules of {len(others)} other groups name security group {group.name}",
            reason="SECURITY_GROUP_NAMED",
            fix="remove these rules first",
            metadata={"security_group_id": group.id, "groups": ",".join(others[:16])},
        )
    if group.name == DEFAULT_GROUP and networks.count_by_project(conn, group.project_id):
        raise FailedPrecondition(
            f"security group {DEFAULT_GROUP} stays while the project has networks",
            reason="SECURITY_GROUP_IS_DEFAULT",
            fix="remove the project's networks first",
            metadata={"security_group_id": group.id},
        )

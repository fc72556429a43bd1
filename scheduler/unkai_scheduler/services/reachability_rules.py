"""Rules of security groups in words, and which one all but lets a packet through. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from unkai_scheduler.domain.addresses import contains, version_of
from unkai_scheduler.domain.reachability import Question
from unkai_scheduler.domain.security_groups import Direction, Protocol, Rule, SecurityGroup
from unkai_scheduler.services.reachability_scene import Scene

_ECHO_TYPES = {4: 8, 6: 128}
"""Of a ping (RFC 792, RFC 4443)."""


class OtherEnd(NamedTuple):
    """Whom a port's rules see at the other end."""

    address: str
    group_ids: frozenset[str] = frozenset()
    """Groups that have this address among their members'."""


def said(rule: Rule, scene: Scene) -> str:
    """Say what a rule lets through."""
    words = "everything"
    if rule.protocol is not None:
        words = rule.protocol.value
        if rule.port_first:
            last = rule.port_last or rule.port_first
            words += f" {rule.port_first}" + (f"-{last}" if last != rule.port_first else "")
        if rule.icmp_type is not None:
            words += f" type {rule.icmp_type}"
            words += f" code {rule.icmp_code}" if rule.icmp_code is not None else ""
    if rule.ip_version:
        words += f" of IPv{rule.ip_version}"
    towards = "to" if rule.direction is Direction.EGRESS else "from"
    if rule.remote_group_id:
        group = scene.groups.get(rule.remote_group_id)
        words += f" {towards} group {group.name if group else rule.remote_group_id}"
    elif rule.remote_cidr:
        words += f" {towards} {rule.remote_cidr}"
    return words


def nearest(
    groups: Iterable[SecurityGroup],
    direction: Direction,
    asked: Question,
    number: int,
    other: OtherEnd,
) -> Rule | None:
    """Return a rule that fails to let a packet through for one reason alone; None: there is none.

    `number`: the port that is asked for there.
    """
    for group in groups:
        for rule in group.rules:
            if rule.direction is direction and len(list(_lacks(rule, asked, number, other))) == 1:
                return rule
    return None


def _lacks(rule: Rule, asked: Question, number: int, other: OtherEnd) -> Iterator[str]:
    """Yield what of a rule does not fit."""
    version = version_of(other.address)
    versions = {rule.ip_version, version_of(rule.remote_cidr) if rule.remote_cidr else 0}
    if versions - {0, version}:
        yield "version"
    elif rule.remote_cidr and not contains(rule.remote_cidr, other.address):
        yield "other end"
    if rule.remote_group_id and rule.remote_group_id not in other.group_ids:
        yield "group"
    if rule.protocol not in {None, asked.protocol}:
        yield "protocol"
    elif asked.protocol is not Protocol.ICMP:
        if rule.port_first and not rule.port_first <= number <= (rule.port_last or rule.port_first):
            yield "number"
    elif rule.icmp_type not in {None, _ECHO_TYPES[version]} or rule.icmp_code not in {None, 0}:
        yield "type"

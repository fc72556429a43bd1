"""Held: what becomes of an instance that is not made because another host holds a machine of it.

Pure. The fix said is one that works at the moment it is said: a silent host's machine cannot be
adopted. Who holds one is found out in `holders.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unkai_scheduler.reconcile.actions import Wait
from unkai_scheduler.reconcile.cases import Case
from unkai_wire.errors import FailedPrecondition


def wait(case: Case) -> Wait:
    """Make no second copy: wait until somebody has said what that machine is."""
    error = _why(case)
    reason = _reason_kept(case) or error.to_record()
    return case.pause(f"{error.message}; {error.fix}", state_reason=reason)


def is_said(case: Case) -> bool:
    """Tell whether the instance says that another host holds a machine of it."""
    return (case.instance.state_reason or {}).get("reason") == "MACHINE_HELD"


def _why(case: Case) -> FailedPrecondition:
    """Return why it is not made, and what to do about it."""
    hosts = _named([holder.name for holder in case.held_by])
    fix = _fix(case)
    if case.claimed and case.operation is not None:
        fix = f"cancel the operation, then {fix}"
    return FailedPrecondition(
        f"not made: host {hosts} holds a machine of it already, which the database does not know",
        reason="MACHINE_HELD",
        fix=fix,
        metadata={"instance_id": case.instance.id, "hosts": hosts},
    )


def _fix(case: Case) -> str:
    adopt = f"'unkai instance adopt {case.instance.id}'"
    speak = [holder.name for holder in case.held_by if holder.speaks]
    if len(speak) == 1:
        return f"{adopt} takes it into the database"
    if speak:
        return f"see which of hosts {_named(speak)} is right, and name it: {adopt} --host HOST"
    hosts = _named([holder.name for holder in case.held_by])
    return (
        f"bring host {hosts} back, which is silent: {adopt} is refused until then; if it never "
        "comes back, see 'unkai host remove'"
    )


def _named(names: list[str]) -> str:
    return ", ".join(sorted(names)[:4])


def _reason_kept(case: Case) -> Mapping[str, Any] | None:
    """Return the reason that a host gave for failing it: if no other will do, it fails with it."""
    return None if is_said(case) or not case.failed_hosts else case.instance.state_reason

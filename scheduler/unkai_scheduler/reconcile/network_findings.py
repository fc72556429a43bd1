"""What the loop of networks finds that it cannot mend. Pure."""

from __future__ import annotations

from unkai_scheduler.domain.findings import Finding, FindingKind, Remedy

_MOST_OF_A_REASON = 300


def refused(key: str, why: str) -> Finding:
    """Return the finding of a unit that breaks a rule of OVN's database."""
    kind, _, ident = key.partition(":")
    said = why[:_MOST_OF_A_REASON] or "it says nothing more"
    return Finding(
        FindingKind.OVN_REFUSED,
        "",
        "",
        f"OVN's northbound database refuses {kind.replace('_', ' ')} {ident}: {said}",
        Remedy.OPERATOR,
        "if a row that is not unkai's has the same name or UUID, remove that (ovn-nbctl); it is "
        "tried again within ten minutes, and at once when the resource is changed; else report it",
        name=ident,
        resource_kind=kind,
        resource_id=ident,
    )


def orphan(key: str) -> Finding:
    """Return the finding of a unit in OVN that the store has never heard of."""
    kind, _, ident = key.partition(":")
    return Finding(
        FindingKind.OVN_ORPHAN,
        "",
        "",
        f"OVN's northbound database has rows of {kind.replace('_', ' ')} {ident}, which the "
        "database has never heard of",
        Remedy.OPERATOR,
        "kept: the database may be an older backup; when nothing needs them, remove the rows with "
        f"external_ids:unkai_unit={key} (ovn-nbctl find TABLE external_ids:unkai_unit={key})",
        name=ident,
        resource_kind=kind,
        resource_id=ident,
    )

"""Audits: what does not fit between the database and the hosts, as the leader sees it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unkai_scheduler.domain.findings import Audited, Finding, FindingKind
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.live import LeaderView
from unkai_wire.ids import check_id


@dataclass(frozen=True, slots=True)
class FindingsPage:
    """One page of findings, and the comparison that found them."""

    page: Page[Finding]
    audited: Audited


class AuditsService:
    """Use cases of audits."""

    def __init__(self, leader: LeaderView) -> None:
        self._leader = leader

    async def list(
        self, paging: Paging, *, kinds: Sequence[FindingKind] = (), host_id: str = ""
    ) -> FindingsPage:
        """Compare now; return findings by kind, instance and host."""
        if host_id:
            check_id("host", host_id, "host_id")
        conditions = [sorted({kind.value for kind in kinds}), host_id]
        page = plan(paging, "findings", conditions, _key, key_length=3)
        audited = await self._leader.audit.look()
        rows = sorted(
            (
                finding
                for finding in audited.findings
                if (not kinds or finding.kind in kinds)
                and (not host_id or finding.host_id == host_id)
            ),
            key=_key,
        )

        def read(after: tuple[str, ...] | None, limit: int) -> list[Finding]:
            return [f for f in rows if after is None or tuple(_key(f)) > after][:limit]

        return FindingsPage(page.page(read, revision=""), audited)


def _key(finding: Finding) -> list[str]:
    return [finding.kind.value, finding.instance_id, finding.host_id]

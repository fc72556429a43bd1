"""Hosts: what they have, what is claimed, their live figures; zones, cordoning."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from unkai_scheduler.agents.port import UsageSample
from unkai_scheduler.domain.events import EventType
from unkai_scheduler.domain.hosts import Host, HostUsage
from unkai_scheduler.domain.names import MAX_FILTER, check_name, check_text
from unkai_scheduler.placement.allocation import AllocationRatios, claimable
from unkai_scheduler.services.checks import Violations, check_etag, check_mask, fetch
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Page, Paging, plan
from unkai_scheduler.services.live import LiveView
from unkai_scheduler.services.mutations import Subject, mutate, record
from unkai_scheduler.services.reading import read_row
from unkai_scheduler.settings import RatioSettings
from unkai_scheduler.store import hosts
from unkai_wire.ids import check_id

if TYPE_CHECKING:
    from unkai_scheduler.store.unit_of_work import Connection

_CHANGEABLE = ("zone",)
_MAX_REASON = 255


@dataclass(frozen=True, slots=True)
class HostView:
    """A host's row with what may be claimed on it and its newest sample."""

    host: Host
    claimable_vcpus: int
    claimable_memory_bytes: int
    claimable_disk_bytes: int
    usage: HostUsage | None
    usage_age_s: float
    """0 when there is no sample."""


class HostsService:
    """Use cases of hosts."""

    def __init__(self, context: ServiceContext, live: LiveView, ratios: RatioSettings) -> None:
        self._context = context
        self._live = live
        self._ratios = AllocationRatios(ratios.cpu, ratios.memory, ratios.disk)

    async def get(self, host_id: str) -> HostView:
        """Return one host."""
        return self.view(await read_row(self._context.uow, "host", host_id, hosts.get))

    async def list(self, paging: Paging, *, name: str = "") -> Page[HostView]:
        """Return hosts by name."""
        check_text(name, "name", MAX_FILTER)
        page = plan(paging, "hosts", [name], _key, key_length=2)
        rows = await page.read(self._context.uow, partial(hosts.list_page, name=name or None))
        return Page([self.view(row) for row in rows.rows], rows.next_token, rows.revision)

    async def update(
        self, call: Call, host_id: str, zone: str, mask: Sequence[str], etag: str
    ) -> HostView:
        """Change what the operator says of a host: its zone."""
        check_mask(mask, _CHANGEABLE)
        check_name(zone, "host.zone")

        def work(conn: Connection) -> Host:
            row = fetch("host", host_id, "host.id", lambda i: hosts.locked(conn, i))
            check_etag("host", row.id, row.etag, etag)
            if row.zone == zone:
                return row
            changed = self._changed(conn, row, zone=zone)
            self._record(
                conn,
                call,
                changed,
                f"is in zone {zone} now; it was in {row.zone}",
                {"zone": zone, "zone_before": row.zone},
            )
            return changed

        return self.view(await mutate(self._context, call, Host, work, wakes=[host_id]))

    async def cordon(self, call: Call, host_id: str, reason: str) -> HostView:
        """Keep new instances from a host."""
        check_text(reason, "reason", _MAX_REASON)
        return self.view(await self._set_cordon(call, host_id, cordoned=True, reason=reason))

    async def uncordon(self, call: Call, host_id: str) -> HostView:
        """Let new instances onto a host again."""
        return self.view(await self._set_cordon(call, host_id, cordoned=False, reason=""))

    async def watch_usage(self, host_ids: Sequence[str]) -> AsyncIterator[UsageSample]:
        """Yield samples of these hosts (none: all) as they arrive."""
        with Violations() as wrong:
            for host_id in dict.fromkeys(host_ids):
                with wrong.collect():
                    check_id("host", host_id, "host_ids")
        async for sample in self._live.subscribe(host_ids):
            yield sample

    async def _set_cordon(self, call: Call, host_id: str, *, cordoned: bool, reason: str) -> Host:
        def work(conn: Connection) -> Host:
            row = fetch("host", host_id, "host_id", lambda i: hosts.locked(conn, i))
            if row.cordoned == cordoned and row.cordon_reason == reason:
                return row
            changed = self._changed(conn, row, cordoned=cordoned, cordon_reason=reason)
            what = f"was {'cordoned' if cordoned else 'uncordoned'}"
            self._record(conn, call, changed, what, {"cordon_reason": reason} if reason else {})
            return changed

        return await mutate(self._context, call, Host, work, wakes=[host_id])

    def _changed(self, conn: Connection, row: Host, **fields: Any) -> Host:
        now, etag = self._context.clock(), self._context.new_etag()
        changed = replace(row, **fields, etag=etag, update_time=now)
        hosts.replace(conn, changed, etag=None)
        return changed

    def _record(
        self, conn: Connection, call: Call, row: Host, what: str, attributes: Mapping[str, str]
    ) -> None:
        record(
            conn,
            self._context,
            call,
            Subject("host", row.id, row.name, state=row.state.value),
            EventType.UPDATED,
            message=f"host {row.name} {what}",
            attributes=attributes,
        )

    def view(self, host: Host) -> HostView:
        """Return a row with what may be claimed on it, and its newest sample."""
        received = self._live.samples().get(host.id)
        most = claimable(host, self._ratios)
        return HostView(
            host=host,
            claimable_vcpus=most.vcpus,
            claimable_memory_bytes=most.memory_bytes,
            claimable_disk_bytes=most.disk_bytes,
            usage=None if received is None else received.sample.host,
            usage_age_s=self._live.age_s(host.id) or 0.0,
        )


def _key(host: Host) -> Sequence[str]:
    return [host.name, host.id]

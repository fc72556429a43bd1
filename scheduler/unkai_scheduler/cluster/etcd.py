"""Membership and election over etcd v3: the port `cluster.port`.

Every call goes by a lane of `etcd_lanes.py`, a thread with a client of its own; election, records
and watch have one each: a slow read must not cost the lead. etcd is believed about who may lead,
never about how long: that is our own clock's business. A watch is a hint alone, the membership is
always listed whole.

Trap of the module: keepalive of a lease that is gone is no error but a time to live of 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import etcd3
import grpc
import structlog

from unkai_scheduler.cluster.etcd_lanes import CALL_S, Hints, Lane
from unkai_scheduler.cluster.held_lead import LEASE_MARGIN_S, HeldLead
from unkai_scheduler.cluster.port import Membership
from unkai_scheduler.cluster.records import membership_of
from unkai_scheduler.cluster.witness import Witness
from unkai_wire.cluster_records import (
    HOST_LEASE_TTL_S,
    LEADER_KEY,
    LEADER_LEASE_TTL_S,
    PREFIX,
    SchedulerRecord,
    scheduler_key,
)
from unkai_wire.errors import Unavailable
from unkai_wire.tls import TlsFiles

_LOG = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often the event loop shows that it does not hang, while it leads."""
RENEW_RECORD_S = 2.0
CAMPAIGN_S = 0.3
"""How often a scheduler that does not lead looks whether anybody does."""
RESIGNED_S = 1.0
"""How long it stands back after resigning, for another to win."""
RELIST_S = 5.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class _Won:
    """The lead is ours."""

    lease: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class _Led:
    """The lead is another's. `revision`: of its key."""

    name: str
    address: str
    revision: int


class EtcdCluster:
    """A scheduler's place in the cluster. Use and close it on one event loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TlsFiles | None,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoints`: `HOST:PORT` each. `clock`: monotonic seconds, ours alone to judge leases."""
        if not endpoints:
            raise ValueError("no etcd endpoint is named")
        self._election = Lane("election", endpoints, tls)
        self._records = Lane("records", endpoints, tls)
        self._hints = Lane("watch", endpoints, tls)
        self._witness = Witness()
        self._name = name
        self._clock = clock
        self._record: SchedulerRecord | None = None
        self._registered = asyncio.Event()
        self._record_lease = 0
        self._keeper: asyncio.Task[None] | None = None
        self._elector: asyncio.Task[None] | None = None
        self._leader_lease = 0
        self._has_led = False
        self._resigning = asyncio.Event()
        self._resigned = asyncio.Event()

    # Our record

    async def register(self, record: SchedulerRecord) -> None:
        """Keep the record; when etcd does not answer now, raise, but go on trying."""
        self._record = record
        self._registered.set()
        self._record_lease = 0
        try:
            await self._keep_record()
        finally:
            if self._keeper is None:
                self._keeper = asyncio.create_task(self._keep(), name="cluster record")

    async def _keep(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(RETRY_S if failing else RENEW_RECORD_S)
            try:
                await self._keep_record()
            except Unavailable as error:
                if not failing:
                    _LOG.warning(
                        "cluster_record_not_renewed", reason=error.reason, error=error.message
                    )
                failing = True
            else:
                failing = False

    async def _keep_record(self) -> None:
        record = self._record
        assert record is not None
        key, lease = scheduler_key(record.name), self._record_lease

        def keep(client: Any) -> int:
            if lease and _refreshed(client, lease) and _holder(client, key) == lease:
                return lease
            granted = int(client.lease(HOST_LEASE_TTL_S).id)
            client.put(key, record.to_json(), lease=granted)
            _warn_if_open(client)
            return granted

        self._record_lease = await self._records.run(keep)

    # Election

    async def lead(self) -> AsyncGenerator[bool, None]:
        """Campaign for ever: True on winning, False on losing. One campaign at a time."""
        if self._elector is not None:
            raise RuntimeError("this scheduler campaigns already")
        turns: asyncio.Queue[bool | None] = asyncio.Queue()
        elector = self._elector = asyncio.create_task(self._elect(turns), name="election")
        try:
            while (turn := await turns.get()) is not None:
                if turn and not turns.empty():
                    # Won and lost before anybody looked: it never happened.
                    turns.get_nowait()
                    turns.task_done()
                else:
                    yield turn
                turns.task_done()
            await asyncio.wait([elector])
            if not elector.cancelled():
                elector.result()
        finally:
            self._elector = None
            elector.cancel()
            await asyncio.wait([elector])
            await self._give_up_lease()

    async def resign(self) -> None:
        """Give the lead up at once, if held, and stand back for a moment."""
        if self._leader_lease:
            self._resigned.clear()
            self._resigning.set()
            await self._resigned.wait()

    async def _elect(self, turns: asyncio.Queue[bool | None]) -> None:
        try:
            await self._registered.wait()
            while True:
                believed_s = await self._campaign()
                turns.put_nowait(True)
                try:
                    await self._hold(believed_s)
                finally:
                    turns.put_nowait(False)
                resigned = self._resigning.is_set()
                await self._give_up_lease()
                self._resigning.clear()
                self._resigned.set()
                if resigned:
                    await asyncio.sleep(RESIGNED_S)
                # Who has not let go of the last lead yet must not hold the next: nobody would act.
                await turns.join()
        finally:
            self._resigned.set()
            turns.put_nowait(None)

    async def _campaign(self) -> float:
        """Win the lead; return until when, by our clock, it may be believed."""
        gone = 0
        while True:
            started_s = self._clock()
            with suppress(Unavailable):
                won = await self._election.run(partial(self._try_to_win, gone))
                if isinstance(won, _Won):
                    believed_s = started_s + won.ttl_s - LEASE_MARGIN_S
                    if self._clock() < believed_s:
                        self._leader_lease = won.lease
                        self._has_led = True
                        self._resigning.clear()
                        return believed_s
                elif won is not None and await self._witness.is_gone(won.revision, won.address):
                    gone = won.revision
                    _LOG.info("leader_gone", leader=won.name, address=won.address)
                    continue
            await asyncio.sleep(CAMPAIGN_S)

    def _try_to_win(self, gone: int, client: Any) -> _Won | _Led | None:
        """Take the lead if nobody has it, or one who is `gone`; tell who has it."""
        value, meta = client.get(LEADER_KEY)
        if value is not None and meta.mod_revision != gone and not self._is_of_former_life(value):
            return _led(value, int(meta.mod_revision))
        record = self._record
        assert record is not None
        lease = client.lease(LEADER_LEASE_TTL_S)
        # What is not there was last changed at revision 0.
        seen = 0 if value is None else int(meta.mod_revision)
        unchanged = [client.transactions.mod(LEADER_KEY) == seen]
        put = [client.transactions.put(LEADER_KEY, record.to_json(), lease.id)]
        won, _ = client.transaction(compare=unchanged, success=put, failure=[])
        if not won:
            client.revoke_lease(lease.id)
            return None
        return _Won(int(lease.id), float(lease.ttl))

    def _is_of_former_life(self, value: bytes) -> bool:
        """Tell whether the lead is held by this scheduler before it died and was started again.

        Then there is no lease to wait for: the term fences whatever is left of it. Only until we
        have led once, so that two processes of one name do not take the lead from each other.
        """
        leader = _leader(value)
        return not self._has_led and leader is not None and leader.name == self._name

    async def _hold(self, believed_s: float) -> None:
        """Renew the lead; return once it is lost, resigned, or no longer to be believed."""
        lease, lane = self._leader_lease, self._election

        def renew(client: Any) -> float:
            ttl_s = _refreshed(client, lease)
            return ttl_s if ttl_s and _holder(client, LEADER_KEY) == lease else 0.0

        lead = HeldLead(believed_s, self._clock)
        keeping = lane.occupy(
            lambda: lead.keep(lambda left_s: lane.attempt(renew, within_s=left_s))
        )
        try:
            while not keeping.done() and (left_s := lead.left_s()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, LOOK_S)):
                        await _first_of(keeping, self._resigning)
                if self._resigning.is_set():
                    return
            event = "lead_lost" if lead.is_lost else "lead_not_renewed"
            _LOG.warning(event, scheduler=self._name)
        finally:
            lead.end()

    async def _give_up_lease(self) -> None:
        lease, self._leader_lease = self._leader_lease, 0
        if lease:
            with suppress(Unavailable):
                await self._election.run(lambda client: _revoke(client, lease))

    # Membership

    async def read(self) -> Membership:
        """Read all records."""
        entries = await self._records.run(
            lambda client: [(meta.key, value) for value, meta in client.get_prefix(PREFIX)]
        )
        return membership_of(entries)

    async def watch(self) -> AsyncGenerator[Membership, None]:
        """Yield the membership now, after each hint, and at least every 5 s."""
        hints = Hints(self._hints)
        last: Membership | None = None
        heard = True
        try:
            while True:
                await hints.listen()
                wait_s = RETRY_S
                with suppress(Unavailable):
                    seen = await self.read()
                    yield seen
                    # A hint may be on its way still.
                    if not heard and seen != last and not await hints.wait(RETRY_S):
                        hints.deaf()
                    last, wait_s = seen, RELIST_S
                heard = await hints.wait(wait_s)
        finally:
            self._hints.reset()

    async def close(self) -> None:
        """Withdraw our records and stop."""
        tasks = [t for t in (self._keeper, self._elector) if t is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._give_up_lease()
        if self._record_lease:
            lease, self._record_lease = self._record_lease, 0
            with suppress(Unavailable):
                await self._records.run(lambda client: _revoke(client, lease))
        self._witness.close()
        for lane in (self._election, self._records, self._hints):
            lane.close()


async def _first_of(future: asyncio.Future[None], event: asyncio.Event) -> None:
    """Return once either has come."""
    waiting = asyncio.ensure_future(event.wait())
    either: set[asyncio.Future[Any]] = {future, waiting}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _leader(value: bytes) -> SchedulerRecord | None:
    return membership_of([(LEADER_KEY.encode(), value)]).leader


def _led(value: bytes, revision: int) -> _Led | None:
    leader = _leader(value)
    return None if leader is None else _Led(leader.name, leader.address, revision)


def _warn_if_open(client: Any) -> None:
    """Warn of an etcd that asks nobody for permission, as one that was wiped does.

    etcd 3.4 has no question for it; users may be listed by its root alone, once it asks.
    """
    try:
        client.authstub.UserList(etcd3.etcdrpc.AuthUserListRequest(), timeout=CALL_S)
    except grpc.RpcError:
        return
    _LOG.warning("etcd_open_to_every_certificate", fix="run 'unkai-scheduler etcd secure'")


def _refreshed(client: Any, lease: int) -> float:
    """Renew a lease; return its time to live in seconds, 0 when it is gone."""
    answers = list(client.refresh_lease(lease))
    return float(answers[-1].TTL) if answers else 0.0


def _holder(client: Any, key: str) -> int:
    """Return the lease that a key is under, 0 when it is not there."""
    value, meta = client.get(key)
    return 0 if value is None else int(meta.lease_id)


def _revoke(client: Any, lease: int) -> None:
    try:
        client.revoke_lease(lease)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise

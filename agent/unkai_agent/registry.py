"""This host's place in etcd: its record under a lease, and the schedulers it finds there.

A host that stops renewing is missed after the lease of 6 s; that ends nothing here, guests go on.
When etcd comes back, or was wiped and rebuilt, the records are written anew. Addresses of
schedulers are remembered on disk, so that images can be fetched while etcd is away.

The only file of the agent that imports `etcd3`. That module is synchronous: it has a thread of
its own, and every call a deadline. Its traps: an endpoint that failed is shunned for 300 s unless
told otherwise, and refreshing a lease that is gone is no error but a time to live of 0.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog
from prometheus_client import Gauge

from unkai_wire.cluster_records import (
    HOST_LEASE_TTL_S,
    HOSTS_PREFIX,
    SCHEDULERS_PREFIX,
    HostRecord,
    SchedulerRecord,
    host_key,
)
from unkai_wire.errors import Unavailable
from unkai_wire.etcd_failures import refusal_of
from unkai_wire.tls import TlsFiles

_LOG = structlog.get_logger("unkai.agent.registry")
REGISTERED = Gauge("unkai_agent_registered", "1 while this agent's hosts are registered in etcd.")
_RENEW_S = 2.0
"""A third of the lease: two renewals may be lost."""
_RETRY_S = 0.5
_CALLS_A_ROUND = 3
"""Calls at most on one endpoint, each with its own deadline, before the next one is tried."""
_RECORDS_AT_ONCE = 100
"""etcd takes 128 acts in a transaction unless told otherwise (--max-txn-ops)."""
_CHECK_ROUNDS = 3
"""Every so many rounds the keys are looked at: ours may have been deleted, schedulers moved."""
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 64 << 20),
)


class Registry(Protocol):
    """Where hosts register and schedulers are found."""

    def put(self, record: HostRecord) -> None:
        """Keep this record registered from now on, for as long as `run` runs."""

    async def registered(self) -> None:
        """Return once all records are in etcd."""

    async def run(self) -> None:
        """Register and renew until cancelled; then withdraw the records."""

    def scheduler_addresses(self) -> Sequence[str]:
        """Return the addresses of the schedulers last seen, `IP:PORT`."""


class FakeRegistry:
    """A registry without etcd, for tests."""

    def __init__(self, schedulers: Sequence[str] = ()) -> None:
        self.records: dict[str, HostRecord] = {}
        self.schedulers = list(schedulers)

    def put(self, record: HostRecord) -> None:
        """Keep the record."""
        self.records[record.host_id] = record

    async def registered(self) -> None:
        """Return at once."""

    async def run(self) -> None:
        """Wait until cancelled."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.records.clear()

    def scheduler_addresses(self) -> Sequence[str]:
        """Return what the test said."""
        return list(self.schedulers)


class EtcdRegistry:
    """The registry in etcd. All records of one process share one lease."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TlsFiles | None,
        *,
        remember: Path,
        timeout_s: float = 2.0,
        rng: random.Random | None = None,
    ) -> None:
        """`endpoints`: `HOST:PORT` each; `remember`: file for the schedulers' addresses."""
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        # Hosts spread over the members: a lost one concerns its share of them alone.
        self._session = _Session(endpoints, tls, timeout_s, self._rng.randrange(len(endpoints)))
        self._round_s = timeout_s * _CALLS_A_ROUND * max(2, len(endpoints))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="etcd")
        self._remember = remember
        self._records: dict[str, HostRecord] = {}
        self._schedulers = _recall(remember)
        self._written = asyncio.Event()
        self._changed = asyncio.Event()
        self._rounds = 0
        REGISTERED.set(0)

    def put(self, record: HostRecord) -> None:
        """Keep this record registered."""
        self._records[record.host_id] = record
        self._session.forget(record.host_id)
        self._written.clear()
        self._changed.set()

    async def registered(self) -> None:
        """Return once all records are in etcd."""
        await self._written.wait()

    def scheduler_addresses(self) -> Sequence[str]:
        """Return the addresses of the schedulers last seen, also while etcd is away."""
        return list(self._schedulers)

    async def run(self) -> None:
        """Register and renew until cancelled; then withdraw."""
        failing = False
        try:
            while True:
                self._changed.clear()
                try:
                    await self._round()
                    failing = False
                    REGISTERED.set(1)
                except Unavailable as error:
                    if not failing:
                        _LOG.warning(
                            "etcd_unavailable",
                            reason=error.reason,
                            error=error.message,
                            fix=error.fix,
                        )
                    failing = True
                    REGISTERED.set(0)
                with suppress(TimeoutError):
                    wait_s = _RETRY_S if failing else _RENEW_S
                    async with asyncio.timeout(wait_s * self._rng.uniform(0.8, 1.0)):
                        await self._changed.wait()
        finally:
            self._executor.submit(self._session.close)
            self._executor.shutdown(wait=False)

    async def _round(self) -> None:
        records = dict(self._records)
        check = self._rounds % _CHECK_ROUNDS == 0
        self._rounds += 1
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._executor, self._session.keep, records, check)
        try:
            async with asyncio.timeout(self._round_s):
                schedulers = await asyncio.shield(call)
        except TimeoutError as error:
            call.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise _unavailable() from error
        if records == self._records:
            self._written.set()
        addresses = sorted(record.address for record in schedulers)
        if addresses and addresses != self._schedulers:
            self._schedulers = addresses
            await asyncio.to_thread(_note, self._remember, addresses)


class _Session:
    """One client and one lease at a time; lives on the registry's thread."""

    def __init__(
        self, endpoints: Sequence[str], tls: TlsFiles | None, timeout_s: float, first: int = 0
    ) -> None:
        self._endpoints = [endpoint.rpartition(":") for endpoint in endpoints]
        self._credentials = tls.channel_credentials() if tls else None
        self._timeout_s = timeout_s
        self._client: Any = None
        self._turn = first
        self._lease = 0
        self._believed_until_s = 0.0
        self._put: dict[str, HostRecord] = {}
        self._schedulers: list[SchedulerRecord] = []

    def forget(self, host_id: str) -> None:
        """Write this record again at the next round."""
        self._put.pop(host_id, None)

    def keep(self, records: dict[str, HostRecord], check: bool) -> list[SchedulerRecord]:
        """Renew the lease, write what is not written, and return the schedulers last listed."""
        import etcd3.exceptions

        unanswered = (etcd3.exceptions.Etcd3Exception, grpc.RpcError, ValueError)
        failure: Exception | None = None
        # One endpoint alone is tried twice: the first connection may be one that died meanwhile.
        for _ in range(max(2, len(self._endpoints))):
            try:
                return self._keep(self._connected(), records, check)
            except unanswered as error:
                failure = error
                self._drop()
                self._turn += 1
        raise (refusal_of(failure, "host") or _unavailable()) from failure

    def close(self) -> None:
        """Withdraw the records at once, if etcd answers, and hang up."""
        if self._client is not None and self._lease:
            with suppress(Exception):  # the lease ends by itself
                self._client.revoke_lease(self._lease)
        self._drop()

    def _keep(
        self, client: Any, records: dict[str, HostRecord], check: bool
    ) -> list[SchedulerRecord]:
        if not self._renew(client):
            self._lease = int(client.lease(HOST_LEASE_TTL_S).id)
            self._put.clear()
        elif check:
            self._look(client, records)
        changed = [r for host_id, r in records.items() if self._put.get(host_id) != r]
        for start in range(0, len(changed), _RECORDS_AT_ONCE):
            self._write(client, changed[start : start + _RECORDS_AT_ONCE])
        if check or not self._schedulers:
            self._schedulers = _scheduler_records(client)
        return self._schedulers

    def _write(self, client: Any, records: Sequence[HostRecord]) -> None:
        """Write records in one transaction: one by one, a fleet's would outlast their lease."""
        puts = [
            client.transactions.put(host_key(r.host_id), r.to_json(), self._lease) for r in records
        ]
        client.transaction(compare=[], success=puts, failure=[])
        self._put.update((record.host_id, record) for record in records)

    def _renew(self, client: Any) -> bool:
        if not self._lease:
            return False
        answers = list(client.refresh_lease(self._lease))
        return bool(answers) and answers[-1].TTL > 0

    def _look(self, client: Any, records: dict[str, HostRecord]) -> None:
        """Forget what we believe to have written and is not there under our lease."""
        if len(records) == 1:
            found = [client.get(host_key(next(iter(records))))]
        else:
            found = list(client.get_prefix(HOSTS_PREFIX, keys_only=True))
        ours = {
            meta.key.decode().removeprefix(HOSTS_PREFIX)
            for _, meta in found
            if meta is not None and meta.lease_id == self._lease
        }
        for host_id in set(self._put) - ours:
            del self._put[host_id]

    def _connected(self) -> Any:
        import etcd3

        if self._client is None:
            host, _, port = self._endpoints[self._turn % len(self._endpoints)]
            endpoint = etcd3.Endpoint(
                host.strip("[]"),
                int(port),
                secure=self._credentials is not None,
                creds=self._credentials,
                # The library counts by the wall clock: one put back would bar the only address.
                time_retry=-math.inf,
                opts=_CHANNEL_OPTIONS,
            )
            self._client = etcd3.MultiEndpointEtcd3Client([endpoint], timeout=self._timeout_s)
        return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # it is gone either way
                client.close()


def _scheduler_records(client: Any) -> list[SchedulerRecord]:
    records = []
    for value, _ in client.get_prefix(SCHEDULERS_PREFIX):
        with suppress(ValueError):  # a newer version's, perhaps
            records.append(SchedulerRecord.from_json(value))
    return records


def _recall(path: Path) -> list[str]:
    try:
        addresses = json.loads(path.read_bytes())["addresses"]
        return [str(address) for address in addresses]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _note(path: Path, addresses: Sequence[str]) -> None:
    """Remember the addresses; a full disk costs the memory, nothing else."""
    temporary = path.with_name(path.name + ".tmp")
    note = {"addresses": list(addresses), "time": time.time()}
    try:
        temporary.write_text(json.dumps(note))
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _unavailable() -> Unavailable:
    return Unavailable(
        "etcd does not answer",
        reason="ETCD_UNAVAILABLE",
        fix="look at the etcd members; guests go on meanwhile",
    )

"""Orders: gives one host one order, and takes in what it answers.

Orders run beside the instance loop, bounded in all and per host, so that a host that hangs delays
only its own. What is ordered is in the rows already: an order lost is given again.

The trap: an order's outcome is never taken from its answer alone. `Unavailable` means unknown;
the row's due time brings it back.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import structlog

from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.reconcile import metrics, port_orders
from unkai_scheduler.reconcile.actions import Action, Remove
from unkai_scheduler.reconcile.holders import Holders
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.store import images, instances, key_pairs
from unkai_scheduler.store.unit_of_work import Connection
from unkai_wire import tracing
from unkai_wire.errors import FailedPrecondition, UnkaiError

log = structlog.get_logger(__name__)

ORDERS_PER_HOST = 8


class Orders:
    """Gives the orders of a reign."""

    def __init__(self, office: Office, hosts: Hosts, holders: Holders) -> None:
        self._office = office
        self._hosts = hosts
        self._holders = holders
        self._dns_servers = office.settings.network.dns_servers
        self._slots = asyncio.Semaphore(office.settings.reconcile.agent_calls)
        self._host_slots: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(ORDERS_PER_HOST)
        )

    async def give(self, action: Action) -> None:
        """Order what the action says from the host that claims it; raise `ReignEnded` alone."""
        instance = action.instance
        kind = "remove" if isinstance(action, Remove) else "ensure"
        result, began_s = "ok", time.perf_counter()
        trace = action.operation.traceparent if action.operation else ""
        try:
            async with self._host_slots[instance.host_id], self._slots:
                with tracing.continued(trace), tracing.span(f"order {kind}"):
                    if self._hosts.state(instance.host_id) is not HostState.UP:
                        result = "HOST_SILENT"  # since it was decided; due again by its row
                    elif kind == "remove":
                        await self._send_removal(instance)
                    elif self._holders.would_double(instance):
                        result = "MACHINE_HELD"
                    else:
                        await self._send_ensure(instance)
        except UnkaiError as error:
            result = error.reason
            self._office.check_still_leading(instance.host_id, error)
            self._refused(instance, kind, error)
        except Exception:
            result = "bug"
            log.exception("order_bug", order=kind, instance=instance.id, host=instance.host_id)
        finally:
            metrics.AGENT_ORDERS.labels(kind, result).inc()
            metrics.AGENT_ORDER_SECONDS.labels(kind).observe(time.perf_counter() - began_s)

    async def acknowledge(self, tombstone: Tombstone) -> None:
        """Tell the host that its tombstone is recorded; the audit repeats what fails here."""
        office = self._office
        try:
            await office.agents.acknowledge_tombstones(
                office.endpoint(tombstone.host_id), office.term, [tombstone]
            )
            office.live.drop_tombstone(tombstone)
        except UnkaiError as error:
            office.check_still_leading(tombstone.host_id, error)

    def _refused(self, instance: Instance, kind: str, error: UnkaiError) -> None:
        """Take in what a refusal tells; the row's due time brings the next try."""
        if isinstance(error, FailedPrecondition) and error.reason == "TOMBSTONED":
            self._office.live.put_tombstone(
                Tombstone(
                    instance.id,
                    instance.host_id,
                    instance.generation,
                    instance.run_epoch,
                    self._office.clock(),
                )
            )
        if instance.attempt <= 1:
            log.warning(
                "order_failed",
                order=kind,
                instance=instance.id,
                host=instance.host_id,
                reason=error.reason,
                error=error.message,
            )

    async def _send_removal(self, instance: Instance) -> None:
        office = self._office
        fence = office.fence(instance.generation, instance.run_epoch)
        endpoint = office.endpoint(instance.host_id)
        answer = await office.agents.remove_machine(endpoint, fence, instance.id)
        office.live.put_answer(answer)

    async def _send_ensure(self, instance: Instance) -> None:
        office = self._office
        order = await self._order_for(instance)
        fence = office.fence(instance.generation, instance.run_epoch)
        endpoint = office.endpoint(instance.host_id)
        office.live.put_answer(await office.agents.ensure_machine(endpoint, fence, order))

    async def _order_for(self, instance: Instance) -> MachineOrder:
        def work(conn: Connection) -> MachineOrder:
            image = images.get(conn, instance.spec.image_id)
            if image is None:
                raise FailedPrecondition(
                    f"image {instance.spec.image_id} of instance {instance.id} is gone",
                    reason="IMAGE_GONE",
                    metadata={"image_id": instance.spec.image_id, "instance_id": instance.id},
                )
            pairs = (key_pairs.get(conn, ident) for ident in instance.spec.key_pair_ids)
            return MachineOrder(
                instance=instance,
                image=image,
                disk_bytes=instance.spec.disk_bytes,
                must_exist=instance.has_run,
                public_keys=tuple(pair.public_key for pair in pairs if pair is not None),
                user_data=instances.user_data(conn, instance.id),
                ports=port_orders.read(conn, instance.id, self._dns_servers),
            )

        return await self._office.uow.read(work)

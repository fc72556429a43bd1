"""What users of a cloud in one process do, as the services write it, and what the store says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from tests.support.builders import an_instance, an_operation
from unkai_scheduler.domain.events import Event
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.images import Image
from unkai_scheduler.domain.instances import Claim, Instance, InstanceState, Power
from unkai_scheduler.domain.operations import Operation, Verb
from unkai_scheduler.store import claims, events, hosts, instances, operations, tombstones
from unkai_scheduler.store.unit_of_work import UnitOfWork


class Users(Protocol):
    """Acts on the store of a cloud, and looks into it. What has it, has these."""

    uow: UnitOfWork
    image: Image
    """What instances are made of by default."""

    def clock(self) -> datetime:
        """Return the cloud's time."""

    def wake(self) -> None:
        """Tell all schedulers that something was written."""

    # What users do, as the services write it.

    async def create(
        self,
        name: str = "",
        *,
        capacity_wait_s: float = 0.0,
        deadline_s: float = 600.0,
        **spec: Any,
    ) -> Instance:
        """Accept an instance."""
        now = self.clock()
        operation = an_operation(
            create_time=now,
            update_time=now,
            deadline_time=now + timedelta(seconds=deadline_s),
            capacity_deadline_time=now + timedelta(seconds=capacity_wait_s),
        )
        if name:
            spec["name"] = name
        spec.setdefault("image_id", self.image.id)
        instance = an_instance(
            operation_id=operation.id,
            due_time=now,
            create_time=now,
            update_time=now,
            **spec,
        )
        operation = replace(operation, resource_id=instance.id)

        def work(conn: Any) -> None:
            instances.insert(conn, instance)
            operations.insert(conn, operation)

        await self.uow.write(work)
        self.wake()
        return instance

    async def change(
        self, ident: str, verb: Verb, *, deadline_s: float = 600.0, **desired: Any
    ) -> Operation:
        """Accept a change of an instance: generation raised, operation begun."""
        now = self.clock()
        operation = an_operation(
            verb=verb,
            resource_id=ident,
            create_time=now,
            update_time=now,
            deadline_time=now + timedelta(seconds=deadline_s),
        )

        def work(conn: Any) -> None:
            row = instances.get(conn, ident)
            assert row is not None
            changed = replace(
                row,
                generation=row.generation + 1,
                operation_id=operation.id,
                due_time=now,
                attempt=0,
                etag=f"etag{operation.id[3:]}",
                **desired,
            )
            instances.replace(conn, changed, etag=None)
            operations.insert(conn, operation)

        await self.uow.write(work)
        self.wake()
        return operation

    async def delete(self, ident: str, **more: Any) -> Operation:
        """Accept a deletion."""
        desired = {"delete_requested": True, "state": InstanceState.DELETING}
        return await self.change(ident, Verb.DELETE, **desired, **more)

    async def stop(self, ident: str, **more: Any) -> Operation:
        """Accept a stop."""
        return await self.change(ident, Verb.STOP, desired_power=Power.OFF, **more)

    async def begin(self, ident: str, **more: Any) -> Operation:
        """Accept a start."""
        return await self.change(ident, Verb.START, desired_power=Power.ON, **more)

    async def reboot(self, ident: str) -> Operation:
        """Accept a reboot."""
        serial = (await self.instance(ident)).reboot_serial + 1
        return await self.change(ident, Verb.REBOOT, reboot_serial=serial)

    async def cancel(self, operation_id: str) -> None:
        """Ask for an operation to be given up."""
        now = self.clock()

        def work(conn: Any) -> None:
            row = operations.get(conn, operation_id)
            assert row is not None
            operations.replace(conn, replace(row, cancel_requested_time=now))
            instance = instances.get(conn, row.resource_id)
            assert instance is not None
            instances.replace(conn, replace(instance, due_time=now), etag=None)

        await self.uow.write(work)
        self.wake()

    # What is.

    async def instance(self, ident: str) -> Instance:
        """Return an instance that exists."""
        row = await self.find(ident)
        assert row is not None, f"instance {ident} is gone"
        return row

    async def find(self, ident: str) -> Instance | None:
        """Return an instance, None when it is gone."""
        return await self.uow.read(lambda conn: instances.get(conn, ident))

    async def operation(self, ident: str) -> Operation:
        """Return an operation."""
        row = await self.uow.read(lambda conn: operations.get(conn, ident))
        assert row is not None
        return row

    async def active_operations(self) -> list[Operation]:
        """Return the operations that have not ended."""
        return await self.uow.read(
            lambda conn: operations.list_page(conn, after=None, limit=1000, active_only=True)
        )

    async def instances(self) -> list[Instance]:
        """Return all instances."""
        return await self.uow.read(lambda conn: instances.list_page(conn, after=None, limit=1000))

    async def claims(self) -> list[Claim]:
        """Return all claims."""
        return await self.uow.read(claims.list_all)

    async def hosts(self) -> dict[str, Host]:
        """Return the hosts' rows by id."""
        return {row.id: row for row in await self.uow.read(hosts.list_all)}

    async def events(self, resource_id: str | None = None) -> list[Event]:
        """Return stamped events, oldest first."""
        page = await self.uow.read(
            lambda conn: events.list_page(conn, resource_id=resource_id, after=None, limit=10_000)
        )
        return page[::-1]

    async def tombstones(self, ident: str) -> list[Any]:
        """Return the store's tombstones of an instance."""
        return await self.uow.read(lambda conn: tombstones.of_instance(conn, ident))

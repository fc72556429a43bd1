"""OVN's northbound database as contract tests use it: the real one, or the fake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

from tests.support.ovn import (
    OvsdbServer,
    Record,
    mutation,
    to_json,
)
from tests.support.ovn_members import until_reached
from tests.support.proxy import TcpProxy
from unkai_scheduler.ovn.fake import FakeNorthbound, FakeOvn
from unkai_scheduler.ovn.port import Northbound
from unkai_scheduler.ovn.process import OvnNorthbound
from unkai_scheduler.ovn.rows import Place, Value
from unkai_scheduler.ovn.schema import Normal
from unkai_scheduler.ovn.settings import OvnSettings

IMPATIENT_S = 2.0
"""For tests in which an answer is lost; what they ask for otherwise is small."""


class World(Protocol):
    """What a contract test may do to the database, as somebody else."""

    async def member(self, *, impatient: bool = False) -> Northbound: ...
    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID: ...
    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None: ...
    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None: ...
    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]: ...
    async def log(self) -> list[Record]: ...
    async def raise_term(self, term: int) -> None: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    async def hold(self, member: Northbound) -> None: ...
    async def release(self, member: Northbound) -> None: ...
    async def close(self) -> None: ...


class FakeWorld:
    """The database in memory."""

    def __init__(self) -> None:
        self.ovn = FakeOvn()

    async def member(self, *, impatient: bool = False) -> Northbound:
        return self.ovn.member()

    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID:
        uuid = uuid4()
        self.ovn.insert(table, uuid, columns, parent)
        return uuid

    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None:
        self.ovn.set(table, uuid, column, value)

    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None:
        self.ovn.delete(table, uuid)

    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]:
        return self.ovn.tables.rows[table]

    async def log(self) -> list[Record]:
        return list(self.ovn.tables.written)

    async def raise_term(self, term: int) -> None:
        self.ovn.raise_term(term)

    async def stop(self) -> None:
        self.ovn.stop()

    async def start(self) -> None:
        self.ovn.start()

    async def hold(self, member: Northbound) -> None:
        assert isinstance(member, FakeNorthbound)
        member.hold()

    async def release(self, member: Northbound) -> None:
        assert isinstance(member, FakeNorthbound)
        member.release()

    async def close(self) -> None:
        """Nothing runs."""


class RealWorld:
    """A real ovsdb-server; each member's way to it can be held up."""

    def __init__(self, folder: Path) -> None:
        self.server = OvsdbServer(folder)
        self.server.start()
        self._ways: dict[int, TcpProxy] = {}
        self.members: list[OvnNorthbound] = []

    async def member(self, *, impatient: bool = False, healthy_s: float = 60.0) -> OvnNorthbound:
        proxy = TcpProxy(self.server.address)
        address = await asyncio.to_thread(proxy.start)
        settings = OvnSettings((f"tcp:{address}",), healthy_s=healthy_s)
        if impatient:
            settings = replace(settings, transaction_s=IMPATIENT_S, grace_s=IMPATIENT_S / 2)
        member = OvnNorthbound(settings)
        self._ways[id(member)] = proxy
        self.members.append(member)
        member.start()
        await until_reached(member)
        return member

    async def insert(
        self, table: str, columns: Mapping[str, Value], parent: Place | None = None
    ) -> UUID:
        uuid = uuid4()
        row = {name: to_json(value) for name, value in columns.items()}
        operations: list[dict[str, Any]] = [
            {"op": "insert", "table": table, "uuid": str(uuid), "row": row}
        ]
        if parent:
            operations.append(mutation(parent, "insert", uuid))
        await asyncio.to_thread(self.server.transact, *operations)
        return uuid

    async def set(self, table: str, uuid: UUID, column: str, value: Value) -> None:
        where = [["_uuid", "==", ["uuid", str(uuid)]]]
        update = {"op": "update", "table": table, "where": where, "row": {column: to_json(value)}}
        answer = await asyncio.to_thread(self.server.transact, update)
        assert answer[0]["count"] == 1

    async def delete(self, table: str, uuid: UUID, parent: Place | None = None) -> None:
        where = [["_uuid", "==", ["uuid", str(uuid)]]]
        operation = {"op": "delete", "table": table, "where": where}
        if parent:
            operation = mutation(parent, "delete", uuid)
        answer = await asyncio.to_thread(self.server.transact, operation)
        assert answer[0]["count"] == 1

    async def rows(self, table: str) -> Mapping[UUID, Mapping[str, Normal]]:
        return await asyncio.to_thread(self.server.select, table)

    async def log(self) -> list[Record]:
        return await asyncio.to_thread(self.server.log)

    async def raise_term(self, term: int) -> None:
        (uuid,) = await self.rows("NB_Global")
        await self.set("NB_Global", uuid, "external_ids", {"unkai_term": str(term)})

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def hold(self, member: Northbound) -> None:
        way = self._ways[id(member)]
        way.swallow()
        # What its loop is asked next is done after that.
        await asyncio.to_thread(way._do, asyncio.sleep(0))

    async def release(self, member: Northbound) -> None:
        self._ways[id(member)].heal()
        await asyncio.sleep(0.5)

    async def close(self) -> None:
        for member in self.members:
            await member.close()
        for way in self._ways.values():
            await asyncio.to_thread(way.stop)
        await self.stop()

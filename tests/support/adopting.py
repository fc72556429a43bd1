"""Adoption in a cloud of one process: its services, a backup, and putting that back."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from tests.support import databases
from tests.support.builders import an_id
from tests.support.cloud import Cloud
from tests.support.fast_loop import AwaitedStore
from tests.support.store import open_store
from unkai_scheduler.domain.findings import Finding, FindingKind
from unkai_scheduler.services.adoptions import Adopted, AdoptionDraft, AdoptionsService
from unkai_scheduler.services.audits import AuditsService
from unkai_scheduler.services.context import Call, ServiceContext
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.store.upkeep import open_upkeep
from unkai_wire.errors import UnkaiError
from unkai_wire.tls import Principal, Role

METHOD = "/unkai.compute.v1.InstanceService/AdoptInstance"


def backup(cloud: Cloud) -> Path:
    """Write a copy of the database."""
    copy = cloud.folder / f"backup-{an_id('event')}.db"
    open_upkeep(databases.settings_of(cloud.folder)).backup(copy)
    return copy


async def restore(
    cloud: Cloud, copy: Path, *, wipe_etcd: bool = True, declares: bool = True
) -> None:
    """Put a backup back while no scheduler runs, as docs/howto/recover.md says; then start one.

    `declares`: the operator has not forgotten `db restored`.
    """
    for name in list(cloud.schedulers):
        await cloud.kill(name)
    await cloud.uow.close()
    settings = databases.settings_of(cloud.folder)
    if settings.kind == databases.SQLITE:
        for left in cloud.folder.glob("unkai.db*"):
            left.unlink()
        shutil.copy(copy, cloud.folder / "unkai.db")
    else:
        server, name = databases.server(settings.kind), settings.url.rpartition("/")[2]
        await asyncio.to_thread(server.restore, name, copy)
    if declares:
        await asyncio.to_thread(open_upkeep(settings).restored, cloud.clock(), an_id)
    if wipe_etcd:
        cloud.etcd.wipe()
        for host_id in cloud.host_ids:
            cloud.register(host_id)
    cloud.uow = AwaitedStore(await open_store(cloud.folder, clock=cloud.clock))
    await cloud.start()


def adoptions(cloud: Cloud, name: str = "s1", agents: Any = None) -> AdoptionsService:
    """Return the service beside a scheduler."""
    scheduler = cloud.schedulers[name]
    return AdoptionsService(
        ServiceContext(cloud.uow, cloud.clock, an_id, scheduler.leader.wake),
        scheduler.leader,
        live=scheduler.live,
        agents=agents or cloud.agents,
        images=cloud.images,
        ratios=cloud.settings.placement.ratios,
    )


def a_call(request_id: str = "", digest: str = "d") -> Call:
    """Return a call by an operator."""
    return Call(Principal(Role.CLIENT, "admin"), METHOD, request_id, digest)


async def adopt(cloud: Cloud, instance_id: str, *, request_id: str = "", **asked: Any) -> Adopted:
    """Adopt a machine."""
    draft = AdoptionDraft(instance_id, **asked)
    return await adoptions(cloud).adopt(a_call(request_id), draft)


async def refusal(cloud: Cloud, instance_id: str, **asked: Any) -> UnkaiError:
    """Return why an adoption is refused; all is as before then."""
    before = (len(await cloud.instances()), len(await cloud.claims()))
    try:
        await adopt(cloud, instance_id, **asked)
    except UnkaiError as error:
        assert (len(await cloud.instances()), len(await cloud.claims())) == before
        return error
    raise AssertionError("it was adopted")


async def found(cloud: Cloud, *kinds: FindingKind) -> list[Finding]:
    """Return what the audit finds now, once all hosts are in sync."""
    service = AuditsService(cloud.schedulers["s1"].leader)
    for _ in range(600):
        try:
            listed = await service.list(Paging(1000), kinds=kinds)
        except UnkaiError:
            await asyncio.sleep(0.2)
            continue
        if not listed.audited.unseen_hosts:
            return listed.page.rows
        await asyncio.sleep(0.2)
    raise AssertionError("hosts are not in sync")


def starts(cloud: Cloud) -> dict[str, Any]:
    """Return of each machine when it began to run: what shows that nobody touched it."""
    return {
        ident: held.machine.start_time
        for host in cloud.agents.hosts.values()
        for ident, held in host.machines.items()
    }

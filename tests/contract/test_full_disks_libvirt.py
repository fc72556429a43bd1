"""libvirt and its log daemon on a disk that has no room: definitions, starts, and console logs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.boot_sector import GREETING
from tests.support.compute import LibvirtHarness, until, until_state
from tests.support.faults import fill, small_disk
from tests.support.libvirt import private_libvirt, unavailable_reason
from unkai_agent.compute.driver import DomainSpec, DomainState
from unkai_wire.errors import FailedPrecondition

_WHY_NOT = unavailable_reason()
pytestmark = [pytest.mark.real, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)]
ROOM = 24 << 20
PAGE = 4096


@dataclass
class Crowded:
    """A hypervisor all of whose files are on a small disk."""

    harness: LibvirtHarness
    disk: Path


@pytest.fixture
async def crowded() -> AsyncIterator[Crowded]:
    with (
        tempfile.TemporaryDirectory(prefix="ukd-", dir="/tmp") as folder,
        small_disk(Path(folder), ROOM) as disk,
        private_libvirt(within=disk) as libvirt,
    ):
        harness = LibvirtHarness(libvirt)
        yield Crowded(harness, disk)
        for domain in await harness.driver.list_domains():
            await harness.driver.destroy(domain.instance_id)
        await harness.driver.close()


async def echoed(harness: LibvirtHarness, spec: DomainSpec, typed: bytes) -> None:
    """Type on the console, and wait until the guest has echoed all of it."""

    async def keys() -> AsyncIterator[bytes]:
        yield typed

    seen = b""
    async with asyncio.timeout(30):
        console = harness.driver.attach_console(spec.instance_id, keys(), force=True)
        async with aclosing(console) as output:  # type: ignore[type-var]
            async for text in output:
                seen += text
                if typed in seen:
                    return
    raise AssertionError(f"the console ended after {seen!r}")


async def test_libvirt_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    crowded: Crowded, shows: Shows
) -> None:
    harness, driver = crowded.harness, crowded.harness.driver
    running, known, new = (harness.spec(name) for name in ("running", "known", "new"))
    for spec in (running, known):
        await driver.define(spec)
    await driver.start(running.instance_id)
    await harness.wait_for_guest(running)
    logged = running.console_log.stat().st_size
    with running.console_log.open("ab") as log:  # else all that is typed has room in its page
        log.write(b"." * (PAGE - 4 - logged))
    ballast = fill(crowded.disk)

    refused = []
    for act in (driver.define(new), driver.start(known.instance_id)):
        with pytest.raises(FailedPrecondition) as caught:
            await act
        refused.append(caught.value)
    await echoed(harness, running, b"no room\r" * 4)
    states = {domain.name: domain.state for domain in await driver.list_domains()}
    was_logged = running.console_log.stat().st_size
    ballast.unlink()
    await driver.define(new)
    for spec in (known, new):
        await driver.start(spec.instance_id)
        await harness.wait_for_guest(spec)
    await echoed(harness, running, b"room again\r")

    assert [(error.reason, bool(error.fix)) for error in refused] == [("DISK_FULL", True)] * 2
    assert states == {running.name: DomainState.RUNNING, known.name: DomainState.OFF}
    assert was_logged <= PAGE
    # virtlogd gives up a log that it could not write: it goes on with the guest's next start.
    await driver.destroy(running.instance_id)
    await until_state(driver, running, DomainState.OFF)
    await driver.start(running.instance_id)

    async def is_logged_again() -> bool:
        return running.console_log.read_bytes().count(GREETING) == 2

    await until(is_logged_again)
    shows(
        "solid 7 full disk, libvirt",
        "define and start are DISK_FULL, a guest and its console go on, then all succeeds",
    )

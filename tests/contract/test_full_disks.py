"""Each writer of both roles on a disk that has no room, no inode, or is read-only.

One table, `WRITERS`: what writes, and what it says when it cannot. Of each the same is shown: a
clear error, or none where only a memory is lost; nothing half-made; everything else goes on; and
once there is room the same act succeeds. A SQLite file that may not grow, and one on a disk that
fills while writers go on, are in `test_store_crashes.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.acceptance import Shows
from tests.support.agent import START, a_fence, a_spec, an_instance_id
from tests.support.api import MIB
from tests.support.builders import an_instance
from tests.support.command_line import unkai
from tests.support.faults import fill, small_disk
from tests.support.images import ImageSource, an_image, raw_bytes
from tests.support.store import a_store
from unkai_agent import host_facts, registry
from unkai_agent.commands import init as agent_init
from unkai_agent.domain.hosts import Accelerator
from unkai_agent.domain.machines import DiskSpec, Fence, SeedSpec
from unkai_agent.ledger import Ledger
from unkai_agent.storage.qcow2 import Qcow2Storage
from unkai_scheduler import certificates
from unkai_scheduler.commands import cert, init
from unkai_scheduler.decision_log.obstore_adapter import open_segment_store
from unkai_scheduler.images.obstore_adapter import open_image_store
from unkai_scheduler.main import main as scheduler
from unkai_scheduler.store import instances
from unkai_wire.errors import UnkaiError
from unkai_wire.log_stream import LastingStream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
ROOM = 24 * MIB
INODES = 64
IMAGE_BYTES = raw_bytes(2 * MIB)


class Refused(Exception):
    """What a writer said: its reason and words."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


@dataclass
class Writer:
    """A writer on a disk of its own: made while there is room, then used."""

    act: Callable[[], Awaitable[None]]
    """Write once; raises `UnkaiError` or `Refused`."""
    goes_on: Callable[[], Awaitable[None]]
    """What must be possible all the while: reading, removing, answering."""
    close: Callable[[], Awaitable[None]]


async def _nothing() -> None:
    return None


async def _ledger(folder: Path) -> Writer:
    ledger = Ledger(folder / "ledger")
    for number in (1, 2):
        ledger.accept(a_fence(a_spec(number)), a_spec(number))
    generations = iter(range(2, 99))

    async def act() -> None:
        spec = a_spec(
            1, generation=next(generations), seed=SeedSpec("web", user_data=b"x" * 60_000)
        )
        ledger.accept(a_fence(spec), spec)

    async def goes_on() -> None:
        assert len(ledger.entries()) >= 1
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        if ledger.entry(an_instance_id(2)) is not None and not read_only:
            # A removal must be noted on a full disk: else nothing could ever be freed.
            fence = Fence(term=1, generation=9, run_epoch=1)
            ledger.begin_removal(fence, an_instance_id(2))
            ledger.bury(fence, an_instance_id(2), START)

    return Writer(act, goes_on, _nothing)


async def _storage(folder: Path) -> tuple[Qcow2Storage, Any]:
    source = ImageSource()
    image = source.serve(an_image(IMAGE_BYTES), IMAGE_BYTES)
    return Qcow2Storage(folder / "agent", source.fetch, None, lambda: START), image


async def _image_cache(folder: Path) -> Writer:
    storage, image = await _storage(folder)

    async def goes_on() -> None:
        await storage.list_images()
        await storage.available_bytes()

    return Writer(lambda: storage.ensure_image(image), goes_on, storage.close)


async def _disk(folder: Path) -> Writer:
    storage, image = await _storage(folder)
    await storage.ensure_image(image)
    ident = an_instance_id(1)

    async def act() -> None:
        await storage.create_disk(ident, DiskSpec("root", 8 * MIB, image, False))

    async def goes_on() -> None:
        assert await storage.get_disk(an_instance_id(3), "root") is None
        await storage.remove(an_instance_id(3))

    return Writer(act, goes_on, storage.close)


async def _seed(folder: Path) -> Writer:
    storage, _ = await _storage(folder)

    async def act() -> None:
        await storage.ensure_seed(an_instance_id(1), SeedSpec("web", user_data=b"#!/bin/sh\n"))

    return Writer(act, lambda: _listed(storage), storage.close)


async def _listed(storage: Qcow2Storage) -> None:
    await storage.list_machines()


async def _console_log_folder(folder: Path) -> Writer:
    storage, _ = await _storage(folder)

    async def act() -> None:
        await storage.console_log(an_instance_id(1))

    return Writer(act, lambda: _listed(storage), storage.close)


async def _remembered_schedulers(folder: Path) -> Writer:
    path = folder / "schedulers.json"

    async def act() -> None:
        registry._note(path, ["192.0.2.1:7443"] * 4)

    return Writer(act, _nothing, _nothing)


async def _accelerator_note(folder: Path) -> Writer:
    async def act() -> None:
        host_facts.note_accelerator(folder / "a.json", "boot", Accelerator("tcg", "x" * 5000))

    async def goes_on() -> None:
        host_facts.recall_accelerator(folder / "a.json", "boot")

    return Writer(act, goes_on, _nothing)


async def _agent_settings(folder: Path) -> Writer:
    return _command(agent_init, ["--etcd", "192.0.2.1:2379", "--dir", str(folder / "etc")])


async def _scheduler_settings(folder: Path) -> Writer:
    return _command(init, ["--dir", str(folder / "etc"), "--address", "192.0.2.1"])


async def _host_certificate(folder: Path) -> Writer:
    certificates.init(folder / "etc" / "pki")
    out = ["--dir", str(folder / "etc"), "--out", str(folder / "h1")]
    return _command(cert, ["host", "h1", *out])


def _command(command: Any, arguments: list[str]) -> Writer:
    async def act() -> None:
        result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
        if result.exit_code:
            assert not result.exception or isinstance(result.exception, SystemExit), (
                result.exception
            )
            raise Refused(f"EXIT_{result.exit_code}", result.output)

    return Writer(act, _nothing, _nothing)


async def _contexts(folder: Path) -> Writer:
    os.environ["XDG_CONFIG_HOME"] = str(folder)  # put back by the fixture

    async def act() -> None:
        done = await asyncio.to_thread(
            unkai, "context", "add", "here", "--socket", "/run/unkai/scheduler.sock"
        )
        if done.code:
            raise Refused(f"EXIT_{done.code}", done.err)

    return Writer(act, _nothing, _nothing)


async def _database(folder: Path) -> Writer:
    opened = a_store(folder)
    uow = await opened.__aenter__()
    made: list[str] = []

    async def act() -> None:
        # A page of WAL may have room where a row of this size has none.
        row = an_instance(user_data=b"x" * 60_000)
        await uow.write(lambda conn: instances.insert(conn, row))
        made.append(row.id)

    async def goes_on() -> None:
        kept = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=999))
        assert {row.id for row in kept} == set(made)

    async def close() -> None:
        await opened.__aexit__(None, None, None)

    return Writer(act, goes_on, close)


async def _image_store(folder: Path) -> Writer:
    store = open_image_store(f"file://{folder / 'images'}")

    async def chunks() -> Any:
        yield IMAGE_BYTES

    async def first() -> Any:
        yield b"x" * 1024

    await store.put("img-first", first())

    async def act() -> None:
        await store.put("img-new", chunks())

    async def goes_on() -> None:
        assert "img-first" in await store.list()
        assert b"".join([piece async for piece in store.get("img-first")]) == b"x" * 1024

    return Writer(act, goes_on, _nothing)


async def _decision_log(folder: Path) -> Writer:
    store = open_segment_store(f"file://{folder / 'decisions'}")
    await store.put("first.segment", b"x" * 1024)

    async def act() -> None:
        await store.put("new.segment", IMAGE_BYTES)

    async def goes_on() -> None:
        assert "first.segment" in await store.list()
        assert await store.get("first.segment") == b"x" * 1024

    return Writer(act, goes_on, _nothing)


async def _log(folder: Path) -> Writer:
    file = (folder / "daemon.log").open("w")
    stream = LastingStream(file)

    async def act() -> None:
        stream.write("a line\n" * 1000)
        stream.flush()

    async def close() -> None:
        with suppress(OSError):
            file.close()

    return Writer(act, _nothing, close)


async def _backup(folder: Path) -> Writer:
    """A backup of a database that lies elsewhere."""
    source = folder.parent / "source"
    source.mkdir()
    async with a_store(source) as uow:
        await uow.write(lambda conn: instances.insert(conn, an_instance(user_data=b"x" * 60_000)))
    settings = source / "scheduler.toml"
    settings.write_text(f"[database]\nurl = 'sqlite:///{source}/unkai.db'\n")
    numbers = itertools.count(1)

    async def act() -> None:
        target = folder / f"backup-{next(numbers)}.db"
        words = ["db", "backup", "--config", str(settings), str(target)]
        await _command(scheduler, words).act()
        with sqlite3.connect(target) as copy:
            assert copy.execute("SELECT count(*) FROM instances").fetchone() == (1,)

    return Writer(act, _nothing, _nothing)


MakeWriter = Callable[[Path], Awaitable[Writer]]
SILENT = ""
"""Costs a memory or a line, and says nothing."""
WRITERS: dict[str, tuple[MakeWriter, str, str]] = {
    # Who writes: how, its reason without room, its reason on a read-only disk.
    "agent: ledger": (_ledger, "LEDGER_FULL", "LEDGER_UNWRITABLE"),
    "agent: image cache": (_image_cache, "DISK_FULL", "STORAGE_FAILED"),
    "agent: disk": (_disk, "DISK_FULL", "STORAGE_FAILED"),
    "agent: seed": (_seed, "DISK_FULL", "STORAGE_FAILED"),
    "agent: console log's folder": (_console_log_folder, SILENT, "STORAGE_FAILED"),
    "agent: remembered schedulers": (_remembered_schedulers, SILENT, SILENT),
    "agent: proof of KVM": (_accelerator_note, SILENT, SILENT),
    "agent: init": (_agent_settings, "EXIT_1", "EXIT_1"),
    "scheduler: database": (_database, "DATABASE_FULL", "DATABASE_UNAVAILABLE"),
    "scheduler: image store": (_image_store, "STORE_FULL", "IMAGE_STORE_UNAVAILABLE"),
    "scheduler: decision log": (_decision_log, "DECISION_LOG_FULL", "DECISION_LOG_UNAVAILABLE"),
    "scheduler: db backup": (_backup, "EXIT_1", "EXIT_1"),
    "scheduler: init": (_scheduler_settings, "EXIT_1", "EXIT_1"),
    "scheduler: certificates": (_host_certificate, "EXIT_1", "EXIT_1"),
    "command: contexts": (_contexts, "EXIT_4", "EXIT_4"),
    "both: log": (_log, SILENT, SILENT),
}


@pytest.fixture(autouse=True)
def _own_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")


def files(folder: Path) -> dict[str, int]:
    """Return what there is below a folder, but for what databases keep beside themselves."""
    return {
        str(path.relative_to(folder)): path.stat().st_size if path.is_file() else 0
        for path in folder.rglob("*")
        if path.name != "ballast" and not path.name.endswith(("-wal", "-shm", "daemon.log"))
    }


async def _said(writer: Writer) -> str:
    """Write; return the reason why it could not, or nothing."""
    try:
        for _ in range(40):  # what fits into the last free page is no failure yet
            await writer.act()
    except UnkaiError as error:
        return error.reason if error.fix else f"{error.reason}, but no fix"
    except Refused as refused:
        return refused.reason if "fix:" in refused.text else f"no fix in {refused.text}"
    return SILENT


def _check_no_litter(before: dict[str, int], after: dict[str, int], name: str) -> None:
    parts = [path for path in after if path not in before]
    litter = [path for path in parts if path.endswith((".part", ".tmp")) or "/." in path]
    assert not litter, f"{name} left {litter}"
    empty = [path for path in parts if path.endswith((".crt", ".key", ".toml", ".iso", ".qcow2"))]
    assert all(after[path] for path in empty), f"{name} left an empty file of {empty}"


async def _through(name: str, make: MakeWriter, folder: Path, wanted: str, spoil: Any) -> None:
    writer = await make(folder)
    try:
        before = files(folder)
        mend = spoil(folder)
        assert await _said(writer) == wanted, name
        await writer.goes_on()
        _check_no_litter(before, files(folder), name)
        mend()
        await writer.act()
        await writer.goes_on()
    finally:
        await writer.close()


def _fill(folder: Path) -> Callable[[], None]:
    ballast = fill(folder)
    return ballast.unlink


def _read_only(folder: Path) -> Callable[[], None]:
    def mount(how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(folder)]
        subprocess.run(command, check=True, timeout=10)

    mount("ro")
    return lambda: mount("rw")


def _no_inodes(folder: Path) -> Callable[[], None]:
    made = []
    with suppress(OSError):
        for number in range(10 * INODES):
            path = folder / f"ballast-{number}"
            path.touch()
            made.append(path)
    return lambda: [path.unlink() for path in made] and None


@pytest.mark.parametrize("name", WRITERS)
async def test_on_a_full_disk_it_says_so_leaves_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path, name: str
) -> None:
    make, full, _ = WRITERS[name]
    with small_disk(tmp_path / "disk", ROOM) as disk:
        await _through(name, make, disk, full, _fill)


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"both: log", "scheduler: database"}))
async def test_without_inodes_it_says_so_leaves_nothing_and_goes_on_when_there_are(
    tmp_path: Path, name: str
) -> None:
    make, full, _ = WRITERS[name]
    full = "DISK_FULL" if make is _console_log_folder else full  # a folder needs an inode alone
    with small_disk(tmp_path / "disk", ROOM, inodes=INODES) as disk:
        await _through(name, make, disk, full, _no_inodes)


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"both: log", "scheduler: database"}))
async def test_on_a_read_only_disk_it_says_so_and_goes_on_when_it_is_mended(
    tmp_path: Path, name: str
) -> None:
    make, _, failing = WRITERS[name]
    with small_disk(tmp_path / "disk", ROOM) as disk:
        await _through(name, make, disk, failing, _read_only)


def test_the_matrix_names_every_writer(shows: Shows) -> None:
    shows("solid 7 full disk", f"{len(WRITERS)} writers: {', '.join(WRITERS)}")
    assert len(WRITERS) >= 15

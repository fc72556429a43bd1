"""A process that works on a store without end, for a test that kills it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.support.images import MIB, an_image, raw_bytes  # noqa: E402
from unkai_agent.domain.clock import system_clock  # noqa: E402
from unkai_agent.domain.machines import DiskSpec  # noqa: E402
from unkai_agent.storage.qcow2 import Qcow2Storage  # noqa: E402


async def fetch(image_id: str, offset_bytes: int) -> AsyncIterator[bytes]:
    content = raw_bytes(fill=1 + int(image_id[4:]) % 200)
    for start in range(offset_bytes, len(content), MIB):
        yield content[start : start + MIB]


async def work(root: Path, first: int) -> None:
    storage = Qcow2Storage(root, fetch, None, system_clock)
    number = first * 1000
    while True:
        number += 1
        ident = f"img-{number:026d}"
        image = an_image(raw_bytes(fill=1 + number % 200), ident=ident)
        await storage.ensure_image(image)
        machine = f"ins-{number:026d}"
        await storage.create_disk(machine, DiskSpec("root", 4 * MIB, image, must_exist=False))
        print(machine, flush=True)
        if number % 3 == 0:
            await storage.remove(machine)


asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))

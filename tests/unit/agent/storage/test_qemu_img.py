"""qemu-img on a disk that hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from unkai_agent.domain.machines import ImageFormat
from unkai_agent.storage import qemu_img
from unkai_wire.errors import Unavailable


class Undying:
    """A process that its disk holds up: it neither ends nor dies."""

    returncode = None
    is_killed = False

    async def communicate(self) -> tuple[bytes, bytes]:
        await asyncio.Event().wait()
        raise AssertionError

    def kill(self) -> None:
        self.is_killed = True

    async def wait(self) -> int:
        await asyncio.sleep(5)
        return -9


async def test_a_qemu_img_that_does_not_even_die_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Undying()

    async def start(*_: str, **__: Any) -> Undying:
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(qemu_img, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(qemu_img, "_DIE_S", 0.1)
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable) as caught:
            await qemu_img.create_overlay(
                tmp_path / "disk",
                base="base.raw",
                base_format=ImageFormat.RAW,
                size_bytes=1 << 20,
                what="a disk",
            )
    assert caught.value.reason == "STORAGE_FAILED"
    assert process.is_killed

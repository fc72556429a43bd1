"""A libvirtd whose client tells of what it would not survive."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import libvirt
import pytest

from tests.support.fake_libvirtd import FakeLibvirtd


@pytest.fixture
async def hypervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeLibvirtd]:
    libvirtd = FakeLibvirtd()
    monkeypatch.setattr(libvirt, "open", libvirtd.connect)
    yield libvirtd
    libvirtd.answers.set()
    assert not libvirtd.used_twice_at_once, "libvirt's client crashes then (CVE-2024-4418)"
    here = threading.current_thread()
    assert here not in libvirtd.freed_by, "closing may block: never in the event loop's thread"

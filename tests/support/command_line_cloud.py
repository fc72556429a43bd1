"""Fixtures of the command line's tests: a cloud to talk to, and time that stands still."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from tests.support.api import make_certificates
from tests.support.builders import NOON
from tests.support.fake_api import FakeApi
from tests.support.fake_networks import FakeNetworks
from tests.support.served_api import ServedApi
from unkai_cli import client, output


@pytest.fixture(scope="module", autouse=True)
def quiet_scheduler() -> Iterator[None]:
    """The scheduler in our process logs nothing among the commands' output."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    make_certificates(folder)
    return folder


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them; ages are those of five minutes on."""
    for name in ("SOCKET", "ADDRESS", "CA", "CERTIFICATE", "KEY", "CONTEXT", "PROJECT"):
        monkeypatch.delenv(f"UNKAI_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(output, "_now", lambda: NOON + timedelta(minutes=5))


@pytest.fixture
def cloud(tmp_path: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedApi]:
    """A real API whose operations end at once, as the command line's cloud."""
    with ServedApi(tmp_path / "cloud", pki=pki) as served:
        monkeypatch.setenv("UNKAI_SOCKET", str(served.socket))
        yield served


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A scripted API as the command line's cloud; pauses between tries take no time."""
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with FakeApi(tmp_path / "fake.sock") as served:
        monkeypatch.setenv("UNKAI_SOCKET", str(served.socket))
        yield served


@pytest.fixture
def networks(fake: FakeApi) -> FakeNetworks:
    """The services of networks, empty, as the command line's cloud."""
    return FakeNetworks(fake)

"""Figures are for monitors, people and schedulers; no caller keeps them from the others."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from unkai_scheduler import certificates
from unkai_wire import metrics_server
from unkai_wire.daemon_figures import DaemonCollector
from unkai_wire.metrics_server import MetricsServer
from unkai_wire.own_certificate import end_of
from unkai_wire.tls import TlsFiles


def written(bundle: certificates.Bundle, folder: Path) -> TlsFiles:
    certificate, key, ca = bundle.write(folder)
    return TlsFiles(ca, certificate, key)


class Site:
    """A metrics server, and a certificate of each kind of caller."""

    def __init__(self, folder: Path) -> None:
        authority = certificates.init(folder / "ca")
        self.scheduler = written(authority.issue_scheduler("s1", ["127.0.0.1"]), folder / "s1")
        self.person = written(authority.issue_client("ada"), folder / "ada")
        self.monitor = written(authority.issue_monitor("prometheus"), folder / "prometheus")
        self.host = written(authority.issue_host("h1"), folder / "h1")
        stranger = certificates.init(folder / "other")
        self.stranger = written(stranger.issue_client("ada"), folder / "stranger")
        self.registry = CollectorRegistry()
        Gauge("figure", "A figure", registry=self.registry).set(7)
        self.server = MetricsServer("127.0.0.1", 0, self.scheduler, self.registry)

    def context(self, shown: TlsFiles | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.scheduler.ca))
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return context

    def scrape(self, shown: TlsFiles | None) -> str:
        url = f"https://127.0.0.1:{self.server.port}/metrics"
        with urllib.request.urlopen(url, context=self.context(shown), timeout=10) as answer:
            return str(answer.read().decode())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=5)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(metrics_server, "IDLE_S", 0.5)
    monkeypatch.setattr(metrics_server, "POLL_S", 0.01)
    site = Site(tmp_path)
    yield site
    site.server.close()


@pytest.mark.parametrize("who", ["monitor", "person", "scheduler"])
def test_monitors_administrators_and_schedulers_read_figures(site: Site, who: str) -> None:
    assert "figure 7.0" in site.scrape(getattr(site, who))


def test_a_reader_is_told_when_the_certificate_it_shows_ends(site: Site) -> None:
    site.registry.register(DaemonCollector("scheduler", "9.9", (), metrics_server.reader))
    wanted_s = end_of(site.monitor.certificate.read_text()).timestamp()
    shown = dict(line.rsplit(" ", 1) for line in site.scrape(site.monitor).splitlines())
    name = 'unkai_certificate_not_after_seconds{certificate="monitor-prometheus"}'
    assert float(shown[name]) == wanted_s
    assert name not in site.scrape(site.person), "what another caller showed stays with it"


@pytest.mark.parametrize("who", ["host", "stranger", "nobody"])
def test_a_host_a_stranger_and_nobody_read_none(site: Site, who: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the handshake's or the reply's end, by TLS version
        site.scrape(getattr(site, who, None))


def test_silent_callers_keep_nobody_waiting_and_are_cut_off(site: Site) -> None:
    with ExitStack() as open_:
        silent = [open_.enter_context(site.connect()) for _ in range(5)]
        assert "figure 7.0" in site.scrape(site.person)
        assert all(caller.recv(1) == b"" for caller in silent)


def test_one_caller_too_many_is_closed_and_places_come_back(site: Site) -> None:
    with ExitStack() as open_:
        callers = [
            open_.enter_context(site.connect()) for _ in range(metrics_server.MAX_CALLERS + 1)
        ]
        assert callers[-1].recv(1) == b""
    until = time.monotonic() + 5
    while True:
        try:
            assert "figure 7.0" in site.scrape(site.person)
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_callers_that_come_together_do_not_wait_for_tcp_to_try_again(site: Site) -> None:
    begun_s = time.monotonic()
    with ExitStack() as open_:
        for _ in range(metrics_server.MAX_CALLERS):
            open_.enter_context(site.connect())
        took_s = time.monotonic() - begun_s
    assert took_s < 1.0, "a connection that found no place in the queue is tried again after 1 s"


def test_tls_older_than_1_2_is_refused(site: Site) -> None:
    context = site.context(site.person)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with site.connect() as raw, pytest.raises(OSError):  # noqa: PT011 - an alert or the end
        context.wrap_socket(raw, server_hostname="127.0.0.1")

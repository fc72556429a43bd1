"""The metrics endpoint: mTLS only, and the series that dashboards ask for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import IMAGE, a_spec, an_instance_id
from tests.support.etcd import free_port
from tests.unit.agent.api.test_agent_server import HOST_ID, ID, Site, _launch, site  # noqa: F401
from unkai_agent.api import exporter
from unkai_agent.api.directory import HostDirectory
from unkai_wire.tls import TlsFiles


def _get(url: str, tls: TlsFiles | None, folder: Path) -> str:
    context = ssl.create_default_context(cafile=str(folder / "pki" / "ca.crt"))
    context.check_hostname = False
    if tls is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return str(answer.read().decode())


async def test_metrics_are_for_certificates_of_our_ca_alone_and_name_the_instance(
    site: Site,  # noqa: F811
) -> None:
    await _launch(site)
    folder, port = site.folder, free_port()
    hosts = {ident: running.host for ident, running in site.hosts.items()}
    pki = TlsFiles(*(folder / "pki" / name for name in ("ca.crt", "host.crt", "host.key")))
    stop = exporter.serve(HostDirectory(hosts), f"127.0.0.1:{port}", pki)
    try:
        url = f"https://127.0.0.1:{port}/metrics"
        with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
            await asyncio.to_thread(_get, url, None, folder)
        plain = await asyncio.to_thread(_speak_plainly, port)
        assert b"200 OK" not in plain
        text = await asyncio.to_thread(_get, url, site.tls("scheduler"), folder)
    finally:
        await asyncio.to_thread(stop)
    samples = {
        (s.name, s.labels.get("instance_id", ""), s.labels.get("state", "")): s
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    info = samples["unkai_instance_info", ID, ""]
    assert info.labels["project_id"] == a_spec().project_id
    assert info.labels["name"] == "web-1"
    for name in ("cpu_seconds_total", "cpu_wait_seconds_total", "disk_written_bytes_total"):
        assert (f"unkai_instance_{name}", an_instance_id(), "") in samples
    running = [
        sample.value
        for (name, _, state), sample in samples.items()
        if name == "unkai_host_machines" and state == "RUNNING"
    ]
    assert running
    assert "unkai_host_ledger_problems" in text


async def test_a_hung_hypervisor_costs_its_own_figures_alone(
    site: Site,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _launch(site)
    monkeypatch.setattr(exporter, "_ASK_S", 0.1)
    site.computes[HOST_ID].faults.hang = True
    hosts = HostDirectory({HOST_ID: site.hosts[HOST_ID].host})
    collector = exporter.HostCollector(hosts, asyncio.get_running_loop())
    families = await asyncio.to_thread(lambda: list(collector.collect()))
    samples = {s.name: s.value for family in families for s in family.samples}
    assert samples["unkai_host_image_cache_bytes"] == IMAGE.size_bytes
    assert "unkai_host_ledger_problems" in samples
    assert "unkai_instance_info" in samples
    assert "unkai_instance_cpu_seconds_total" not in samples


def _speak_plainly(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        try:
            return plain.recv(100)
        except ConnectionError:
            return b""

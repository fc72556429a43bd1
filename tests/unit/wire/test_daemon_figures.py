"""Both daemons say their version and when their certificates end; pages stand beside figures."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from unkai_scheduler import certificates
from unkai_wire.daemon_figures import DaemonCollector
from unkai_wire.errors import Unavailable
from unkai_wire.metrics_server import MetricsServer
from unkai_wire.tls import TlsFiles


def test_version_and_ends_of_certificates_are_shown_and_the_unreadable_has_none(
    tmp_path: Path,
) -> None:
    authority = certificates.init(tmp_path / "pki", lifetime=timedelta(days=3))
    own, _, ca = authority.issue_scheduler("s1").write(tmp_path)
    collector = DaemonCollector("scheduler", "9.9", (own, ca, tmp_path / "nothing.crt"))
    samples = {
        (s.name, s.labels.get("certificate", "")): s
        for family in collector.collect()
        for s in family.samples
    }
    build = samples["unkai_build_info", ""]
    assert build.labels == {"role": "scheduler", "version": "9.9"}
    left_s = samples["unkai_certificate_not_after_seconds", "scheduler"].value
    wanted = (datetime.now(UTC) + timedelta(days=3)).timestamp()
    assert abs(left_s - wanted) < 60
    assert samples["unkai_certificate_not_after_seconds", "ca"].value > left_s
    assert ("unkai_certificate_not_after_seconds", "nothing") not in samples
    assert ("process_start_time_seconds", "") in samples


def test_a_page_is_json_and_what_is_not_known_now_is_503(tmp_path: Path) -> None:
    authority = certificates.init(tmp_path / "pki")
    own, key, ca = authority.issue_scheduler("s1", ["127.0.0.1"]).write(tmp_path)
    tls = TlsFiles(ca, own, key)

    def away() -> object:
        raise Unavailable("etcd does not answer", reason="ETCD_UNAVAILABLE")

    pages = {"/targets": lambda: [{"targets": ["192.0.2.1:9444"]}], "/away": away}
    server = MetricsServer("127.0.0.1", 0, tls, CollectorRegistry(), pages)
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(own, key)

    def get(path: str) -> str:
        url = f"https://127.0.0.1:{server.port}{path}"
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return str(answer.read().decode())

    try:
        assert json.loads(get("/targets")) == [{"targets": ["192.0.2.1:9444"]}]
        assert not list(text_string_to_metric_families(get("/metrics")))
        with pytest.raises(urllib.error.HTTPError) as refused:
            get("/away")
        assert refused.value.code == 503
    finally:
        server.close()

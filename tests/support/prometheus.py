"""A real Prometheus for tests, with the project's rules and a quicker sense of time.

`hurried` shortens what the rules wait for, and the spans that they look back over, so that each
condition can be met within seconds; the conditions themselves stay as they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.support.daemons import until
from tests.support.etcd import free_port
from unkai_wire.tls import TlsFiles

ROOT = Path(__file__).parents[2]
RULES = ROOT / "observe" / "rules"
SHORT_SPANS = {"15m": "120s", "10m": "20s", "5m": "20s"}
SHORT_ENOUGH = {
    # Seconds that a condition itself speaks of.
    "unkai_capacity_queue_oldest_seconds) > 300": "unkai_capacity_queue_oldest_seconds) > 3",
    "unkai_metric_age_seconds) > 30": "unkai_metric_age_seconds) > 3",
}


def missing_programs() -> str:
    """Say what is not installed; empty when all is."""
    return " and ".join(p for p in ("prometheus", "promtool") if shutil.which(p) is None)


def alerts() -> list[dict[str, Any]]:
    """Return all alert rules, as they are installed."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def hurried(text: str) -> str:
    """Return a file of rules with its waits and spans shortened."""
    rules = yaml.safe_load(text)
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule.get("for", "0s") != "0s":
                rule["for"] = "1s"
            for long, short in SHORT_SPANS.items():
                rule["expr"] = rule["expr"].replace(f"[{long}]", f"[{short}]")
            for long, short in SHORT_ENOUGH.items():
                rule["expr"] = rule["expr"].replace(long, short)
    return yaml.safe_dump(rules)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; raise when Prometheus says no."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/{path}?{query}", timeout=20) as answer:
            return json.loads(answer.read())["data"]

    def series(self, expr: str) -> list[dict[str, Any]]:
        """Return what an expression gives now: labels and value each."""
        found = self.get("query", query=expr)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return list(found["result"])

    def targets(self) -> dict[str, str]:
        """Return the health of each target, by its instance."""
        active = self.get("targets", state="active")["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in active}

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        found = self.get("alerts")["alerts"]
        return {a["labels"]["alertname"] for a in found if a["state"] == "firing"}

    def ever_fired(self) -> set[str]:
        """Return the names of the alerts that have fired."""
        found = self.series(
            'count by (alertname) (last_over_time(ALERTS{alertstate="firing"}[1h]))'
        )
        return {sample["metric"]["alertname"] for sample in found}

    def summary(self, name: str) -> str:
        """Return what an alert that fires now says."""
        found = self.get("alerts")["alerts"]
        return next(
            (a["annotations"]["summary"] for a in found if a["labels"]["alertname"] == name), ""
        )


@contextmanager
def running_prometheus(
    folder: Path, tls: TlsFiles, schedulers: list[int], planted: int
) -> Iterator[Prometheus]:
    """Run one that asks the schedulers' `/targets`, and scrapes a planted exporter beside them."""
    (folder / "rules").mkdir(parents=True)
    for path in RULES.glob("*.yml"):
        (folder / "rules" / path.name).write_text(hurried(path.read_text()))
    files = {"ca_file": tls.ca, "cert_file": tls.certificate, "key_file": tls.key}
    shown = {name: str(path) for name, path in files.items()}
    example = yaml.safe_load((ROOT / "observe" / "prometheus.yml").read_text())
    unkai = example["scrape_configs"][0] | {"tls_config": shown}
    unkai["http_sd_configs"] = [
        {
            "url": f"https://127.0.0.1:{port}/targets",
            "refresh_interval": "1s",
            "tls_config": shown,
        }
        for port in schedulers
    ]
    extra = {
        "job_name": "planted",
        "honor_labels": True,
        "static_configs": [{"targets": [f"127.0.0.1:{planted}"]}],
    }
    config = example | {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [unkai, extra],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(port)
        until(lambda: prometheus.series("vector(1)"), "Prometheus answers", 30)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class Planted:
    """An exporter that says what a test plants."""

    port: int = 0
    lines: dict[str, float] = field(default_factory=dict)

    def plant(self, series: Mapping[str, float]) -> None:
        """Show these series from now on."""
        self.lines.update(series)


@contextmanager
def planted_exporter() -> Iterator[Planted]:
    """Run one on loopback."""
    planted = Planted()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(f"{name} {value}\n" for name, value in planted.lines.items())
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    planted.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield planted
    finally:
        server.shutdown()
        server.server_close()


_KEYWORDS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"}) | {
    *("bool", "and", "or", "unless", "offset", "le", "sum", "max", "min", "count", "rate"),
    *("increase", "changes", "abs", "absent", "time", "vector", "sort", "histogram_quantile"),
}
_NAME = re.compile(r"[a-zA-Z_:][\w:]*")


def metrics_of(expr: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]", " ", expr)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {name for name in _NAME.findall(bare) if name not in _KEYWORDS and len(name) > 2}


def labels_of(expr: str) -> dict[str, set[str]]:
    """Return the labels that an expression matches, by metric."""
    found: dict[str, set[str]] = {}
    for name, inside in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expr):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", inside))
    return found


def grouped_by(expr: str) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    inside = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expr)
    return {label for group in inside for label in re.findall(r"\w+", group)} - {"le"}

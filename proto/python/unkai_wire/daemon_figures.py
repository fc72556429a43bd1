"""What each daemon's metrics endpoint says of the daemon itself, under one name in both roles.

Dashboards and alert rules ask both roles for these series, so the names are agreed on here. The
certificates are those that the process was started with: a renewed file counts once the daemon
that shows it was started anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unkai_wire.metrics_server import Reader
from unkai_wire.own_certificate import end_of


class DaemonCollector(Collector):
    """Version, end of each certificate, and what the process's own objects have counted."""

    def __init__(
        self,
        role: str,
        version: str,
        certificates: Iterable[Path],
        reader: Callable[[], Reader | None] = lambda: None,
    ) -> None:
        """Read the certificates at once; one that cannot be read has no series.

        `reader`: whose certificate, beside our own, shall be seen to end.
        """
        self._role = role
        self._version = version
        self._ends = _ends(certificates)
        self._reader = reader

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering reads nothing."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the series, those of the process-wide registry included."""
        build = GaugeMetricFamily(
            "unkai_build_info", "1; which version this daemon is.", labels=["role", "version"]
        )
        build.add_metric([self._role, self._version], 1.0)
        yield build
        ends = GaugeMetricFamily(
            "unkai_certificate_not_after_seconds",
            "When a certificate that this process shows, trusts, or was shown with this scrape "
            "ends, in Unix time.",
            labels=["certificate"],
        )
        for name, end_s in self._ends.items():
            ends.add_metric([name], end_s)
        if (reader := self._reader()) is not None:
            ends.add_metric([reader.certificate], reader.end_s)
        yield ends
        yield from REGISTRY.collect()


def _ends(certificates: Iterable[Path]) -> Mapping[str, float]:
    """Return the end of the first certificate in each file, by the file's stem."""
    ends: dict[str, float] = {}
    for path in certificates:
        try:
            ends[path.stem] = end_of(path.read_text(encoding="ascii")).timestamp()
        except (OSError, ValueError):
            continue
    return ends

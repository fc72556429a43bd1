"""Counts of calls answered and how long they took."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)


class RpcMetrics:
    """Prometheus objects of the gRPC server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._calls = Counter(
            "unkai_rpc_calls_total",
            "Calls answered, by method and gRPC status code.",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "unkai_rpc_seconds",
            "Time calls with one answer took, by method.",
            ["method"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def answered(self, method: str, code: str, took_s: float, *, timed: bool) -> None:
        """Count one call; streams are counted but not timed."""
        self._calls.labels(method, code).inc()
        if timed:
            self._seconds.labels(method).observe(took_s)

"""Prometheus objects of the leader. The endpoint that shows them is the API's."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DECISION_SECONDS = Histogram(
    "unkai_scheduler_decision_seconds",
    "Time one batch of placement decisions took.",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
)
DECISION_BATCH = Histogram(
    "unkai_scheduler_decision_batch_size",
    "Placement decisions made together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
DECISIONS = Counter(
    "unkai_scheduler_decisions_total", "Placement decisions, by result.", ["result"]
)
REJECTIONS = Counter(
    "unkai_scheduler_rejections_total",
    "Hosts that a filter kept out of a decision, by filter.",
    ["reason"],
)
SEGMENTS = Counter(
    "unkai_scheduler_decision_log_segments_total",
    "Segments of the decision log: stored, failed tries to store one, dropped unstored.",
    ["result"],
)
for result in ("stored", "failed", "dropped"):
    SEGMENTS.labels(result)  # shown from the start, so that an alarm sees the first one
SEGMENT_BYTES = Counter("unkai_scheduler_decision_log_bytes_total", "Bytes of the segments stored.")
INVARIANT_VIOLATIONS = Gauge(
    "unkai_invariant_violations",
    "Findings of the newest audit of database against hosts, by kind.",
    ["kind"],
)
LOOP_ERRORS = Counter(
    "unkai_scheduler_loop_errors_total", "Rounds of a leader's loop that failed.", ["loop"]
)
AGENT_ORDERS = Counter(
    "unkai_scheduler_agent_orders_total",
    "Orders sent to agents, by kind and result.",
    ["order", "result"],
)
AGENT_ORDER_SECONDS = Histogram(
    "unkai_scheduler_agent_order_seconds",
    "Time from an order's turn to the agent's answer, waiting for a slot included, by kind.",
    ["order"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
REIGNS = Counter("unkai_scheduler_reigns_total", "Times this scheduler took office.")
EVENT_LAG_SECONDS = Histogram(
    "unkai_scheduler_event_lag_seconds",
    "Time from a hint that events were written to their revision.",
    buckets=(0.01, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0),
)
EVENTS_STAMPED = Counter("unkai_scheduler_events_stamped_total", "Events given their revision.")
OVN_UNITS = Counter(
    "unkai_ovn_units_total", "Units brought to OVN's northbound database, by outcome.", ["outcome"]
)

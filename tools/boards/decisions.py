"""The dashboard of placement and what becomes of its decisions."""

from __future__ import annotations

from tools.boards.parts import RATE, TO_HOST, Board, Panel, Query, Row, failures, one, quantile

DECISIONS = Row(
    "How does placement decide?",
    (
        Panel(
            "Decisions a minute",
            "no_capacity: no host fits; the next panel says what turned them away.",
            "short",
            one(
                f"60 * sum by (result) (rate(unkai_scheduler_decisions_total[{RATE}]))",
                "{{result}}",
            ),
        ),
        Panel(
            "Hosts turned away a minute, by filter",
            "How often each filter kept a host out; of one instance: unkai instance explain.",
            "short",
            one(
                f"60 * sum by (reason) (rate(unkai_scheduler_rejections_total[{RATE}])) > 0",
                "{{reason}}",
            ),
            may_be_empty=True,
        ),
        Panel(
            "Time a batch takes",
            "Half and 99 of 100 batches. Milliseconds for thousands of hosts.",
            "s",
            (
                Query(quantile(0.5, "unkai_scheduler_decision_seconds", ""), "half"),
                Query(quantile(0.99, "unkai_scheduler_decision_seconds", ""), "99 of 100"),
            ),
        ),
        Panel(
            "Decisions in a batch",
            "Average: creates that come together are decided together.",
            "short",
            one(
                f"sum(rate(unkai_scheduler_decision_batch_size_sum[{RATE}])) / "
                f"sum(rate(unkai_scheduler_decision_batch_size_count[{RATE}]))",
                "decisions",
            ),
        ),
        Panel(
            "Queue for capacity",
            "Its length.",
            "short",
            one("max(unkai_capacity_queue_length)", "waiting"),
        ),
        Panel(
            "Oldest wait",
            "What has waited longest, by kind of wait.",
            "s",
            (
                Query("max(unkai_capacity_queue_oldest_seconds)", "for capacity"),
                Query("max by (verb) (unkai_operations_oldest_seconds)", "under way {{verb}}"),
            ),
        ),
    ),
)
ORDERS = Row(
    "What becomes of its decisions?",
    (
        Panel(
            "Orders to hosts a minute",
            "By result; anything but ok is tried again.",
            "short",
            one(
                f"60 * sum by (order, result) (rate(unkai_scheduler_agent_orders_total[{RATE}]))",
                "{{order}} {{result}}",
            ),
        ),
        Panel(
            "Time an order takes, 95 of 100",
            "Until the agent has accepted it. Slow: too many at once, or a host far away.",
            "s",
            one(quantile(0.95, "unkai_scheduler_agent_order_seconds", "order"), "{{order}}"),
        ),
        failures(
            "Rounds of loops that failed, a minute",
            "The log says why: loop_failed, instance_stuck.",
            "unkai_scheduler_loop_errors_total",
            "instance, loop",
        ),
        Panel(
            "Age of hosts' figures",
            "Above 10 s a host is left out of decisions.",
            "s",
            one("max by (host) (unkai_metric_age_seconds)", "{{host}}"),
            link=TO_HOST,
        ),
        Panel(
            "Time until an event has its revision, 99 of 100",
            "Since the leader was told of it.",
            "s",
            one(quantile(0.99, "unkai_scheduler_event_lag_seconds", ""), "99 of 100"),
        ),
        Panel(
            "Terms",
            "Rises by one with each reign.",
            "short",
            one("unkai_term > 0", "{{instance}}"),
        ),
    ),
)

BOARD = Board(
    "unkai-decisions",
    "unkai: scheduler decisions",
    "How placement decides, whom it turns away, and what becomes of its decisions.",
    (DECISIONS, ORDERS),
)

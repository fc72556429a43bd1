"""The dashboard of the whole cloud."""

from __future__ import annotations

from tools.boards.parts import (
    AGENT,
    GOOD_BELOW,
    RATE,
    SCHEDULER,
    TO_HOST,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    failures,
    one,
    quantile,
    stat,
)

WELL = Row(
    "Is it well?",
    (
        stat(
            "Leaders",
            "One scheduler leads. None: nothing is placed or repaired; look at etcd and the "
            "schedulers. Two for more than a minute: restart the one with the lower term.",
            "sum(unkai_leader) or vector(0)",
            thresholds=((None, "red"), (1, "green"), (2, "red")),
        ),
        stat(
            "Alerts firing",
            "Each has a section in docs/howto/alerts.md.",
            'count(ALERTS{alertstate="firing",alertname=~"Unkai.*"}) or vector(0)',
            thresholds=GOOD_BELOW,
        ),
        stat(
            "Hosts up",
            "Hosts that the leader speaks to.",
            'max(unkai_hosts{state="UP"})',
            thresholds=((None, "red"), (1, "green")),
        ),
        stat(
            "Hosts not up",
            "Their instances are UNKNOWN and most likely run. Bring the host or its agent back.",
            'sum(max by (state) (unkai_hosts{state!="UP"}))',
            thresholds=GOOD_BELOW,
        ),
        stat(
            "Instances running",
            "As the database has it.",
            'sum(max by (project_id) (unkai_instances{state="RUNNING"})) or vector(0)',
        ),
        stat(
            "Invariant violations",
            "What database and hosts do not agree on. See the events; nothing unknown is removed.",
            "sum(max by (kind) (unkai_invariant_violations)) or vector(0)",
            thresholds=GOOD_BELOW,
        ),
        stat(
            "Longest wait for capacity",
            "See unkai instance explain, then add or uncordon hosts.",
            "max(unkai_capacity_queue_oldest_seconds)",
            "s",
            ((None, "green"), (60, "orange"), (300, "red")),
        ),
        stat(
            "First certificate ends in",
            "Make another in time: unkai-scheduler cert; then restart the daemon.",
            "min(unkai_certificate_not_after_seconds) - time()",
            "s",
            ((None, "red"), (2 * 86400, "orange"), (14 * 86400, "green")),
        ),
    ),
)

ROOM = Row(
    "Is there room?",
    (
        Panel(
            "Claimed of what there is",
            "Above 100 % CPU is normal within placement.ratios; memory and disk at 100 % mean that "
            "nothing more fits.",
            "percentunit",
            tuple(
                Query(
                    f"sum(max by (host) (unkai_host_claimed_{claimed})) / "
                    f"sum(max by (host) (unkai_host_{offered}{{{SCHEDULER}}}))",
                    name,
                )
                for name, claimed, offered in (
                    ("CPU", "vcpus", "cpus"),
                    ("memory", "memory_bytes", "memory_bytes"),
                    ("disk", "disk_bytes", "disk_bytes"),
                )
            ),
        ),
        Panel(
            "Instances by state",
            "FAILED ones hold nothing and say why; UNKNOWN ones are on a host that is silent.",
            "short",
            one("sum by (state) (max by (project_id, state) (unkai_instances)) > 0", "{{state}}"),
            may_be_empty=True,
        ),
        Panel(
            "Waiting for capacity",
            "Who waits, and what turned hosts away is on the dashboard of decisions.",
            "short",
            one("max(unkai_capacity_queue_length)", "waiting"),
        ),
        Panel(
            "CPU in use, by host",
            "Of the host's CPUs. One that stands out: open it.",
            "percentunit",
            one(
                f"unkai_host_cpu_used_cores / on (host, instance, job) unkai_host_cpus{{{AGENT}}}",
                "{{host}}",
            ),
            link=TO_HOST,
        ),
        Panel(
            "Disk left, by host",
            "Below a tenth: cordon the host, delete instances or add disk.",
            "percentunit",
            one(
                "unkai_host_disk_available_bytes / on (host, instance, job) "
                f"unkai_host_disk_bytes{{{AGENT}}}",
                "{{host}}",
            ),
            link=TO_HOST,
        ),
        Panel(
            "Instances by host",
            "How they are spread.",
            "short",
            one("max by (host) (unkai_host_instances)", "{{host}}"),
            link=TO_HOST,
        ),
    ),
)

WORK = Row(
    "What is being done?",
    (
        Panel(
            "Operations ended a minute",
            "By what they did and how they ended. Many FAILED: unkai operation list says why.",
            "short",
            one(
                f"60 * sum by (verb, outcome) (rate(unkai_operations_ended_total[{RATE}]))",
                "{{verb}} {{outcome}}",
            ),
        ),
        Panel(
            "Time an operation takes, 95 of 100",
            "From accepted to done, of those that succeeded. Where the time goes: a trace, or the "
            "steps on the dashboard of the host.",
            "s",
            one(quantile(0.95, "unkai_operation_seconds", "verb"), "{{verb}}"),
        ),
        Panel(
            "Operations under way",
            "PENDING ones wait for the leader or for capacity.",
            "short",
            (
                *one("max by (state) (unkai_operations)", "{{state}}"),
                Query("max(unkai_operations_overdue)", "overdue"),
            ),
        ),
        Panel(
            "API calls a second",
            "By status. UNAVAILABLE may be repeated; INTERNAL is a bug, with an id in the log.",
            "reqps",
            one(f"sum by (code) (rate(unkai_rpc_calls_total[{RATE}]))", "{{code}}"),
        ),
        Panel(
            "API time, 99 of 100",
            "Slow writes: look at the database below.",
            "s",
            one(quantile(0.99, "unkai_rpc_seconds", "method"), "{{method}}"),
        ),
        Panel(
            "Events waiting for their revision",
            "Watchers see an event once the leader has numbered it.",
            "s",
            one("max(unkai_events_lag_seconds)", "oldest"),
        ),
    ),
)

ENGINES = Row(
    "How are the engines?",
    (
        Panel(
            "Database time, 99 of 100",
            "Waiting for its turn included. Slow: the disk, locks, or a server far away.",
            "s",
            one(quantile(0.99, "unkai_database_seconds", "kind"), "{{kind}}"),
        ),
        failures(
            "Database failures a minute",
            "DATABASE_FULL is the disk; else the server or its locks.",
            "unkai_database_failures_total",
            "instance, reason",
        ),
        Panel(
            "Changes that share a transaction",
            "Average; more under load is how creates stay cheap.",
            "short",
            one(
                f"sum by (instance) (rate(unkai_database_group_size_sum[{RATE}])) / "
                f"sum by (instance) (rate(unkai_database_group_size_count[{RATE}]))",
                "{{instance}}",
            ),
            may_be_empty=True,
        ),
        Panel(
            "etcd time, 99 of 100",
            "Slow: its disk, or a member far away. Elections follow.",
            "s",
            one(quantile(0.99, "unkai_etcd_seconds", "call"), "{{call}}"),
            may_be_empty=True,
        ),
        failures(
            "etcd failures a minute",
            "No quorum, or no way to it.",
            "unkai_etcd_failures_total",
            "instance, call",
        ),
        failures(
            "Image store failures a minute",
            "STORE_FULL is the disk; else the S3 engine or its credentials.",
            "unkai_image_store_failures_total",
            "instance, call, reason",
        ),
    ),
)

NETWORKS = Row(
    "How are the networks?",
    (
        Panel(
            "OVN answers",
            "Its northbound database, by scheduler. 0: changes of networks wait, what guests have "
            "goes on; unkai doctor says why.",
            "short",
            one("unkai_ovn_up", "{{instance}}"),
            may_be_empty=True,
        ),
        Panel(
            "Not yet in OVN",
            "Units that OVN does not have as they shall be, and how long the oldest waits.",
            "short",
            (
                Query("max(unkai_ovn_units_due)", "units"),
                Query("max(unkai_ovn_oldest_due_seconds)", "oldest, seconds"),
            ),
            may_be_empty=True,
        ),
        Panel(
            "Transactions a second",
            "Sent to the northbound database. Many while nobody changes anything: somebody else "
            "writes what is ours; see the events OVN_REPAIRED.",
            "short",
            one(f"rate(unkai_ovn_transactions_total[{RATE}])", "{{instance}}"),
            may_be_empty=True,
        ),
    ),
)

DAEMONS = Row(
    "The daemons",
    (
        Panel(
            "Memory",
            "Of each daemon. One that only grows is a bug.",
            "bytes",
            one('process_resident_memory_bytes{job=~"unkai-.*"}', "{{instance}}"),
        ),
        Panel(
            "CPU",
            "Cores. An agent with nothing to do takes a hundredth of one.",
            "short",
            one(f'rate(process_cpu_seconds_total{{job=~"unkai-.*"}}[{RATE}])', "{{instance}}"),
        ),
        Panel(
            "Schedulers' disks",
            "Room left where database and images lie.",
            "bytes",
            one("unkai_scheduler_disk_available_bytes", "{{instance}} {{holds}}"),
        ),
        Panel(
            "Versions",
            "More than one outside of an upgrade: finish it.",
            "short",
            one("count by (role, version) (unkai_build_info)"),
            Kind.TABLE,
            8,
        ),
        Panel(
            "Certificates end in",
            "Of what each daemon was started with.",
            "s",
            one("min by (instance, certificate) (unkai_certificate_not_after_seconds) - time()"),
            Kind.TABLE,
            16,
        ),
    ),
)

BOARD = Board(
    "unkai-cluster",
    "unkai: cluster",
    "Is the cloud well, is there room, what is being done, what fails.",
    (WELL, ROOM, WORK, ENGINES, NETWORKS, DAEMONS),
)

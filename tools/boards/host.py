"""The dashboard of one host."""

from __future__ import annotations

from tools.boards.parts import (
    AGENT,
    RATE,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    Variable,
    failures,
    one,
    quantile,
)

THIS = 'host="$host"'
BY_AGENT = 'instance="$agent"'
HOST_LOAD = Row(
    "How does it fare?",
    (
        Panel(
            "CPU",
            "In use, waited for, and what there is, in cores. Waiting means too many guests want "
            "the CPU at once.",
            "short",
            (
                Query(f"unkai_host_cpu_used_cores{{{THIS}}}", "in use"),
                Query(f"unkai_host_cpu_wait_cores{{{THIS}}}", "waited for"),
                Query(f"unkai_host_cpus{{{THIS},{AGENT}}}", "there"),
            ),
        ),
        Panel(
            "Pressure (PSI)",
            "Share of time that some, or all, tasks stood still. All on memory above 10 %: move "
            "guests away.",
            "percentunit",
            tuple(
                Query(f"unkai_host_{name}_pressure_ratio{{{THIS}}}", name.replace("_", " "))
                for name in ("cpu", "memory", "memory_full", "io", "io_full")
            ),
        ),
        Panel(
            "Memory",
            "To be had, claimed by instances, and offered.",
            "bytes",
            (
                Query(f"unkai_host_memory_available_bytes{{{THIS}}}", "available"),
                Query(f"max(unkai_host_claimed_memory_bytes{{{THIS}}})", "claimed"),
                Query(f"unkai_host_memory_bytes{{{THIS},{AGENT}}}", "offered"),
            ),
        ),
        Panel(
            "Disk",
            "Free where disks are kept, taken by cached images, and offered.",
            "bytes",
            (
                Query(f"unkai_host_disk_available_bytes{{{THIS}}}", "available"),
                Query(f"unkai_host_image_cache_bytes{{{THIS}}}", "image cache"),
                Query(f"unkai_host_disk_bytes{{{THIS},{AGENT}}}", "offered"),
            ),
        ),
        Panel(
            "Machines by state",
            "FAILED: unkai instance show says why. LOST: a disk is gone. AWAITING_PERMIT: no "
            "leader has answered since a reboot.",
            "short",
            one(f"unkai_host_machines{{{THIS}}} > 0", "{{state}}"),
            may_be_empty=True,
        ),
        Panel(
            "What the leader knows of it",
            "Age of its newest figures and how far its clock is behind. Above 10 s nothing is "
            "placed on it.",
            "s",
            (
                Query(f"max(unkai_metric_age_seconds{{{THIS}}})", "age of figures"),
                Query(f"max(unkai_host_clock_skew_seconds{{{THIS}}})", "clock behind"),
            ),
            lowest=None,
        ),
    ),
)
HOST_WORK = Row(
    "How does its work go?",
    (
        Panel(
            "Hypervisor time, 95 of 100",
            "Calls that take seconds: libvirt hangs; its restart harms no guest.",
            "s",
            one(quantile(0.95, "unkai_agent_hypervisor_seconds", "call", BY_AGENT), "{{call}}"),
        ),
        failures(
            "Hypervisor failures a minute",
            "HYPERVISOR_UNAVAILABLE: libvirt does not answer.",
            "unkai_agent_hypervisor_failures_total",
            "call, reason",
            BY_AGENT,
        ),
        Panel(
            "Steps to a machine, 95 of 100",
            "Where the time of a start goes on this host.",
            "s",
            one(quantile(0.95, "unkai_agent_step_seconds", "step", BY_AGENT), "{{step}}"),
        ),
        failures(
            "Steps that failed, a minute",
            "What the reason says: docs/reference/errors.md.",
            "unkai_agent_step_failures_total",
            "step, reason",
            BY_AGENT,
        ),
        Panel(
            "qemu-img time, 95 of 100",
            "A slow disk shows here first.",
            "s",
            one(quantile(0.95, "unkai_agent_qemu_img_seconds", "command", BY_AGENT), "{{command}}"),
            may_be_empty=True,
        ),
        Panel(
            "Images fetched",
            "Bytes a second from schedulers.",
            "Bps",
            one(f"rate(unkai_agent_image_fetched_bytes_total{{{BY_AGENT}}}[{RATE}])", "fetched"),
        ),
        Panel(
            "Ties",
            "1 while its record is in etcd, and while a leader watches it.",
            "short",
            (
                Query(f"unkai_agent_registered{{{BY_AGENT}}}", "registered in etcd"),
                Query(f"unkai_host_leader_watches{{{THIS}}}", "watched by a leader"),
            ),
        ),
        Panel(
            "Not in its ledger",
            "Domains and disks found here that nobody ordered, and ledger files that could not be "
            "read. They are kept; see the audit.",
            "short",
            (
                Query(f"unkai_host_unknown{{{THIS}}}", "{{kind}}"),
                Query(f"unkai_host_ledger_problems{{{THIS}}}", "ledger files"),
            ),
        ),
        Panel(
            "What it is",
            "Version, accelerator (tcg: without KVM), id.",
            "short",
            one(f"unkai_host_info{{{THIS}}}"),
            Kind.TABLE,
        ),
    ),
)

BOARD = Board(
    "unkai-host",
    "unkai: host",
    "How one host fares, what it holds, how its hypervisor answers.",
    (HOST_LOAD, HOST_WORK),
    (
        Variable("host", "Host", "label_values(unkai_host_info, host)"),
        Variable(
            "agent",
            "Agent",
            'label_values(unkai_host_info{host="$host"}, instance)',
            hidden=True,
        ),
    ),
)

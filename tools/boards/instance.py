"""The dashboard of one instance."""

from __future__ import annotations

from tools.boards.parts import AGENT, RATE, Board, Kind, Panel, Query, Row, Variable, one

IN, OUT = "{{port_id}} received", "{{port_id}} sent"
NAMED = f'on (instance_id) group_left (name) unkai_instance_info{{name="$name",{AGENT}}}'


def of_instance(expr: str, legend: str) -> Query:
    """Return the query of one instance's series, found by its name."""
    return Query(f"{expr} * {NAMED}", legend)


INSTANCE = Row(
    "What does it use?",
    (
        Panel(
            "CPU",
            "Cores in use, and waited for: waiting means that its host is too full.",
            "short",
            (
                of_instance(f"rate(unkai_instance_cpu_seconds_total[{RATE}])", "in use"),
                of_instance(f"rate(unkai_instance_cpu_wait_seconds_total[{RATE}])", "waited for"),
            ),
        ),
        Panel(
            "Memory held on the host",
            "QEMU gives back little of what a guest has once used.",
            "bytes",
            (of_instance("unkai_instance_memory_resident_bytes", "held"),),
        ),
        Panel(
            "Disk bytes",
            "Read and written a second.",
            "Bps",
            (
                of_instance(f"rate(unkai_instance_disk_read_bytes_total[{RATE}])", "read"),
                of_instance(f"rate(unkai_instance_disk_written_bytes_total[{RATE}])", "written"),
            ),
        ),
        Panel(
            "Disk requests",
            "Read and written a second.",
            "iops",
            (
                of_instance(f"rate(unkai_instance_disk_reads_total[{RATE}])", "reads"),
                of_instance(f"rate(unkai_instance_disk_writes_total[{RATE}])", "writes"),
            ),
        ),
        Panel(
            "Ports: bytes",
            "Received and sent a second, by port, as the guest sees it.",
            "Bps",
            (
                of_instance(f"rate(unkai_instance_port_received_bytes_total[{RATE}])", IN),
                of_instance(f"rate(unkai_instance_port_sent_bytes_total[{RATE}])", OUT),
            ),
            may_be_empty=True,
        ),
        Panel(
            "Ports: dropped packets",
            "A second. Sent ones: a limit of the port (QoS). Received ones: the guest is too slow.",
            "pps",
            (
                of_instance(f"rate(unkai_instance_port_received_drops_total[{RATE}])", IN),
                of_instance(f"rate(unkai_instance_port_sent_drops_total[{RATE}])", OUT),
            ),
            may_be_empty=True,
        ),
        Panel(
            "Where it is",
            "Host, project, id, libvirt's name for it. Why it is there: unkai instance explain.",
            "short",
            one(f'unkai_instance_info{{name="$name",{AGENT}}}'),
            Kind.TABLE,
            16,
            link=("Its host", "/d/unkai-host?var-host=${__data.fields.host}&${__url_time_range}"),
        ),
    ),
)

BOARD = Board(
    "unkai-instance",
    "unkai: instance",
    "What one instance uses, and what it waits for.",
    (INSTANCE,),
    (Variable("name", "Instance", f"label_values(unkai_instance_info{{{AGENT}}}, name)"),),
)

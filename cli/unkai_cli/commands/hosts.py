"""`unkai host …`: hosts and their live figures."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from unkai_cli.commands.options import Seconds, common, complete_zones, limited, named
from unkai_cli.commands.resources import Columns, Names
from unkai_cli.commands.watching import Listing
from unkai_cli.groups import Group
from unkai_cli.output import Column, Record, age_text, bytes_text, note

if TYPE_CHECKING:
    from unkai_cli.session import Session


def _state(host: Record) -> str:
    return str(host["state"]) + (",CORDONED" if host["cordoned"] else "")


def _share(claimed: str, claimable: str, text: Any = str) -> Any:
    return lambda r: f"{text(r[claimed])}/{text(r[claimable])}"


COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", _state),
    Column("ZONE", lambda r: r["zone"]),
    Column("INSTANCES", lambda r: str(r["instance_count"]), right=True),
    Column("VCPUS", _share("claimed_vcpus", "claimable_vcpus"), right=True),
    Column(
        "MEMORY", _share("claimed_memory_bytes", "claimable_memory_bytes", bytes_text), right=True
    ),
    Column("DISK", _share("claimed_disk_bytes", "claimable_disk_bytes", bytes_text), right=True),
    Column("ACCEL", lambda r: r["accelerator"]),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
    Column("ADDRESS", lambda r: r["address"], wide=True),
    Column("VERSION", lambda r: r["agent_version"], wide=True),
    Column("TRAITS", lambda r: ",".join([*r["traits"], *r["aggregate_traits"]]), wide=True),
)


def _usage(name: str, text: Any) -> Any:
    return lambda r: text(r["usage"][name]) if r["usage"] else ""


def _percent(ratio: Any) -> str:
    return f"{100 * float(ratio):.0f}%"


TOP = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", _state),
    Column("RUNNING", _usage("machines_running", str), right=True),
    Column("CPU", _usage("cpu_used_ratio", _percent), right=True),
    Column("WAIT", _usage("cpu_wait_cores", lambda v: f"{v:.2f}"), right=True),
    Column("PSI CPU", _usage("cpu_pressure_ratio", _percent), right=True),
    Column("PSI MEM", _usage("memory_pressure_ratio", _percent), right=True),
    Column("PSI IO", _usage("io_pressure_ratio", _percent), right=True),
    Column("MEM FREE", _usage("memory_available_bytes", bytes_text), right=True),
    Column("DISK FREE", _usage("disk_available_bytes", bytes_text), right=True),
    Column("READ/S", _usage("disk_read_bytes_per_s", lambda v: bytes_text(int(v))), right=True),
    Column("WRITE/S", _usage("disk_write_bytes_per_s", lambda v: bytes_text(int(v))), right=True),
    Column("SAMPLE AGE", lambda r: f"{r['usage_age_s']:.1f}s" if r["usage"] else "", right=True),
)


def _details(names: Names) -> Columns:
    """Return the columns of one alone, its aggregates by their names."""
    return (
        *COLUMNS,
        Column(
            "AGGREGATES",
            lambda r: ", ".join(sorted(names.of("aggregate", i) for i in r["aggregate_ids"])),
        ),
        Column("CORDON", lambda r: r["cordon_reason"]),
        Column("NETWORK PROBLEM", lambda r: r["network_problem"]),
        Column("BOOT ID", lambda r: r["boot_id"]),
        *TOP[2:],
    )


@click.group(cls=Group)
def host() -> None:
    """Hosts: state, live figures, zones, cordon, removal."""


def _hosts(session: Session) -> list[Record]:
    from unkai_cli.records import record

    return [record(m) for m in session.client.pages("HostService", "ListHosts")]


@host.command("list")
@limited
@common
def list_hosts(session: Session, limit: int | None, watch: bool) -> None:
    """List hosts with what is claimed of them."""
    Listing("host", COLUMNS).show(session, limit=limit, watch=watch)


@host.command("show")
@named("host")
@common
def show(session: Session, host: str) -> None:
    """Show one host with all its fields."""
    from unkai_cli.records import record

    ident = session.client.resolve("host", host)
    found = session.client.call("HostService", "GetHost", host_id=ident).host
    session.printer.one(record(found), _details(Names(session)))


@host.command("top")
@click.option("--once", is_flag=True, help="Print one snapshot and end.")
@click.option("-n", "--interval", type=Seconds(), default=2.0, help="Time between snapshots (2s).")
@common
def top(session: Session, once: bool, interval: float) -> None:
    """Show the hosts' live figures, again and again."""
    live = sys.stdout.isatty() and session.printer.form in ("table", "wide")
    while True:
        rows = _hosts(session)
        if live and not once:
            session.printer.raw(b"\x1b[H\x1b[2J")
        session.printer.rows(rows, TOP)
        if once:
            return
        session.printer.out.flush()
        time.sleep(interval)


@host.command("update")
@named("host")
@click.option(
    "--zone",
    required=True,
    help="Zone it is in: what fails together, such as a room or a rack.",
    shell_complete=complete_zones,
)
@common
def update(session: Session, host: str, zone: str) -> None:
    """Change what the operator says of a host.

    Instances on it stay where they are, whatever zone they asked for.
    """
    from google.protobuf import field_mask_pb2

    from unkai.host.v1 import host_pb2
    from unkai_cli.records import record

    ident = session.client.resolve("host", host)
    done = session.client.call(
        "HostService",
        "UpdateHost",
        host=host_pb2.Host(id=ident, zone=zone),
        update_mask=field_mask_pb2.FieldMask(paths=["zone"]),
    ).host
    session.printer.rows([record(done)], COLUMNS)


@host.command("cordon")
@named("host")
@click.option("--reason", default="", help="Why, for those who read it later.")
@common
def cordon(session: Session, host: str, reason: str) -> None:
    """Keep new instances from a host. Those on it go on."""
    from unkai_cli.records import record

    ident = session.client.resolve("host", host)
    done = session.client.call("HostService", "CordonHost", host_id=ident, reason=reason).host
    session.printer.rows([record(done)], COLUMNS)


@host.command("uncordon")
@named("host")
@common
def uncordon(session: Session, host: str) -> None:
    """Let new instances onto a host again."""
    from unkai_cli.records import record

    ident = session.client.resolve("host", host)
    done = session.client.call("HostService", "UncordonHost", host_id=ident).host
    session.printer.rows([record(done)], COLUMNS)


@host.command("remove")
@named("host")
@click.option(
    "--statement",
    required=True,
    help="Why its machines can never run again, in your own words; the event keeps it.",
)
@common
def remove(session: Session, host: str, statement: str) -> None:
    """Take a host that is gone for ever out of the cloud.

    It must be silent and no longer registered. Instances that it holds must be deleted first
    (with --no-wait: their deletion ends when the host is removed). What is on its disks is given
    up; should it come back all the same, it is a new host.
    """
    from unkai_cli.records import record

    ident = session.client.resolve("host", host)
    done = session.client.call("HostService", "RemoveHost", host_id=ident, statement=statement)
    session.printer.rows([record(done.host)], COLUMNS)
    if done.instance_ids:
        note(f"instances that it held, whose deletion ends now: {len(done.instance_ids)}")
    note(f"shut its key out too, on the control machine: unkai-scheduler etcd revoke {ident}")

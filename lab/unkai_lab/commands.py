"""`unkai lab …`: a real cloud on one machine."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from unkai_cli.commands.options import Size
from unkai_cli.output import FORMATS, Column, Printer, note
from unkai_lab.spec import DATABASES, DEFAULT_NAME, SQLITE, LabPaths, LabSpec
from unkai_wire.errors import InvalidArgument

_COLUMNS = (
    Column("CELL", lambda r: r["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("ADDRESS", lambda r: r["address"]),
    Column("REGISTERED", lambda r: r["registered"]),
    Column("ACCEL", lambda r: r["accelerator"]),
    Column("GUESTS", lambda r: str(r["guests"]), right=True),
    Column("PROGRAMS", lambda r: " ".join(f"{k}:{v}" for k, v in r["programs"].items())),
)

_name = click.option(
    "--name",
    default=DEFAULT_NAME,
    envvar="UNKAI_LAB",
    show_default=True,
    help="Which lab; two of different names do not meet.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """A real cloud on one machine: each host a set of namespaces with its own libvirtd."""


@lab.command()
@_name
@click.option("--hosts", default=3, show_default=True, help="Real hosts.")
@click.option("--simulated", default=0, show_default=True, help="Simulated hosts beside them.")
@click.option("--cpus", default=2, show_default=True, help="CPUs each host states.")
@click.option("--memory", type=Size(), default="4GiB", show_default=True, help="Memory it states.")
@click.option("--cpu-quota", default=0.0, help="CPUs' worth of time each host may take; 0: all.")
@click.option("--memory-limit", type=Size(), default=0, help="Memory each host may take; 0: all.")
@click.option(
    "--accelerator",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="What runs guests' CPUs; auto: KVM where it is proven to work.",
)
@click.option(
    "--etcd",
    "etcd_members",
    type=click.IntRange(1, 3),
    default=1,
    show_default=True,
    help="Members of etcd: 1 or 3.",
)
@click.option("--schedulers", default=1, show_default=True, help="Schedulers; one of them leads.")
@click.option(
    "--database",
    type=click.Choice(DATABASES),
    default=SQLITE,
    show_default=True,
    help="Several schedulers need a server.",
)
@click.option(
    "--networks/--no-networks",
    default=True,
    show_default=True,
    help="OVN, a switch on each host, and a namespace that plays the internet.",
)
@click.option("--keep", is_flag=True, help="Leave a lab that fails standing, to be looked at.")
def up(name: str, hosts: int, simulated: int, keep: bool, **limits: Any) -> None:
    """Make a lab and wait until every host takes instances."""
    from unkai_lab.lab import Lab

    spec = LabSpec(
        name=name,
        hosts=hosts,
        simulated=simulated,
        host_cpus=limits["cpus"],
        host_memory_bytes=limits["memory"],
        cpu_quota_cores=limits["cpu_quota"],
        memory_limit_bytes=limits["memory_limit"],
        accelerator=limits["accelerator"],
        etcd_members=limits["etcd_members"],
        schedulers=limits["schedulers"],
        database=limits["database"],
        networks=limits["networks"],
    )
    Lab.create(spec, note).up(keep_failed=keep)
    option = "" if name == DEFAULT_NAME else f" --name {name}"
    note(f'next: eval "$(unkai lab env{option})" && unkai host list')


@lab.command()
@_name
def down(name: str) -> None:
    """Remove a lab with all that belongs to it, whatever state it is in."""
    from unkai_lab.teardown import take_down

    LabSpec(name=name)
    existed = take_down(LabPaths.of(name))
    note(f"lab {name} is gone" if existed else f"there is no lab {name}")


@lab.command()
@_name
@click.option("-o", "--output", "form", default="", help=f"Format: {', '.join(FORMATS)}.")
@click.pass_obj
def status(session: Any, name: str, form: str) -> None:
    """Show a lab's cells and what runs in them."""
    from unkai_lab.status import lab_status

    printer = Printer(form or getattr(session, "form", "table"))
    record = lab_status(_open(name))
    if printer.form in ("json", "yaml"):
        printer.one(record, ())
        return
    printer.rows(record["cells"], _COLUMNS)
    if printer.form in ("table", "wide"):
        registered, wanted = record["hosts_registered"], record["hosts_wanted"]
        note(f"lab {name} is {record['state']}: {registered} of {wanted} hosts registered")


@lab.command()
@_name
def env(name: str) -> None:
    """Print shell lines that point the command line at a lab."""
    found = _open(name)
    values = {"UNKAI_LAB": name, "UNKAI_SOCKET": ",".join(map(str, found.sockets()))}
    for key, value in values.items():
        click.echo(f"export {key}={shlex.quote(value)}")


@lab.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_name
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host, inside its namespaces and its cgroup."""
    site = _open(name).site
    argv = site.command(host, command[1:] if command[0] == "--" else command)
    os.execvpe(argv[0], argv, site.environment(host))


@lab.command()
@_name
@click.argument("host")
@click.argument("program")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
def log(name: str, host: str, program: str, follow: bool) -> None:
    """Print the log of a program in a cell, as 'lab status' names it: agent, scheduler, etcd."""
    found = _open(name)
    found.spec.address(host)
    argv = ["tail", *(["-F"] if follow else ["-n", "+1"]), str(found.paths.log(host, program))]
    os.execvp(argv[0], argv)


@lab.command()
@_name
@click.argument("host")
def reboot(name: str, host: str) -> None:
    """Pull a host's plug and boot it anew; its disks stay."""
    _open(name).reboot(host)


@lab.command(name="kill-agent")
@_name
@click.argument("host")
def kill_agent(name: str, host: str) -> None:
    """End a host's agent with SIGKILL; its guests run on."""
    _open(name).kill_agent(host)


@lab.command(name="start-agent")
@_name
@click.argument("host")
def start_agent(name: str, host: str) -> None:
    """Start a host's agent again."""
    _open(name).start_agent(host)


@lab.command(name="kill-scheduler")
@_name
@click.argument("scheduler", default="")
def kill_scheduler(name: str, scheduler: str) -> None:
    """End a scheduler with SIGKILL; the first one when none is named."""
    _open(name).kill_scheduler(scheduler)


@lab.command(name="start-scheduler")
@_name
@click.argument("scheduler", default="")
def start_scheduler(name: str, scheduler: str) -> None:
    """Start a scheduler again; the first one when none is named."""
    _open(name).start_scheduler(scheduler)


@lab.command(name="kill-etcd")
@_name
@click.argument("member", default="")
def kill_etcd(name: str, member: str) -> None:
    """End a member of etcd with SIGKILL, or all; their data stay."""
    _open(name).kill_etcd(member)


@lab.command(name="start-etcd")
@_name
@click.argument("member", default="")
def start_etcd(name: str, member: str) -> None:
    """Start a member of etcd again, or all."""
    _open(name).start_etcd(member)


@lab.command(name="wipe-etcd")
@_name
def wipe_etcd(name: str) -> None:
    """Kill etcd, remove all that it held, and build it anew."""
    _open(name).control.wipe_etcd()


@lab.command(name="kill-database")
@_name
def kill_database(name: str) -> None:
    """End the database server with SIGKILL; its data stay."""
    _open(name).control.kill_database()


@lab.command(name="start-database")
@_name
def start_database(name: str) -> None:
    """Start the database server again."""
    _open(name).control.start_database()


@lab.command()
@_name
@click.argument("cell")
@click.argument("program")
def kill(name: str, cell: str, program: str) -> None:
    """End any program of a cell with SIGKILL, as 'lab status' names it; 'restore' starts it."""
    from unkai_lab.status import programs_of

    found = _open(name)
    found.spec.address(cell)
    programs = programs_of(found, cell)
    if program not in programs:
        raise InvalidArgument.field(
            "program",
            f"{program[:64]!r} is no program of {cell}: it has {', '.join(programs)}",
            reason="NO_SUCH_PROGRAM",
        )
    found.site.kill(cell, program)


@lab.command()
@_name
def restore(name: str) -> None:
    """Start again whatever does not run, and put every network cable back."""
    _open(name).restore()


@lab.command()
@_name
@click.argument("host")
def cut(name: str, host: str) -> None:
    """Take the network cable of a host, or of a scheduler's cell, out."""
    _open(name).cut(host)


@lab.command()
@_name
@click.argument("host")
def mend(name: str, host: str) -> None:
    """Put a network cable back."""
    _open(name).mend(host)


def _open(name: str) -> Any:
    from unkai_lab.lab import Lab

    LabSpec(name=name)
    return Lab.open(name, note)

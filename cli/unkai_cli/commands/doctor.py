"""`unkai doctor`: look for what is wrong, and say the fix.

On a machine of the cloud, as root, each role that has settings there is examined by its own
command in a process of its own, whether its daemon runs or not. Elsewhere the scheduler of the
context examines itself and has every agent examine its host. No role is imported.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from unkai_cli import __version__
from unkai_cli.commands.options import common, complete_names
from unkai_cli.output import Column, Record, note

if TYPE_CHECKING:
    from unkai_cli.session import Session
    from unkai_wire.doctor.findings import Finding, Report

FILES = {"scheduler": Path("/etc/unkai/scheduler.toml"), "agent": Path("/etc/unkai/agent.toml")}
COLUMNS = (
    Column("SEVERITY", lambda r: r["severity"]),
    Column("WHERE", lambda r: r["where"]),
    Column("CHECK", lambda r: r["check"]),
    Column("WHAT", lambda r: r["what"]),
    Column("FIX", lambda r: r["fix"]),
)
_AT_ONCE = 8
_CLOCK_S = 2.0
_LIST_S = 120.0
"""Two seconds where the machine is idle; the checks are wanted most where it is not."""


def _config(role: str) -> Callable[[Any], Any]:
    return click.option(
        f"--{role}-config",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Settings of this machine's {role}; {FILES[role]} where it exists.",
    )


def _complete_checks(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the checks of the roles that are installed here."""
    try:
        with ThreadPoolExecutor(len(FILES)) as pool:
            names = {name for found in pool.map(_names, FILES) for name in found}
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


@click.command()
@_config("scheduler")
@_config("agent")
@click.option("--cloud", is_flag=True, help="Ask the scheduler, also on a machine of the cloud.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    shell_complete=complete_names("host"),
    help="Ask the scheduler for this host alone; repeatable.",
)
@click.option(
    "--check",
    "checks",
    multiple=True,
    shell_complete=_complete_checks,
    help="Only the check of this name; repeatable.",
)
@click.option("--list", "list_them", is_flag=True, help="List the checks and end.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=10.0,
    show_default=True,
    help="Seconds that the checks of this machine may take.",
)
@common
def doctor(
    session: Session,
    *,
    scheduler_config: Path | None,
    agent_config: Path | None,
    cloud: bool,
    hosts: tuple[str, ...],
    checks: tuple[str, ...],
    list_them: bool,
    timeout_s: float,
) -> None:
    """Look for what is wrong, and say how to mend it. Changes nothing.

    As root on a machine of the cloud it examines that machine; elsewhere, or with --cloud or
    --host, it asks through the scheduler.

    Exit codes: 0 nothing found; 1 warnings; 2 something does not work.
    """
    if list_them:
        for role in FILES:
            session.printer.line(f"{role}:")
            session.printer.line(_output([*_program(role), "--list"], _LIST_S)[0].rstrip())
        return
    given = {"scheduler": scheduler_config, "agent": agent_config}
    local = {} if cloud or hosts else _local(given)
    if local:
        reports = _examine_here(local, checks, timeout_s)
    else:
        reports = _examine_cloud(session, hosts, checks)
    _show(session, reports, checks)


def _local(given: dict[str, Path | None]) -> dict[str, Path | None]:
    """Return the roles to examine here with their settings; none: ask the scheduler."""
    if any(given.values()):
        return {role: file for role, file in given.items() if file}
    if os.geteuid() != 0:
        return {}
    return {role: None for role, file in FILES.items() if file.exists()}


def _program(role: str) -> list[str]:
    from unkai_wire.doctor import child

    return child.command(role, None)[:4]


def _output(command: Sequence[str], within_s: float) -> tuple[str, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s,
        check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


def _examine_here(
    roles: dict[str, Path | None], checks: Sequence[str], timeout_s: float
) -> list[Report]:
    from unkai_wire.doctor import child

    def examine(role: str) -> Report:
        command = child.command(role, roles[role], _known(role, checks), timeout_s)
        try:
            return child.read(role, *_output(command, timeout_s + child.GRACE_S * 2))
        except subprocess.TimeoutExpired:
            return child.broken(role, "they did not end in time")

    chosen = [role for role in roles if not checks or _known(role, checks)]
    with ThreadPoolExecutor(len(FILES)) as pool:
        return list(pool.map(examine, chosen))


def _known(role: str, checks: Sequence[str]) -> list[str]:
    """Return those of the named checks that a role has."""
    if not checks:
        return []
    names = _names(role)
    return [name for name in checks if name in names]


def _names(role: str) -> set[str]:
    """Return the names of a role's checks; none where the role is not installed."""
    listed = _output([*_program(role), "--list"], _LIST_S)[0]
    return {line.split()[0] for line in listed.splitlines() if line.strip()}


def _examine_cloud(session: Session, names: Sequence[str], checks: Sequence[str]) -> list[Report]:
    from unkai_wire.errors import UnkaiError

    client = session.client
    reports: list[Report] = []
    try:
        if names:
            chosen = {client.resolve("host", name): name for name in names}
        else:
            reports.append(_scheduler(session, checks))
            chosen = _one_of_each_agent(client.pages("HostService", "ListHosts"))
    except UnkaiError as error:
        if names:
            raise
        return [*reports, _unanswered("scheduler", "the scheduler", error)]

    def ask(host_id: str) -> Report:
        from unkai_wire.doctor.messages import from_message

        try:
            answer = client.call(
                "HostService", "DiagnoseHost", host_id=host_id, checks=list(checks)
            )
        except UnkaiError as error:
            return _unanswered("agent", f"the agent of {chosen[host_id]}", error)
        return from_message(answer.diagnosis)[0]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*reports, *pool.map(ask, chosen)]


def _one_of_each_agent(hosts: Iterable[Any]) -> dict[str, str]:
    """Return id and name of a host at each address: an agent may hold a fleet of simulated ones.

    One that was lost does not stand for one that is there.
    """
    from unkai.host.v1 import host_pb2

    lost = host_pb2.Host.STATE_UNKNOWN
    found: dict[str, Any] = {}
    for host in sorted(hosts, key=lambda host: bool(host.state == lost)):
        found.setdefault(host.address, host)
    return {host.id: host.name for host in found.values()}


def _scheduler(session: Session, checks: Sequence[str]) -> Report:
    import time
    from dataclasses import replace

    from unkai_wire.doctor.etcd import clock_finding
    from unkai_wire.doctor.messages import from_message

    begun_s = time.time()
    answer = session.client.call("HostService", "DiagnoseScheduler", checks=list(checks))
    report, end_time = from_message(answer.diagnosis)
    ended_s, theirs_s = time.time(), end_time.timestamp()
    ahead_s = min(0.0, ended_s - theirs_s) or max(0.0, begun_s - theirs_s)
    if abs(ahead_s) <= _CLOCK_S:
        return report
    wrong = clock_finding(ahead_s, "the scheduler's")
    wrong = replace(wrong, check="clock-command", where="this machine")
    return replace(report, findings=(*report.findings, wrong))


def _unanswered(role: str, who: str, error: Any) -> Report:
    from unkai_wire.doctor.findings import Finding, Report, Severity
    from unkai_wire.errors import Unsupported

    if isinstance(error, Unsupported):
        return Report(who, "", 0, (_old_scheduler(who),))
    finding = Finding(
        f"{role}-answers",
        Severity.FAIL,
        f"{who} does not answer: {error.message}",
        f"{error.reason}: nothing is known of it",
        f"on its machine, as root: unkai doctor; systemctl status unkai-{role}",
        who,
    )
    return Report(who, "", 0, (finding,))


def _old_scheduler(where: str) -> Finding:
    from unkai_wire.doctor.findings import Finding, Severity

    return Finding(
        "versions",
        Severity.WARN,
        "the scheduler is of a version that cannot examine",
        "versions may mix for an upgrade, not for good",
        "upgrade it; until then, on its machine as root: unkai doctor",
        where,
    )


def _show(session: Session, reports: Sequence[Report], checks: Sequence[str]) -> None:
    from unkai_wire.doctor.command import exit_code

    findings = [finding for report in reports for finding in report.findings]
    if not checks or "versions" in checks:
        findings += [f for report in reports if (f := _version_of(report)) is not None]
    printer = session.printer
    if printer.form == "table":
        for finding in findings:
            printer.line(f"{finding.severity.value}  {finding.where}: {finding.what}")
            printer.line(f"      check: {finding.check}")
            printer.line(f"      why:   {finding.why}")
            printer.line(f"      fix:   {finding.fix}")
    elif findings or printer.form in ("json", "yaml"):
        records: list[Record] = [finding.to_record() for finding in findings]
        printer.rows(records, COLUMNS)
    count = sum(report.checks for report in reports)
    places = ", ".join(report.where for report in reports)
    found = f"{len(findings)} found" if findings else "nothing found"
    note(f"{count} checks of {places}: {found}")
    click.get_current_context().exit(exit_code(findings))


def _version_of(report: Report) -> Finding | None:
    """Judge this command's version against what it examined."""
    from unkai_wire.doctor.findings import Finding, Severity

    if report.version in ("", __version__):
        return None
    return Finding(
        "versions",
        Severity.WARN,
        f"this command is version {__version__}, {report.where} is {report.version}",
        "a command may not know what the other side has, or the other way round",
        "pip install --upgrade unkai on the side that is behind",
        "this command",
    )

"""Checks of a daemon from outside: does it run, does it answer, has it its ports and files.

Who listens at a unix socket is the kernel's word (SO_PEERCRED, unix(7)), so no pid file is needed
and none can be wrong.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from unkai_wire.doctor.findings import Finding, Severity, finding

ANSWER_S = 3.0
FEW_FILES = 4096
"""Open files that a daemon of ours may need: streams of all hosts, consoles, the store."""


class State(Enum):
    """How a daemon fares."""

    DOWN = "does not run"
    SILENT = "runs, but does not answer"
    SERVING = "serves"
    STARTING = "runs, but does not serve yet"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon as its unix socket shows it."""

    program: str
    socket: Path
    state: State
    pid: int = 0


def look(program: str, path: Path) -> Daemon:
    """Knock at a daemon's socket, then ask whether it serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(ANSWER_S)
        try:
            knock.connect(str(path))
        except OSError:
            return Daemon(program, path, State.DOWN)
        credentials = knock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int(struct.unpack("3i", credentials)[0])
    with grpc.insecure_channel(f"unix:{path}", [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=ANSWER_S
            )
        except grpc.RpcError:
            return Daemon(program, path, State.SILENT, pid)
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Daemon(program, path, State.SERVING if serving else State.STARTING, pid)


def running(daemon: Daemon) -> Iterable[Finding]:
    """Judge: a daemon that is down, or hangs."""
    unit = daemon.program
    match daemon.state:
        case State.DOWN:
            yield finding(
                Severity.FAIL,
                f"{unit} does not run: nobody listens at {daemon.socket}",
                "nothing is kept true from here; instances run on",
                f"systemctl start {unit}; why it ended: journalctl -u {unit} -n 50",
            )
        case State.SILENT:
            yield finding(
                Severity.FAIL,
                f"{unit} (pid {daemon.pid}) runs but does not answer within {ANSWER_S:g} s",
                "it hangs, is stopped, or the machine is overloaded",
                f"see its state: grep State /proc/{daemon.pid}/status; "
                f"then: systemctl restart {unit}",
            )
        case State.STARTING:
            yield finding(
                Severity.WARN,
                f"{unit} (pid {daemon.pid}) runs but does not serve yet",
                "it starts, stops, or waits for what it needs",
                f"journalctl -u {unit} -n 50",
            )


def ports(daemon: Daemon, addresses: Sequence[tuple[str, str]]) -> Iterable[Finding]:
    """Judge: listening addresses that a daemon which is down could not have.

    `addresses`: the setting's name and `HOST:PORT`.
    """
    if daemon.state is not State.DOWN:
        return
    for setting, address in addresses:
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "0.0.0.0"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, int(port)))
                trial.listen(1)
            except OSError as error:
                yield _not_free(setting, address, error, int(port))


def _not_free(setting: str, address: str, error: OSError, port: int) -> Finding:
    if error.errno == errno.EADDRNOTAVAIL:
        return finding(
            Severity.FAIL,
            f"{setting} = {address} is no address of this machine",
            "the daemon cannot start",
            f"set '{setting}' to one of: hostname -I",
        )
    holder = holder_of_port(port)
    return finding(
        Severity.FAIL,
        f"{setting} = {address} is taken{' by ' + holder if holder else ''}",
        "the daemon cannot start",
        f"stop what listens there (ss -tlnp 'sport = :{port}'), or set '{setting}' to another",
    )


def holder_of_port(port: int) -> str:
    """Return `name (pid N)` of who listens at a TCP port; "" when that cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            # State 0A is LISTEN; the port is hexadecimal after the last colon (proc_net(5)).
            inodes |= {
                r[9] for r in rows if r[3] == "0A" and int(r[1].rpartition(":")[2], 16) == port
            }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if any(os.readlink(file) in wanted for file in (folder / "fd").iterdir()):
                    return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
    return ""


def open_files(daemon: Daemon) -> Iterable[Finding]:
    """Judge: a daemon that may open few files, or has nearly all it may."""
    if not daemon.pid:
        return
    try:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        used = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    except OSError:
        return
    row = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    limit = row.split()[3]
    if limit == "unlimited" or (int(limit) >= FEW_FILES and used < 0.8 * int(limit)):
        return
    yield finding(
        Severity.WARN,
        f"{daemon.program} (pid {daemon.pid}) has {used} files open and may have {limit}",
        "beyond that it can take no connection and open no disk",
        f"systemctl edit {daemon.program}: [Service] LimitNOFILE=65536; "
        f"then: systemctl restart {daemon.program}",
    )

"""Checks of etcd's members as one of its clients sees them, by their HTTP pages.

`/health` and `/metrics` are answered whoever asks with a certificate of the CA, also while nobody
leads and before users are made. The answer's `Date` is that machine's clock: with it the clocks of
all machines are compared with one another. Source: etcd manual, "Monitoring etcd".
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from unkai_wire.doctor.findings import Finding, Severity, finding
from unkai_wire.tls import TlsFiles

CLOCK_S = 2.0
"""Hosts that follow a time server differ by milliseconds."""
CLOCK_FAIL_S = 300.0
"""Certificates are made valid five minutes ago, so that clocks may differ by that."""
NEARLY_FULL = 0.8
ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class Member:
    """What one member says."""

    endpoint: str
    trouble: str = ""
    """Why it cannot be asked; empty when it can."""
    trust: bool = False
    """That is about certificates."""
    ours: bool = False
    """Our own files cannot be used, which other checks tell."""
    healthy: bool = False
    has_leader: bool = False
    used_bytes: int = 0
    quota_bytes: int = 0
    ahead_s: float = 0.0
    """How far our clock is ahead of its."""


def look(endpoint: str, tls: TlsFiles) -> Member:
    """Ask one member."""
    host, _, port = endpoint.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        return Member(endpoint, f"our certificate cannot be used: {error}", ours=True)
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=ANSWER_S, context=context
    )
    try:
        return _ask(endpoint, connection)
    except ssl.SSLError as error:
        words = getattr(error, "verify_message", "") or error.reason or str(error)
        return Member(endpoint, str(words), trust=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Member(endpoint, str(error) or type(error).__name__)
    finally:
        connection.close()


def look_at_all(endpoints: Sequence[str], tls: TlsFiles) -> list[Member]:
    """Ask all members at once; same order."""
    with ThreadPoolExecutor(len(endpoints)) as pool:
        return list(pool.map(lambda endpoint: look(endpoint, tls), endpoints))


def _ask(endpoint: str, connection: http.client.HTTPSConnection) -> Member:
    before_s = time.time()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    health, after_s = json.loads(answer.read()), time.time()
    date_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    connection.request("GET", "/metrics")
    figures = dict(
        line.rsplit(" ", 1)
        for line in connection.getresponse().read().decode().splitlines()
        if line.startswith("etcd_") and "{" not in line
    )
    return Member(
        endpoint,
        healthy=str(health.get("health")).lower() == "true",
        has_leader=float(figures.get("etcd_server_has_leader", 1)) == 1,
        used_bytes=int(float(figures.get("etcd_mvcc_db_total_size_in_bytes", 0))),
        quota_bytes=int(float(figures.get("etcd_server_quota_backend_bytes", 0))),
        ahead_s=_ahead_s(before_s, after_s, date_s),
    )


def _ahead_s(before_s: float, after_s: float, date_s: float) -> float:
    """Return how far our clock must be ahead, whenever between two moments the Date was written.

    A Date leaves the fraction of its second out.
    """
    return max(0.0, before_s - date_s - 1) or min(0.0, after_s - date_s)


def reachable(members: Sequence[Member]) -> Iterable[Finding]:
    """Judge: members that do not answer."""
    away = [m for m in members if m.trouble and not m.trust and not m.ours]
    for member in away:
        alone = len(away) == len(members)
        yield finding(
            Severity.FAIL if alone else Severity.WARN,
            f"etcd at {member.endpoint} cannot be reached: {member.trouble}",
            "no host can be seen, nobody can lead" if alone else "one more loss may end the quorum",
            "on that machine: systemctl status etcd; from here: "
            f"nc -zv {member.endpoint.rpartition(':')[0]} {member.endpoint.rpartition(':')[2]}",
        )


def trusted(members: Sequence[Member]) -> Iterable[Finding]:
    """Judge: members whose certificate we do not take, or that do not take ours."""
    for member in members:
        if member.trust:
            yield finding(
                Severity.FAIL,
                f"etcd at {member.endpoint} and this party do not trust each other: "
                f"{member.trouble}",
                "no connection to it can be made",
                "see the certificate checks; a member's certificate must name its address: "
                "unkai-scheduler cert etcd NAME --address "
                f"{member.endpoint.rpartition(':')[0].strip('[]')}",
            )


def quorum(members: Sequence[Member]) -> Iterable[Finding]:
    """Judge: members that answer, yet have no leader."""
    for member in members:
        if not member.trouble and not member.has_leader:
            yield finding(
                Severity.FAIL,
                f"etcd at {member.endpoint} has no leader: most members are away",
                "nothing can be written: hosts go UNKNOWN and no scheduler can lead",
                "start the other members: systemctl start etcd on each",
            )


def space(members: Sequence[Member]) -> Iterable[Finding]:
    """Judge: members that are full, or nearly, or unwell for another reason."""
    for member in members:
        if member.trouble or not member.has_leader:
            continue
        used = member.used_bytes / member.quota_bytes if member.quota_bytes else 0.0
        if member.healthy and used < NEARLY_FULL:
            continue
        text = f"{member.used_bytes >> 20} of {member.quota_bytes >> 20} MiB are used"
        yield finding(
            Severity.WARN if member.healthy else Severity.FAIL,
            f"etcd at {member.endpoint} {'is nearly full' if member.healthy else 'is not well'}: "
            f"{text}",
            "a full etcd takes no writes until its alarm is taken away",
            "etcdctl compact $(etcdctl endpoint status -w json | grep -o '\"revision\":[0-9]*' | "
            "head -1 | cut -d: -f2); etcdctl defrag; etcdctl alarm disarm",
        )


def clock(members: Sequence[Member]) -> Iterable[Finding]:
    """Judge: this machine's clock against those of etcd's machines."""
    for member in members:
        if not member.trouble and abs(member.ahead_s) > CLOCK_S:
            yield clock_finding(member.ahead_s, f"etcd's at {member.endpoint}")


def clock_finding(ahead_s: float, other: str) -> Finding:
    """Return the finding of a clock that is so far ahead of another."""
    return finding(
        Severity.FAIL if abs(ahead_s) > CLOCK_FAIL_S else Severity.WARN,
        f"this clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {other}",
        "certificates seem to begin late or end early, and times in events and logs mislead",
        "on the machine that is wrong (date -u): apt install chrony; chronyc makestep",
    )

"""What really is, read behind the product's back: files, sqlite3, virsh, etcdctl and /proc.

The checker of the stories in which things are killed. It uses nothing of the product's own
reading: an id's UUID is decoded here, the database is read as a file, processes by /proc.
`problems` says in words what does not fit together; an empty list means that nothing is doubled,
leaked or left half-done.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from unkai_lab.configuration import etcd_health_command
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, FLEET

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LASTING = {"RUNNING", "STOPPED"}


def uuid_of(ident: str) -> str:
    """Decode the UUID in an id: 26 digits of Crockford's base32."""
    number = 0
    for digit in ident.partition("-")[2]:
        number = number * 32 + _ALPHABET.index(digit)
    return str(uuid.UUID(int=number))


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database file says."""

    instances: dict[str, tuple[str, str]]
    """State by id, and the id of the host that the claim names ("" without a claim)."""
    claims: dict[str, str]
    """Host id by instance id."""
    hosts: dict[str, tuple[str, str]]
    """Name and state by id."""
    active: list[str]
    """Operations that have not ended: verb, message."""
    ended: dict[str, tuple[str, str, str]]
    """Verb, state and resource of each operation that has ended, by id."""
    unstamped: int
    term: int


def rows_of(lab: Lab) -> Rows:
    """Read the database file."""
    path = lab.paths.cell(CONTROL) / "unkai.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        db.execute("BEGIN")  # one snapshot for all
        claims = dict(db.execute("SELECT instance_id, host_id FROM claims"))
        return Rows(
            instances={
                ident: (state.upper(), claims.get(ident, ""))
                for ident, state in db.execute("SELECT id, state FROM instances")
            },
            claims=claims,
            hosts={
                i: (n, s.upper()) for i, n, s in db.execute("SELECT id, name, state FROM hosts")
            },
            active=[
                f"{verb} {resource}: {message}"
                for verb, resource, message in db.execute(
                    "SELECT verb, resource_id, progress_message FROM operations"
                    " WHERE end_time IS NULL"
                )
            ],
            ended={
                ident: (verb.upper(), state.upper(), resource)
                for ident, verb, state, resource in db.execute(
                    "SELECT id, verb, state, resource_id FROM operations WHERE end_time IS NOT NULL"
                )
            },
            unstamped=db.execute("SELECT count(*) FROM events WHERE number IS NULL").fetchone()[0],
            term=db.execute("SELECT term FROM leader_term").fetchone()[0],
        )


def qemus(lab: Lab) -> list[tuple[str, int]]:
    """Return UUID and process of every QEMU of this lab, whatever host it is on."""
    found = []
    folder = f"{lab.paths.folder}/".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"qemu-system" in words[0] and b"-uuid" in words and any(folder in w for w in words):
            found.append((words[words.index(b"-uuid") + 1].decode(), int(path.parent.name)))
    return found


@dataclass
class TwinWatch:
    """Samples the processes all the time: two QEMUs of one UUID at any moment are remembered."""

    lab: Lab
    pause_s: float = 0.25
    samples: int = 0
    twins: list[str] = field(default_factory=list)

    def __enter__(self) -> TwinWatch:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self.pause_s):
            counts = Counter(ident for ident, _ in qemus(self.lab))
            self.samples += 1
            self.twins += [f"{ident}: {n} processes" for ident, n in counts.items() if n > 1]


def problems(lab: Lab) -> list[str]:
    """Compare database, hosts, hypervisors, processes and etcd; say all that does not fit."""
    rows = rows_of(lab)
    found = [f"operation under way: {text}" for text in rows.active]
    found += _rows_at_odds(rows)
    names = {name: ident for ident, (name, _) in rows.hosts.items()}
    running = {
        uuid_of(ident): host
        for ident, (state, host) in rows.instances.items()
        if state == "RUNNING"
    }
    real = {names.get(host, host) for host in lab.spec.host_names}
    for host in lab.spec.host_names:
        found += _host_at_odds(lab, host, names.get(host, ""), rows)
    processes = Counter(ident for ident, _ in qemus(lab))
    wanted = Counter(ident for ident, host in running.items() if host in real)
    found += [
        f"process without an instance: {ident} x{n}" for ident, n in (processes - wanted).items()
    ]
    found += [f"instance without a process: {ident}" for ident in wanted - processes]
    found += _fleet_at_odds(lab, names, rows)
    found += _etcd_at_odds(lab)
    return found


def wait_settled(lab: Lab, deadline_s: float = 90.0) -> Rows:
    """Return the rows once nothing is at odds; fail with what is at the deadline."""
    end = time.monotonic() + deadline_s
    while found := problems(lab):
        assert time.monotonic() < end, f"after {deadline_s:g} s still at odds: {found}"
        time.sleep(0.5)
    return rows_of(lab)


def _rows_at_odds(rows: Rows) -> list[str]:
    found = [f"host {name} is {state}" for name, state in rows.hosts.values() if state != "UP"]
    for ident, (state, host) in rows.instances.items():
        if state not in _LASTING:
            found.append(f"instance {ident} is {state}")
        elif host not in rows.hosts:
            found.append(f"instance {ident} is {state} on no known host {host!r}")
    found += [f"claim without an instance: {i}" for i in rows.claims.keys() - rows.instances.keys()]
    if rows.unstamped:
        found.append(f"{rows.unstamped} events without a revision")
    return found


def _host_at_odds(lab: Lab, host: str, host_id: str, rows: Rows) -> list[str]:
    claimed = {ident for ident, claimant in rows.claims.items() if claimant == host_id}
    cell = lab.paths.cell(host) / "agent"
    folders = {path.name for path in (cell / "machines").iterdir()}
    entries = {path.stem for path in (cell / "ledger" / "machines").glob("*.json")}
    domains = set(lab.virsh(host, "list", "--all", "--uuid").split())
    parts = [str(path) for path in cell.rglob("*.part")] + [str(p) for p in cell.rglob("*.tmp")]
    return [
        *(f"{host}: folder and claims differ by {i}" for i in folders ^ claimed),
        *(f"{host}: ledger and claims differ by {i}" for i in entries ^ claimed),
        *(
            f"{host}: domains and claims differ by {u}"
            for u in domains ^ set(map(uuid_of, claimed))
        ),
        *(f"{host}: half-made file {path}" for path in parts),
    ]


def _fleet_at_odds(lab: Lab, names: dict[str, str], rows: Rows) -> list[str]:
    found = []
    for ledger in (lab.paths.cell(FLEET) / "agent" / "hosts").glob("*/ledger/machines"):
        name = ledger.parents[1].name
        claimed = {i for i, claimant in rows.claims.items() if claimant == names.get(name)}
        entries = {path.stem for path in ledger.glob("*.json")}
        found += [f"{name}: ledger and claims differ by {i}" for i in entries ^ claimed]
    return found


def _etcd_at_odds(lab: Lab) -> list[str]:
    access = etcd_health_command(lab.spec, lab.paths)[:-2]
    # A client's certificate may read no more than this.
    keys_of = [*access, "get", "--prefix", "/unkai/v1/", "--keys-only"]
    done = lab.run(CONTROL, keys_of, check=False)
    if done.returncode:
        return [f"etcd: {done.stderr.strip()}"]
    keys = sorted(line for line in done.stdout.splitlines() if line)
    kinds = Counter(key.removeprefix("/unkai/v1/").partition("/")[0] for key in keys)
    wanted = {"hosts": lab.spec.hosts + lab.spec.simulated, "schedulers": 1, "leader": 1}
    return [] if kinds == wanted else [f"etcd holds {keys}"]

"""What really is in a lab, seen behind the product's back: files, SQL, virsh, etcdctl and /proc.

It looks, `checker.py` judges: an id's UUID is decoded there, the database is read by
`raw_rows.py`, processes by /proc. Only simulated hosts, which are nowhere but in their process,
are asked what they hold. `problems` says in words what does not fit together; an empty list means
that nothing is doubled, leaked or left half-done.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.support.checker import check
from tests.support.findings import Finding
from tests.support.raw_rows import Tables, read_tables
from tests.support.sights import Held, HostSight, Rules, Sight, uuid_of
from unkai.agent.v1 import machine_pb2, machine_service_pb2, machine_service_pb2_grpc
from unkai_lab.client import open_channel
from unkai_lab.configuration import etcdctl_command
from unkai_lab.errors import LabError
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, FLEET

__all__ = [
    "Finding",
    "Rows",
    "TwinWatch",
    "as_rows",
    "findings",
    "leader_of",
    "look",
    "problems",
    "qemus",
    "rows_of",
    "simulated_hosts",
    "uuid_of",
    "wait_clean",
    "wait_settled",
]
_ROOT = Path(__file__).parents[2]
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database says, for stories that ask it themselves."""

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


def database_settings(lab: Lab) -> Mapping[str, Any]:
    """Return what the lab's first scheduler is told of its database."""
    cell = lab.spec.scheduler_cell(lab.spec.scheduler_names[0])
    settings = tomllib.loads((lab.paths.cell(cell) / "scheduler.toml").read_text())
    return dict(settings["database"])


def tables_of(lab: Lab) -> Tables:
    """Read the lab's database: a file from here, a server from the cell that reaches it."""
    settings = database_settings(lab)
    if settings["url"].startswith("sqlite:"):
        return read_tables(settings["url"])
    module = [sys.executable, "-m", "tests.support.raw_rows", json.dumps(settings)]
    tables: Tables = json.loads(lab.run(CONTROL, ["env", f"PYTHONPATH={_ROOT}", *module]).stdout)
    return tables


def rows_of(lab: Lab) -> Rows:
    """Read the lab's database, and put it in the words of stories."""
    return as_rows(tables_of(lab))


def as_rows(tables: Tables) -> Rows:
    """Put a database's tables in the words of stories."""
    claims = {row["instance_id"]: row["host_id"] for row in tables["claims"]}
    active = [row for row in tables["operations"] if row["end_time"] is None]
    ended = [row for row in tables["operations"] if row["end_time"] is not None]
    return Rows(
        instances={
            row["id"]: (row["state"].upper(), claims.get(row["id"], ""))
            for row in tables["instances"]
        },
        claims=claims,
        hosts={row["id"]: (row["name"], row["state"].upper()) for row in tables["hosts"]},
        active=[f"{r['verb']} {r['resource_id']}: {r['progress_message']}" for r in active],
        ended={
            row["id"]: (row["verb"].upper(), row["state"].upper(), row["resource_id"])
            for row in ended
        },
        unstamped=sum(row["number"] is None for row in tables["events"]),
        term=tables["leader_term"][0]["term"],
    )


def qemus(lab: Lab) -> list[tuple[str, int]]:
    """Return UUID and process of every QEMU of this lab, whatever host it is on.

    A process is the lab's by its cgroup, or by a file of the lab that it names.
    """
    ours = {pid for host in lab.spec.host_names for pid in lab.site.pids(host)}
    found = []
    folder = f"{lab.paths.folder}/".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"qemu-system" in words[0] and b"-uuid" in words:
            pid = int(path.parent.name)
            if pid in ours or any(folder in word for word in words):
                found.append((words[words.index(b"-uuid") + 1].decode(), pid))
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


def look(lab: Lab, *, schedulers: int | None = None) -> Sight:
    """Look at all of a lab. What moves meanwhile is seen in two states: look again.

    `schedulers`: how many there must be; as many as the lab has, unless a story took some away.
    """
    tables = tables_of(lab)
    names = {row["name"]: row["id"] for row in tables["hosts"]}
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(lambda host: _real_host(lab, host), lab.spec.host_names))
    return Sight(
        tables,
        hosts=[*hosts, *_simulated_hosts(lab, names)],
        processes=qemus(lab),
        keys=_etcd_keys(lab),
        schedulers=lab.spec.schedulers if schedulers is None else schedulers,
    )


def findings(
    lab: Lab,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    schedulers: int | None = None,
) -> list[Finding]:
    """Look at all of a lab, and judge."""
    return check(look(lab, schedulers=schedulers), rules)


def problems(lab: Lab) -> list[str]:
    """Compare database, hosts, hypervisors, processes and etcd; say all that does not fit."""
    return [str(finding) for finding in findings(lab)]


def wait_clean(
    lab: Lab,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    schedulers: int | None = None,
    deadline_s: float = 90.0,
) -> Sight:
    """Return what was seen once nothing is at odds; fail with what is at the deadline."""
    end = time.monotonic() + deadline_s
    while found := check(sight := look(lab, schedulers=schedulers), rules):
        told = [str(finding) for finding in found]
        assert time.monotonic() < end, f"after {deadline_s:g} s still at odds: {told}"
        time.sleep(0.5)
    return sight


def wait_settled(
    lab: Lab,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    deadline_s: float = 90.0,
) -> Rows:
    """Return the rows once nothing is at odds; fail with what is at the deadline."""
    return as_rows(wait_clean(lab, rules, deadline_s=deadline_s).tables)


# Hosts.


def _real_host(lab: Lab, host: str) -> HostSight:
    agent = lab.paths.cell(host) / "agent"
    try:
        on = set(lab.virsh(host, "list", "--uuid").split())
        known = set(lab.virsh(host, "list", "--all", "--uuid").split())
    except LabError as error:
        return HostSight(host, unseen=str(error))
    return HostSight(
        host,
        ledger=ledger_of(agent / "ledger"),
        tombstones=_records(agent / "ledger" / "tombstones", lambda record: record),
        folders=_folders(agent / "machines"),
        domains={unit: unit in on for unit in on | known},
        half_made=half_made(agent),
        corrupt=_names(agent / "ledger" / "corrupt"),
    )


def ledger_of(folder: Path) -> Mapping[str, Held]:
    """Read the entries of a ledger: what they hold of each machine."""
    return _records(folder / "machines", lambda record: record["spec"])


def half_made(folder: Path) -> list[str]:
    """Return the files that a crash left half-made below an agent's folder."""
    return sorted(str(path) for end in ("part", "tmp") for path in folder.rglob(f"*.{end}"))


def _records(folder: Path, part: Any) -> dict[str, Held]:
    found = {}
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError):  # gone since it was listed
            record = json.loads(path.read_text())
            values = part(record.get("body", record))
            found[path.stem] = Held(values["generation"], values["run_epoch"])
    return found


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _names(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*"))


def _simulated_hosts(lab: Lab, ids: Mapping[str, str]) -> Sequence[HostSight]:
    if not lab.spec.simulated:
        return []
    return simulated_hosts(lab.paths.cell(FLEET) / "agent", lab.agent_socket(FLEET), ids)


def simulated_hosts(state: Path, socket: Path, ids: Mapping[str, str]) -> Sequence[HostSight]:
    """Read the ledgers of simulated hosts, and ask their agent what it holds of machines.

    `ids`: of the hosts, by name.
    """
    folders = {p.name: p for p in (state / "hosts").iterdir()}
    with open_channel(socket) as channel:
        stub = machine_service_pb2_grpc.MachineServiceStub(channel)
        return [
            _simulated_host(stub, name, ids.get(name, ""), folder)
            for name, folder in sorted(folders.items())
        ]


def _simulated_host(
    stub: machine_service_pb2_grpc.MachineServiceStub, name: str, host_id: str, folder: Path
) -> HostSight:
    request = machine_service_pb2.ListMachinesRequest(host_id=host_id)
    try:
        answer = stub.ListMachines(request, timeout=_ASK_S)
    except grpc.RpcError as error:
        return HostSight(name, unseen=str(error.code()))
    states = machine_pb2.Machine.State
    return HostSight(
        name,
        ledger=ledger_of(folder / "ledger"),
        tombstones=_records(folder / "ledger" / "tombstones", lambda record: record),
        reported={
            machine.instance_id: Held(
                machine.generation,
                machine.run_epoch,
                states.Name(machine.state).removeprefix("STATE_"),
            )
            for machine in answer.machines
        },
        half_made=half_made(folder),
        corrupt=_names(folder / "ledger" / "corrupt"),
    )


# etcd.


def leader_of(lab: Lab) -> str:
    """Return the name of the scheduler that etcd says leads; empty while none does."""
    leader = _etcd_keys(lab).get("/unkai/v1/leader")
    return str(leader["name"]) if leader else ""


def _etcd_keys(lab: Lab) -> dict[str, Any]:
    access = etcdctl_command(lab.spec, lab.paths)
    # A client's certificate may read no more than this.
    asked = [*access, "get", "--prefix", "/unkai/v1/", "--write-out=json"]
    done = lab.run(CONTROL, asked, check=False)
    if done.returncode:
        return {f"(etcd: {done.stderr.strip()})": None}
    pairs = json.loads(done.stdout).get("kvs", [])
    return {_text(pair["key"]): json.loads(_text(pair["value"])) for pair in pairs}


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()

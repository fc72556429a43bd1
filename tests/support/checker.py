"""An independent checker: what was seen of a whole cloud, judged by rules of its own.

It knows nothing of the product's audit, services or reconcilers, and does not look itself: it is
given a `Sight`, made by those who look (`evidence.py` for a lab, `cloud_sight.py` for a cloud in
one process). Each kind of thing that must not be is a `Kind`, and a test plants each, so that the
checker cannot be blind. No finding means: nothing is doubled, leaked, oversold or left half-done.

The trap: a cloud at work is never without findings. Ask again until it is (`wait_settled`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.findings import Finding, Kind
from tests.support.raw_rows import Row
from tests.support.sights import Held, HostSight, Rules, Sight, uuid_of

_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
KEYS = "/unkai/v1/"


@dataclass(frozen=True, slots=True)
class _Cloud:
    """A sight, sorted for asking."""

    sight: Sight
    rules: Rules
    instances: Mapping[str, Row]
    hosts: Mapping[str, Row]
    claims: Mapping[str, Row]
    names: Mapping[str, str]
    """Host ids by name."""

    def claimed_by(self, host_id: str) -> set[str]:
        return {i for i, claim in self.claims.items() if claim["host_id"] == host_id}


_USUAL = Rules()


def check(sight: Sight, rules: Rules = _USUAL) -> list[Finding]:
    """Return all that must not be."""
    tables = sight.tables
    hosts = {row["id"]: row for row in tables["hosts"]}
    cloud = _Cloud(
        sight,
        rules,
        instances={row["id"]: row for row in tables["instances"]},
        hosts=hosts,
        claims={row["instance_id"]: row for row in tables["claims"]},
        names={row["name"]: ident for ident, row in hosts.items()},
    )
    judges = (
        _operations,
        _instances,
        _claims,
        _capacity,
        _hosts,
        _twins,
        _processes,
        _history,
        _rows,
        _requests,
        _tombstones,
        _keys,
    )
    return [finding for judge in judges for finding in judge(cloud)]


# The database alone.


def _operations(cloud: _Cloud) -> Iterator[Finding]:
    for row in cloud.sight.tables["operations"]:
        what = f"{row['verb']} {row['resource_id']}: {row['state']}, {row['progress_message']}"
        if (row["end_time"] is None) == (row["state"].upper() in _ENDED):
            yield Finding(Kind.OPERATION_HALF_ENDED, row["id"], what)
        elif row["end_time"] is None:
            yield Finding(Kind.OPERATION_UNDER_WAY, row["id"], what)


def _instances(cloud: _Cloud) -> Iterator[Finding]:
    for ident, row in cloud.instances.items():
        state, power = row["state"].upper(), row["desired_power"].upper()
        claimed = ident in cloud.claims
        failed_create = state == "FAILED" and not row["has_run"]
        if state not in cloud.rules.lasting:
            yield Finding(Kind.INSTANCE_UNSETTLED, ident, state)
        if failed_create and claimed:
            yield Finding(Kind.FAILED_HOLDS, ident, f"host {cloud.claims[ident]['host_id']}")
        if state in cloud.rules.lasting and not failed_create and not claimed:
            yield Finding(Kind.INSTANCE_WITHOUT_CLAIM, ident, state)
        if (state, power) in {("RUNNING", "OFF"), ("STOPPED", "ON")}:
            yield Finding(Kind.POWER_AT_ODDS, ident, f"{state}, shall be {power}")
    if cloud.rules.history:
        yield from _lives(cloud)


def _lives(cloud: _Cloud) -> Iterator[Finding]:
    """Compare what operations made and deleted with what is there."""
    done: defaultdict[str, set[str]] = defaultdict(set)
    for row in cloud.sight.tables["operations"]:
        if row["resource_kind"] == "instance" and row["state"].upper() == "SUCCEEDED":
            done[row["verb"].upper()].add(row["resource_id"])
    for ident in sorted(done["CREATE"] - done["DELETE"] - cloud.instances.keys()):
        yield Finding(Kind.INSTANCE_GONE, ident)
    for ident in sorted(done["DELETE"] & cloud.instances.keys()):
        yield Finding(Kind.INSTANCE_RISEN, ident)


def _claims(cloud: _Cloud) -> Iterator[Finding]:
    for ident, claim in cloud.claims.items():
        if claim["host_id"] not in cloud.hosts:
            yield Finding(Kind.CLAIM_ON_NO_HOST, ident, claim["host_id"])
        row = cloud.instances.get(ident)
        if row is None:
            yield Finding(Kind.CLAIM_WITHOUT_INSTANCE, ident, claim["host_id"])
            continue
        for figure in ("vcpus", "memory_bytes", "disk_bytes", "run_epoch"):
            if claim[figure] != row[figure]:
                text = f"{figure} {claim[figure]}, instance's {row[figure]}"
                yield Finding(Kind.CLAIM_AT_ODDS, ident, text)


def _capacity(cloud: _Cloud) -> Iterator[Finding]:
    rules = cloud.rules
    for host_id, host in cloud.hosts.items():
        claims = [c for c in cloud.claims.values() if c["host_id"] == host_id]
        for figure, most in (
            ("vcpus", host["cpus"] * rules.vcpus_ratio),
            ("memory_bytes", host["memory_bytes"] * rules.memory_ratio),
            ("disk_bytes", host["disk_bytes"] * rules.disk_ratio),
        ):
            claimed = sum(claim[figure] for claim in claims)
            if claimed > most:
                text = f"{figure} {claimed} of {most:g}"
                yield Finding(Kind.HOST_OVERSOLD, host["name"], text)


def _history(cloud: _Cloud) -> Iterator[Finding]:
    extent = cloud.sight.tables["history"][0]
    numbers = []
    for row in cloud.sight.tables["events"]:
        if row["number"] is None:
            text = f"{row['type']} of {row['resource_id']}"
            yield Finding(Kind.EVENT_UNSTAMPED, row["id"], text)
        else:
            numbers.append(row["number"])
    wanted = Counter(range(extent["pruned_number"] + 1, extent["newest_number"] + 1))
    found = Counter(numbers)
    if found != wanted:
        missing, stray = sorted(wanted - found)[:5], sorted(found - wanted)[:5]
        yield Finding(Kind.EVENT_NUMBERS, "events", f"missing {missing}, stray {stray}")


def _rows(cloud: _Cloud) -> Iterator[Finding]:
    tables = cloud.sight.tables
    projects = {row["id"] for row in tables["projects"]}
    groups = {row["id"]: row["project_id"] for row in tables["placement_groups"]}
    active = {row["id"]: row for row in tables["operations"] if row["end_time"] is None}
    labels: defaultdict[str, dict[str, str]] = defaultdict(dict)
    pairs: defaultdict[str, set[str]] = defaultdict(set)
    for row in tables["instance_labels"]:
        labels[row["instance_id"]][row["name"]] = row["value"]
    for row in tables["instance_key_pairs"]:
        pairs[row["instance_id"]].add(row["key_pair_id"])
    for ident in sorted((labels.keys() | pairs.keys()) - cloud.instances.keys()):
        yield Finding(Kind.ROW_DANGLING, ident, "labels or key pairs of no instance")
    for ident, row in cloud.instances.items():
        if labels.get(ident, {}) != row["labels"]:
            yield Finding(Kind.ROW_DANGLING, ident, "its labels differ from those to select by")
        if pairs.get(ident, set()) != set(row["key_pair_ids"]):
            yield Finding(Kind.ROW_DANGLING, ident, "its key pairs differ from those to find by")
        group = row["placement_group_id"]
        if group and groups.get(group) != row["project_id"]:
            yield Finding(Kind.ROW_DANGLING, ident, f"placement group {group} is not")
        if row["project_id"] not in projects:
            yield Finding(Kind.ROW_DANGLING, ident, f"project {row['project_id']} is not")
        operation = active.get(row["operation_id"])
        if row["operation_id"] and (operation is None or operation["resource_id"] != ident):
            yield Finding(Kind.ROW_DANGLING, ident, f"names operation {row['operation_id']}")


def _requests(cloud: _Cloud) -> Iterator[Finding]:
    tables = cloud.sight.tables
    known = {row["id"] for row in tables["operations"]}
    asked = Counter(
        (row["request_id"], row["verb"], row["resource_kind"])
        for row in tables["operations"]
        if row["request_id"]
    )
    for (request_id, verb, _), times in asked.items():
        if times > 1:
            yield Finding(Kind.REQUEST_TWICE, request_id, f"{times} operations {verb}")
    for row in tables["requests"]:
        operation = row["answer"].get("operation") if isinstance(row["answer"], dict) else None
        if isinstance(operation, dict) and operation.get("id") not in known:
            yield Finding(Kind.REQUEST_UNKEPT, row["request_id"], str(operation.get("id")))


def _tombstones(cloud: _Cloud) -> Iterator[Finding]:
    stones = [
        (row["instance_id"], row["host_id"], row["generation"], row["run_epoch"], "database")
        for row in cloud.sight.tables["tombstones"]
    ]
    for seen in cloud.sight.hosts:
        host_id = cloud.names.get(seen.name, seen.name)
        stones += [
            (ident, host_id, stone.generation, stone.run_epoch, seen.name)
            for ident, stone in seen.tombstones.items()
        ]
    for ident, host_id, generation, run_epoch, where in stones:
        row, claim = cloud.instances.get(ident), cloud.claims.get(ident)
        if generation < 1 or run_epoch < 1:
            yield Finding(Kind.TOMBSTONE_AT_ODDS, ident, f"{where}: {generation}/{run_epoch}")
        elif row is not None and claim is not None and claim["host_id"] == host_id:
            covers = generation >= row["generation"] and run_epoch >= row["run_epoch"]
            if covers:
                text = f"{where}: covers generation {row['generation']}, claimed there"
                yield Finding(Kind.TOMBSTONE_AT_ODDS, ident, text)


# Hosts.


def _hosts(cloud: _Cloud) -> Iterator[Finding]:
    for row in cloud.hosts.values():
        if row["state"].upper() != "UP":
            yield Finding(Kind.HOST_NOT_UP, row["name"], row["state"])
    seen = {sight.name for sight in cloud.sight.hosts}
    for host_id, row in cloud.hosts.items():
        if row["name"] not in seen and cloud.claimed_by(host_id):
            yield Finding(Kind.HOST_UNSEEN, row["name"])
    for sight in cloud.sight.hosts:
        if sight.unseen:
            yield Finding(Kind.HOST_UNSEEN, sight.name, sight.unseen)
        else:
            yield from _host(cloud, sight)


def _host(cloud: _Cloud, sight: HostSight) -> Iterator[Finding]:
    claimed = cloud.claimed_by(cloud.names.get(sight.name, ""))
    yield from (Finding(Kind.HALF_MADE_FILE, sight.name, path) for path in sight.half_made)
    yield from (Finding(Kind.LEDGER_CORRUPT, sight.name, path) for path in sight.corrupt)
    for witness, held in _witnesses(sight):
        for ident in sorted(claimed - held):
            yield Finding(Kind.CLAIM_WITHOUT_MACHINE, ident, f"{sight.name}: no {witness}")
        for ident in sorted(held - claimed):
            kind = (
                Kind.MACHINE_UNCLAIMED
                if ident in cloud.instances
                else Kind.MACHINE_WITHOUT_INSTANCE
            )
            yield Finding(kind, ident, f"{sight.name}: {witness}")
    if sight.domains is not None:
        yield from _domains(cloud, sight, sight.domains, claimed)
    for witness, machines in (("ledger", sight.ledger), ("agent", sight.reported)):
        for ident, machine in (machines or {}).items():
            yield from _machine(cloud, ident, machine, f"{sight.name}: {witness}")
    for ident in sorted((sight.ledger or {}).keys() & sight.tombstones.keys()):
        yield Finding(Kind.MACHINE_AND_TOMBSTONE, ident, sight.name)


def _witnesses(sight: HostSight) -> Iterator[tuple[str, set[str]]]:
    for witness, held in (
        ("ledger entry", sight.ledger),
        ("machine reported", sight.reported),
        ("folder", sight.folders),
    ):
        if held is not None:
            yield witness, set(held)


def _domains(
    cloud: _Cloud, sight: HostSight, domains: Mapping[str, bool], claimed: set[str]
) -> Iterator[Finding]:
    known = {uuid_of(ident): ident for ident in cloud.instances}
    wanted = {uuid_of(ident): ident for ident in claimed}
    for unit in sorted(wanted.keys() - domains.keys()):
        yield Finding(Kind.CLAIM_WITHOUT_MACHINE, wanted[unit], f"{sight.name}: no domain")
    for unit in sorted(domains.keys() - wanted.keys()):
        kind = Kind.MACHINE_UNCLAIMED if unit in known else Kind.MACHINE_WITHOUT_INSTANCE
        yield Finding(kind, known.get(unit, unit), f"{sight.name}: domain")
    for unit in sorted(wanted.keys() & domains.keys()):
        row = cloud.instances.get(wanted[unit])
        state = row["state"].upper() if row else ""
        if state in {"RUNNING", "STOPPED"} and domains[unit] != (state == "RUNNING"):
            text = f"{sight.name}: domain is {'on' if domains[unit] else 'off'}, row {state}"
            yield Finding(Kind.MACHINE_AT_ODDS, wanted[unit], text)


def _machine(cloud: _Cloud, ident: str, machine: Held, where: str) -> Iterator[Finding]:
    row = cloud.instances.get(ident)
    if row is None or row["state"].upper() not in cloud.rules.lasting:
        return
    for figure, given in (("generation", machine.generation), ("run_epoch", machine.run_epoch)):
        if given != row[figure]:
            text = f"{where} {figure} {given}, row {row[figure]}"
            yield Finding(Kind.MACHINE_AT_ODDS, ident, text)
    if machine.state and machine.state != row["state"].upper():
        yield Finding(Kind.MACHINE_AT_ODDS, ident, f"{where} {machine.state}, row {row['state']}")


def _twins(cloud: _Cloud) -> Iterator[Finding]:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for sight in cloud.sight.hosts:
        for _, held in _witnesses(sight):
            for ident in held:
                places[uuid_of(ident)].add(sight.name)
        for unit in sight.domains or {}:
            places[unit].add(sight.name)
    for unit, names in sorted(places.items()):
        if len(names) > 1:
            yield Finding(Kind.MACHINE_TWICE, unit, ", ".join(sorted(names)))


def _processes(cloud: _Cloud) -> Iterator[Finding]:
    if cloud.sight.processes is None:
        return
    pids: defaultdict[str, list[int]] = defaultdict(list)
    for unit, pid in cloud.sight.processes:
        pids[unit].append(pid)
    # Where no hypervisor was looked at, a machine needs no process: the host is simulated.
    real = {cloud.names.get(s.name, "") for s in cloud.sight.hosts if s.domains is not None}
    wanted = {
        uuid_of(ident)
        for ident, row in cloud.instances.items()
        if row["state"].upper() == "RUNNING"
        and ident in cloud.claims
        and cloud.claims[ident]["host_id"] in real
    }
    for unit, found in sorted(pids.items()):
        if len(found) > 1:
            yield Finding(Kind.QEMU_TWICE, unit, str(sorted(found)))
        if unit not in wanted:
            yield Finding(Kind.QEMU_WITHOUT_INSTANCE, unit, str(sorted(found)))
    for unit in sorted(wanted - pids.keys()):
        yield Finding(Kind.QEMU_MISSING, unit)


# etcd.


def _keys(cloud: _Cloud) -> Iterator[Finding]:
    keys = cloud.sight.keys
    if keys is None:
        return
    schedulers = set()
    for key in sorted(keys):
        kind, _, name = key.removeprefix(KEYS).partition("/")
        if kind == "schedulers" and name and key.startswith(KEYS):
            schedulers.add(name)
        elif kind == "hosts" and name in cloud.hosts and key.startswith(KEYS):
            pass
        elif key != f"{KEYS}leader":
            yield Finding(Kind.KEY_OF_NOBODY, key)
    for host_id, host in cloud.hosts.items():
        if host["state"].upper() == "UP" and f"{KEYS}hosts/{host_id}" not in keys:
            yield Finding(Kind.KEY_MISSING, host["name"], "the host is UP")
    yield from _leader(keys.get(f"{KEYS}leader"), schedulers, cloud.sight.schedulers)


def _leader(record: Any, schedulers: set[str], wanted: int | None) -> Iterator[Finding]:
    name = record.get("name") if isinstance(record, dict) else None
    if name not in schedulers:
        yield Finding(Kind.KEY_MISSING, "leader", f"{name} of {sorted(schedulers)}")
    if wanted is not None and len(schedulers) != wanted:
        kind = Kind.KEY_OF_NOBODY if len(schedulers) > wanted else Kind.KEY_MISSING
        yield Finding(kind, "schedulers", f"{sorted(schedulers)}, there are {wanted}")

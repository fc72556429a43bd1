"""Instances in the database, each joined with the host that its claim names.

`host_id` and `host_name` come from the claim and are never written here. User data is large, never
changes and is read by `user_data` alone: rows carry b"". Labels and key pairs are kept twice, in
the row for reading and in tables of their own for selecting; key pairs never change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import insert as sql_insert
from sqlalchemy import update as sql_update

from unkai_scheduler.domain.decisions import Decision
from unkai_scheduler.domain.instances import (
    Instance,
    InstanceSpec,
    InstanceState,
    PlacementPolicy,
    Power,
    Seed,
)
from unkai_scheduler.store import decisions, rows
from unkai_scheduler.store.failures import unique
from unkai_scheduler.store.tables import (
    claims,
    hosts,
    instance_key_pairs,
    instance_labels,
    instances,
)
from unkai_wire.errors import AlreadyExists, NotFound

_KIND = "instance"
_LARGE = ("user_data", "decision")
_QUERY = select(
    *(column for column in instances.c if column.name not in _LARGE),
    func.coalesce(claims.c.host_id, "").label("host_id"),
    func.coalesce(hosts.c.name, "").label("host_name"),
).select_from(
    instances.outerjoin(claims, claims.c.instance_id == instances.c.id).outerjoin(
        hosts, hosts.c.id == claims.c.host_id
    )
)
_SPEC_COLUMNS = (
    "name",
    "image_id",
    "vcpus",
    "memory_bytes",
    "disk_bytes",
    "flavor_id",
    "labels",
    "priority",
)


def insert(conn: Connection, row: Instance) -> None:
    """Insert an instance; raise `AlreadyExists` when its name is taken in the project."""
    insert_many(conn, [row])


def insert_many(conn: Connection, made: Sequence[Instance]) -> None:
    """Insert instances of one project; raise `AlreadyExists` with a name that is taken in it."""
    _check_names(conn, made)
    values = [_values(row) | {"user_data": row.spec.user_data, "decision": ""} for row in made]
    first, last = made[0].spec.name, made[-1].spec.name
    with unique(_KIND, first if first == last else f"{first} to {last}"):
        conn.execute(sql_insert(instances), values)
    labels = [label for row in made for label in _label_values(row)]
    if labels:
        conn.execute(sql_insert(instance_labels), labels)
    pairs = [
        {"instance_id": row.id, "key_pair_id": i} for row in made for i in row.spec.key_pair_ids
    ]
    if pairs:
        conn.execute(sql_insert(instance_key_pairs), pairs)


def _check_names(conn: Connection, made: Sequence[Instance]) -> None:
    """Raise when a name of several is taken: the database's refusal would not say which."""
    if len(made) == 1:
        return
    of_project = instances.c.project_id == made[0].project_id
    for some in rows.portions(row.spec.name for row in made):
        query = select(instances.c.name).where(of_project, instances.c.name.in_(some))
        taken = set(conn.execute(query).scalars())
        for row in made:
            if row.spec.name in taken:
                raise AlreadyExists.of(_KIND, row.spec.name)


def get(conn: Connection, ident: str) -> Instance | None:
    """Return an instance by id."""
    return _optional(rows.get_row(conn, _QUERY, instances, ident))


def list_some(conn: Connection, idents: Iterable[str]) -> list[Instance]:
    """Return those instances of these ids that there are, in a few statements."""
    found: list[Instance] = []
    for some in rows.portions(idents):
        found += [_instance(row) for row in conn.execute(_QUERY.where(instances.c.id.in_(some)))]
    return found


def locked(conn: Connection, ident: str) -> Instance | None:
    """Return an instance that nobody else changes or refers to until the transaction ends."""
    rows.lock(conn, instances, ident)
    return get(conn, ident)


def lock(conn: Connection, *idents: str) -> None:
    """Keep others from changing these instances until the transaction ends; read them after."""
    rows.lock(conn, instances, *idents)


def find(conn: Connection, project_id: str, name: str) -> Instance | None:
    """Return a project's instance by name."""
    return _optional(rows.find_row(conn, _QUERY, instances, name, project_id))


def list_page(
    conn: Connection,
    *,
    after: Sequence[str] | None,
    limit: int,
    project_id: str | None = None,
    name: str | None = None,
    id_prefix: str | None = None,
    host_id: str | None = None,
    states: Collection[InstanceState] | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[Instance]:
    """Return a page in the order of (name, id).

    `labels`: all of them; an empty value matches any value.
    """
    where = rows.matches(
        project_id=(instances.c.project_id, project_id),
        name=(instances.c.name, name),
        host_id=(claims.c.host_id, host_id),
    )
    if id_prefix is not None:
        where.append(instances.c.id.startswith(id_prefix, autoescape=True))
    if states:
        where.append(instances.c.state.in_(sorted({state.value for state in states})))
    where += [_has_label(key, value) for key, value in sorted((labels or {}).items())]
    page = rows.page_by_name(conn, _QUERY, instances, after=after, limit=limit, where=where)
    return [_instance(row) for row in page]


def replace(conn: Connection, row: Instance, *, etag: str | None) -> None:
    """Write all changeable columns, if the stored etag is `etag` (None: whatever it is)."""
    values = _values(row)
    del values["key_pair_ids"]
    rows.replace_row(conn, instances, _KIND, values, etag)
    conn.execute(sql_delete(instance_labels).where(instance_labels.c.instance_id == row.id))
    labels = _label_values(row)
    if labels:
        conn.execute(sql_insert(instance_labels), labels)


def delete(conn: Connection, ident: str) -> None:
    """Delete an instance with its claim and decision; its operations and events stay."""
    rows.delete_row(conn, instances, ident)


def user_data(conn: Connection, ident: str) -> bytes:
    """Return an instance's user data; raise `NotFound` when there is no such instance."""
    return bytes(_scalar(conn, instances.c.user_data, ident))


def due(conn: Connection, now: datetime, limit: int) -> list[Instance]:
    """Return instances whose `due_time` has come: the highest priority first, then the oldest."""
    query = (
        _QUERY.where(instances.c.due_time <= now)
        .order_by(instances.c.priority.desc(), instances.c.due_time, instances.c.id)
        .limit(limit)
    )
    return [_instance(row) for row in conn.execute(query)]


def waiting_of_gang(conn: Connection, gang_id: str) -> list[Instance]:
    """Return those of a gang that are still to get a host, in the order of their ids."""
    query = _QUERY.where(
        instances.c.gang_id == gang_id,
        instances.c.state == InstanceState.PROVISIONING.value,
        claims.c.host_id.is_(None),
    )
    return [_instance(row) for row in conn.execute(query.order_by(instances.c.id))]


def due_after(conn: Connection, moment: datetime, limit: int) -> list[str]:
    """Return the ids of instances that are not due before a moment, the furthest first."""
    query = (
        select(instances.c.id)
        .where(instances.c.due_time > moment)
        .order_by(instances.c.due_time.desc(), instances.c.id)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def all_claimed(conn: Connection) -> list[Instance]:
    """Return all instances that some host holds, in the order of their ids."""
    query = _QUERY.where(claims.c.host_id.is_not(None)).order_by(instances.c.id)
    return [_instance(row) for row in conn.execute(query)]


def claimed_of(conn: Connection, host_ids: Iterable[str]) -> list[Instance]:
    """Return all instances that these hosts hold, in the order of their ids."""
    found: list[Instance] = []
    for some in rows.portions(host_ids):
        found += [_instance(row) for row in conn.execute(_QUERY.where(claims.c.host_id.in_(some)))]
    return sorted(found, key=lambda row: row.id)


def count_by_state(conn: Connection) -> list[tuple[str, InstanceState, int]]:
    """Return how many instances each project has in each state that some are in."""
    columns = (instances.c.project_id, instances.c.state)
    query = select(*columns, func.count()).group_by(*columns)
    return [(project, InstanceState(state), count) for project, state, count in conn.execute(query)]


def count_by_image(conn: Connection, image_id: str) -> int:
    """Return how many instances began from an image."""
    return _count(conn, instances.c.image_id == image_id)


def count_by_project(conn: Connection, project_id: str) -> int:
    """Return how many instances a project has."""
    return _count(conn, instances.c.project_id == project_id)


def count_by_flavor(conn: Connection, flavor_id: str) -> int:
    """Return how many instances name a flavor."""
    return _count(conn, instances.c.flavor_id == flavor_id)


def count_by_aggregate(conn: Connection, aggregate_id: str) -> int:
    """Return how many instances ask for an aggregate."""
    return _count(conn, instances.c.aggregate_id == aggregate_id)


def count_by_key_pair(conn: Connection, key_pair_id: str) -> int:
    """Return how many instances name a key pair."""
    named = instance_key_pairs.c.key_pair_id == key_pair_id
    return conn.execute(select(func.count()).where(named)).scalar_one()


def save_decision(conn: Connection, decision: Decision) -> None:
    """Keep the last decision about an instance, cut to its bound; raise `NotFound`."""
    statement = sql_update(instances).where(instances.c.id == decision.instance_id)
    if not conn.execute(statement.values(decision=decisions.encode(decision))).rowcount:
        raise NotFound.of(_KIND, decision.instance_id)


def decision(conn: Connection, ident: str) -> Decision | None:
    """Return the last decision about an instance; None before the first. Raises `NotFound`."""
    text = _scalar(conn, instances.c.decision, ident)
    return decisions.decode(text) if text else None


def _scalar(conn: Connection, column: ColumnElement[Any], ident: str) -> Any:
    row = conn.execute(select(column).where(instances.c.id == ident)).one_or_none()
    if row is None:
        raise NotFound.of(_KIND, ident)
    return row[0]


def _count(conn: Connection, condition: ColumnElement[bool]) -> int:
    return conn.execute(select(func.count()).select_from(instances).where(condition)).scalar_one()


def _has_label(key: str, value: str) -> ColumnElement[bool]:
    query = select(instance_labels.c.instance_id).where(
        instance_labels.c.instance_id == instances.c.id, instance_labels.c.name == key
    )
    if value:
        # The length too: to MariaDB a text with spaces at its end is the same as without.
        length = func.char_length(instance_labels.c.value)
        query = query.where(instance_labels.c.value == value, length == len(value))
    return query.exists()


def _label_values(row: Instance) -> list[dict[str, str]]:
    return [
        {"instance_id": row.id, "name": key, "value": value}
        for key, value in sorted(row.spec.labels.items())
    ]


def _values(row: Instance) -> dict[str, Any]:
    spec = row.spec
    return {
        "id": row.id,
        "project_id": row.project_id,
        "name": spec.name,
        "image_id": spec.image_id,
        "flavor_id": spec.flavor_id,
        "vcpus": spec.vcpus,
        "memory_bytes": spec.memory_bytes,
        "disk_bytes": spec.disk_bytes,
        "key_pair_ids": list(spec.key_pair_ids),
        "required_traits": list(spec.required_traits),
        "preferred_traits": list(spec.preferred_traits) or None,
        "forbidden_traits": list(spec.forbidden_traits) or None,
        "zone": spec.zone or None,
        "aggregate_id": spec.aggregate_id or None,
        "placement_policy": spec.placement_policy and spec.placement_policy.value,
        "labels": dict(spec.labels),
        "seed": None if spec.seed is Seed.DISK else spec.seed.value,
        "priority": spec.priority,
        "gang_id": row.gang_id or None,
        "placement_group_id": spec.placement_group_id or None,
        "state": row.state.value,
        "state_reason": None if row.state_reason is None else dict(row.state_reason),
        "desired_power": row.desired_power.value,
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "run_epoch": row.run_epoch,
        "has_run": row.has_run,
        "delete_requested": row.delete_requested,
        "reboot_serial": row.reboot_serial,
        "reboot_force": row.reboot_force,
        "stop_grace_s": row.stop_grace_s,
        "accelerator": row.accelerator,
        "start_time": row.start_time,
        "operation_id": row.operation_id,
        "due_time": row.due_time,
        "attempt": row.attempt,
        "etag": row.etag,
        "create_time": row.create_time,
        "update_time": row.update_time,
    }


def _instance(row: rows.AnyRow) -> Instance:
    values = dict(row._mapping)
    policy = values.pop("placement_policy")
    values["spec"] = InstanceSpec(
        **{name: values.pop(name) for name in _SPEC_COLUMNS},
        key_pair_ids=tuple(values.pop("key_pair_ids")),
        required_traits=tuple(values.pop("required_traits")),
        preferred_traits=tuple(values.pop("preferred_traits") or ()),
        forbidden_traits=tuple(values.pop("forbidden_traits") or ()),
        zone=values.pop("zone") or "",
        aggregate_id=values.pop("aggregate_id") or "",
        placement_group_id=values.pop("placement_group_id") or "",
        placement_policy=policy and PlacementPolicy(policy),
        seed=Seed(values.pop("seed") or Seed.DISK.value),
    )
    values["state"] = InstanceState(values["state"])
    values["desired_power"] = Power(values["desired_power"])
    values["gang_id"] = values["gang_id"] or ""
    return Instance(**values)


def _optional(row: rows.AnyRow | None) -> Instance | None:
    return None if row is None else _instance(row)

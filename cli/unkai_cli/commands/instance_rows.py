"""An instance as it is read and shown: the columns of lists, and those of one alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unkai_cli.output import Column, Record, age_text, bytes_text

if TYPE_CHECKING:
    from unkai_cli.session import Session


def addresses(row: Record) -> list[str]:
    """Return the addresses of an instance's record, in the order of its interfaces."""
    return [fixed["address"] for one in row["interfaces"] for fixed in one["fixed_addresses"]]


COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("HOST", lambda r: r["host_name"]),
    Column("ADDRESSES", lambda r: ",".join(addresses(r))),
    Column("VCPUS", lambda r: str(r["vcpus"]), right=True),
    Column("MEMORY", lambda r: bytes_text(r["memory_bytes"]), right=True),
    Column("DISK", lambda r: bytes_text(r["disk_bytes"]), right=True),
    Column("AGE", lambda r: age_text(r["create_time"]), right=True),
    Column("ID", lambda r: r["id"]),
    Column("IMAGE", lambda r: r["image_id"], wide=True),
    Column("ACCEL", lambda r: r["effective_accelerator"], wide=True),
    Column("GENERATION", lambda r: str(r["generation"]), wide=True, right=True),
    Column("PRIORITY", lambda r: str(r["priority"]), wide=True, right=True),
    Column("LABELS", lambda r: ",".join(f"{k}={v}" for k, v in r["labels"].items()), wide=True),
)
DETAILS = (
    *COLUMNS,
    Column("PROJECT", lambda r: r["project_id"]),
    Column("FLAVOR", lambda r: r["flavor_id"]),
    Column("PORTS", lambda r: ", ".join(one["port_id"] for one in r["interfaces"])),
    Column("MACS", lambda r: ", ".join(one["mac_address"] for one in r["interfaces"])),
    Column("SEED", lambda r: r["seed"].lower()),
    Column("GROUP", lambda r: r["placement_group_id"]),
    Column("KEYS", lambda r: ", ".join(r["key_pair_ids"])),
    Column("ZONE", lambda r: r["zone"]),
    Column("AGGREGATE", lambda r: r["aggregate_id"]),
    Column("TRAITS", lambda r: ", ".join(r["required_traits"])),
    Column("PREFERRED TRAITS", lambda r: ", ".join(r["preferred_traits"])),
    Column("FORBIDDEN TRAITS", lambda r: ", ".join(r["forbidden_traits"])),
    Column("POLICY", lambda r: r["placement_policy"].replace("UNSPECIFIED", "").lower()),
    Column("REASON", lambda r: (r["state_reason"] or {}).get("message", "")),
    Column("CREATED", lambda r: r["create_time"]),
    Column("STARTED", lambda r: r["start_time"]),
    Column("ETAG", lambda r: r["etag"]),
)


def read(session: Session, ident: str) -> Any:
    """Return the message of the instance with this id."""
    return session.client.call("InstanceService", "GetInstance", instance_id=ident).instance

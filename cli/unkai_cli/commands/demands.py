"""What a new instance demands of its host: options of `launch` and what-ifs, as fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unkai_cli.client import Client

POLICIES = {"pack": 1, "spread": 2}


def check_size(asked: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless it is said how large it is."""
    if not asked["flavor"] and not (asked["vcpus"] and asked["memory"]):
        raise click.UsageError("say --flavor F, or both -c VCPUS and -m MEMORY")


def fields(client: Client, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an instance that these options say: its size, and where it may go."""

    def named(kind: str, option: str) -> str:
        return client.resolve(kind, asked[option]) if asked[option] else ""

    return {
        "flavor_id": named("flavor", "flavor"),
        "vcpus": asked["vcpus"] or 0,
        "memory_bytes": asked["memory"] or 0,
        "disk_bytes": asked["disk"] or 0,
        "required_traits": asked["traits"],
        "preferred_traits": asked["preferred"],
        "forbidden_traits": asked["forbidden"],
        "zone": asked["zone"] or "",
        "aggregate_id": named("aggregate", "aggregate"),
        "placement_group_id": named("placement_group", "group"),
        "placement_policy": POLICIES.get(asked["policy"] or "", 0),
    }
